package relay

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ohrouter/oh-router/internal/socket"
)

// sleeper waits for a loop's events as goroutines wait for their connections:
// Go's poller has them waited for, and its scheduler gets the processor. A thread
// that waits in epoll_wait(2) itself keeps that processor for ten milliseconds, in
// which the runtime looks after it some 50 times: a request now and then costs
// five times as much so.
//
// What Go's poller watches is an epoll descriptor in front of the loop's, which is
// armed for a sleep only: else each event of a busy loop would wake a thread there.
type sleeper struct {
	epoll, gate int
	file        *os.File // has gate
	conn        syscall.RawConn
	timed       bool // it has a deadline
}

func newSleeper(epoll int) (*sleeper, error) {
	gate, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create epoll: %w", err)
	}
	_ = unix.SetNonblock(gate, true) // has os know that it can be polled
	s := &sleeper{epoll: epoll, gate: gate, file: os.NewFile(uintptr(gate), "epoll")}
	s.conn, err = s.file.SyscallConn()
	err = errors.Join(err, socket.Watch(gate, unix.EPOLL_CTL_ADD, epoll, 0, 0), s.file.SetReadDeadline(time.Time{}))
	if err != nil {
		s.close()
		return nil, fmt.Errorf("watch epoll: %w", err)
	}
	return s, nil
}

func (s *sleeper) close() { _ = s.file.Close() } // takes gate with it

// sleep waits for events for a time, in ms, or without end when it is negative.
func (s *sleeper) sleep(events []unix.EpollEvent, timeout int) (n int, err error) {
	if err := s.wakeAfter(timeout); err != nil {
		return 0, err
	}
	if err := s.arm(unix.EPOLLIN); err != nil {
		return 0, err
	}
	rerr := s.conn.Read(func(uintptr) bool {
		n, err = socket.Happened(s.epoll, events, 0)
		return n != 0
	})
	if errors.Is(rerr, os.ErrDeadlineExceeded) {
		rerr = nil
	}
	if err := errors.Join(rerr, s.arm(0)); err != nil {
		return 0, err
	}
	// This thread has waited for everybody who sleeps, and may now be busy for
	// long: Gosched has another one wait. Without it other loops were seen to wake
	// a millisecond late.
	runtime.Gosched()
	return n, err
}

// wakeAfter sets or clears the time after which a sleep is over.
func (s *sleeper) wakeAfter(ms int) error {
	switch {
	case ms >= 0:
		s.timed = true
		return s.file.SetReadDeadline(time.Now().Add(time.Duration(ms) * time.Millisecond))
	case s.timed:
		s.timed = false
		return s.file.SetReadDeadline(time.Time{})
	}
	return nil
}

func (s *sleeper) arm(events uint32) error {
	return socket.Watch(s.gate, unix.EPOLL_CTL_MOD, s.epoll, events, 0)
}
