package socket

import (
	"errors"
	"math"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// inherits tells that accepted connections have the options of their listener,
// and that options may be set before connecting: one place, no system calls
// per accepted connection.
const inherits = true

// prepare makes the socket under c, which is to be connected, one of the data
// path.
func (o Options) prepare(_, _ string, c syscall.RawConn) error {
	return set(c, reset, noDelay, InlineUrgent, o.setCongestion)
}

// prepareListener does the same for one that is to listen.
func (o Options) prepareListener(_, _ string, c syscall.RawConn) error {
	return set(c, reset, noDelay, InlineUrgent, o.setCongestion, o.Settle)
}

// settle does what is left to do for a connection that was prepared: before, a
// TCP_USER_TIMEOUT would bound how long connecting may take.
func (o Options) settle(c *net.TCPConn) error {
	rc, err := c.SyscallConn()
	if err != nil {
		return err
	}
	return set(rc, o.Settle)
}

func set(c syscall.RawConn, options ...func(fd int) error) error {
	var errs []error
	err := c.Control(func(fd uintptr) {
		for _, o := range options {
			errs = append(errs, o(int(fd)))
		}
	})
	return errors.Join(append(errs, err)...)
}

// setBacklog listens once more: the kernel takes the new backlog.
func setBacklog(ln *net.TCPListener, n int) error {
	rc, err := ln.SyscallConn()
	if err != nil {
		return err
	}
	cerr := rc.Control(func(fd uintptr) { err = os.NewSyscallError("listen", unix.Listen(int(fd), n)) })
	return errors.Join(cerr, err)
}

// States of tcpi_state (linux/tcp_states.h).
const (
	stateEstablished = 1
	StateClose       = 7 // over: reset, timed out, or closed by both sides
)

// Info is what the kernel knows of a connection.
type Info struct {
	Established bool // neither side has closed or reset
	Closed      bool // over: reset, timed out, or closed by both sides
	Unsent      int  // bytes that the peer's kernel has not acknowledged
}

// Stat returns what the kernel knows of c; ok is false when it does not tell.
func Stat(c *net.TCPConn) (info Info, ok bool) {
	rc, err := c.SyscallConn()
	if err != nil {
		return Info{}, false
	}
	err = rc.Control(func(fd uintptr) {
		ti, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil {
			return
		}
		info = Info{Established: ti.State == stateEstablished, Closed: ti.State == StateClose}
		if !info.Closed {
			info.Unsent, err = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ)
		}
		ok = err == nil
	})
	return info, ok && err == nil
}

// Acked returns how many bytes c's peer has acknowledged, ever; 0 when that is
// not known. It may be asked after the connection was reset.
func Acked(c *net.TCPConn) (n uint64) {
	rc, err := c.SyscallConn()
	if err != nil {
		return 0
	}
	_ = rc.Control(func(fd uintptr) { n = AckedAt(int(fd)) }) // fails only on a closed connection
	return n
}

// TakeError returns and clears the error that is pending on c, if any
// (SO_ERROR).
func TakeError(c *net.TCPConn) error {
	rc, err := c.SyscallConn()
	if err != nil {
		return nil
	}
	var pending error
	_ = rc.Control(func(fd uintptr) { // fails only on a closed connection
		if n, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR); err == nil && n != 0 {
			pending = syscall.Errno(n)
		}
	})
	return pending
}

// WaitUntil blocks until done returns true, asking it again each time that
// something happens to c on its receiving side: data, a FIN, a reset. It
// returns early, with an error, at c's read deadline and when c is closed.
func WaitUntil(c *net.TCPConn, done func() bool) error {
	rc, err := c.SyscallConn()
	if err != nil {
		return err
	}
	return rc.Read(func(uintptr) bool { return done() })
}

// Pending tells whether c has something to read: data, an end or an error. It
// does not block, and leaves what there is.
func Pending(c *net.TCPConn) bool {
	_, err := peek(c, make([]byte, 1))
	return !errors.Is(err, unix.EAGAIN)
}

// Ended tells whether the next that c has to read is its end: a FIN or an
// error. It does not block, and leaves what there is.
func Ended(c *net.TCPConn) bool {
	n, err := peek(c, make([]byte, 1))
	return n <= 0 && !errors.Is(err, unix.EAGAIN)
}

// Peek copies what c has received into b and returns how much, 0 if there is
// nothing. It does not block, and leaves what there is.
func Peek(c *net.TCPConn, b []byte) int {
	n, _ := peek(c, b) // an end or an error stays to be read
	return max(n, 0)
}

func peek(c *net.TCPConn, b []byte) (n int, err error) {
	rc, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	cerr := rc.Control(func(fd uintptr) {
		n, _, err = unix.Recvfrom(int(fd), b, unix.MSG_PEEK|unix.MSG_DONTWAIT)
	})
	return n, errors.Join(cerr, err)
}

func limit() (n int, ok bool) {
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err != nil || r.Cur > math.MaxInt32 {
		return 0, false
	}
	return int(r.Cur), true
}
