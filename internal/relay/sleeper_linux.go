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
// Behind it is also the clock of a sleep that ends. With a deadline of Go's the
// runtime would wake another thread each time, to wait for that. The clock of a
// sleep that an event has ended runs on, and may wake a thread once.
type sleeper struct {
	epoll, gate, clock int
	file               *os.File // has gate
	conn               syscall.RawConn
	until              time.Time // zero: the clock is not set
	alone              bool      // nobody waits for those who sleep since this one woke
}

func newSleeper(epoll int) (*sleeper, error) {
	gate, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create epoll: %w", err)
	}
	clock, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		_ = unix.Close(gate)
		return nil, fmt.Errorf("create timerfd: %w", err)
	}
	_ = unix.SetNonblock(gate, true) // has os know that it can be polled
	s := &sleeper{epoll: epoll, gate: gate, clock: clock, file: os.NewFile(uintptr(gate), "epoll")}
	s.conn, err = s.file.SyscallConn()
	err = errors.Join(err,
		socket.Watch(gate, unix.EPOLL_CTL_ADD, epoll, 0, 0),
		socket.Watch(gate, unix.EPOLL_CTL_ADD, clock, unix.EPOLLIN|unix.EPOLLET, 0),
		s.file.SetReadDeadline(time.Time{})) // fails where it cannot be polled
	if err != nil {
		s.close()
		return nil, fmt.Errorf("watch epoll: %w", err)
	}
	return s, nil
}

func (s *sleeper) close() {
	_ = s.file.Close() // takes gate with it
	_ = unix.Close(s.clock)
}

// sleep waits for events for a time, in ms, or without end when it is negative.
func (s *sleeper) sleep(events []unix.EpollEvent, timeout int) (n int, err error) {
	if err := s.set(timeout); err != nil {
		return 0, err
	}
	if err := s.arm(unix.EPOLLIN); err != nil {
		return 0, err
	}
	slept := false
	rerr := s.conn.Read(func(uintptr) (over bool) {
		n, err = socket.Happened(s.epoll, events, 0)
		over = n != 0 || timeout >= 0 && !time.Now().Before(s.until)
		slept = slept || !over
		return over
	})
	if err := errors.Join(rerr, s.arm(0)); err != nil {
		return 0, err
	}
	if !slept {
		s.stayAwake() // it may go on so for long
	}
	s.alone = slept
	return n, err
}

// stayAwake is to be called before a loop does anything for long, or waits without
// sleep. The thread that has woken it has waited for everybody who sleeps: Gosched
// has another one wait. Without it other loops were seen to wake a millisecond
// late.
func (s *sleeper) stayAwake() {
	if s.alone {
		s.alone = false
		runtime.Gosched()
	}
}

// set sets the clock, or stops it.
func (s *sleeper) set(ms int) error {
	d := time.Duration(ms) * time.Millisecond
	switch {
	case ms >= 0:
		s.until = time.Now().Add(d)
		d = max(d, 1) // 0 would stop it
	case s.until.IsZero():
		return nil
	default:
		s.until, d = time.Time{}, 0
	}
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(d))}
	return os.NewSyscallError("timerfd_settime", unix.TimerfdSettime(s.clock, 0, &spec, nil))
}

func (s *sleeper) arm(events uint32) error {
	return socket.Watch(s.gate, unix.EPOLL_CTL_MOD, s.epoll, events, 0)
}
