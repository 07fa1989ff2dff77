//go:build !linux

package socket

import (
	"errors"
	"net"
	"syscall"
)

const inherits = false

func (o Options) prepare(_, _ string, _ syscall.RawConn) error {
	if o.Congestion != "" {
		return CheckCongestion(o.Congestion)
	}
	return nil
}

func (o Options) prepareListener(network, address string, c syscall.RawConn) error {
	return o.prepare(network, address, c)
}

func (o Options) settle(c *net.TCPConn) error { return c.SetLinger(0) }

func setBacklog(*net.TCPListener, int) error { return errors.ErrUnsupported }

// CheckCongestion tells why this process may not use a congestion control: on
// this system it may use none but the system's.
func CheckCongestion(string) error {
	return errors.New("the congestion control can be chosen on Linux only")
}

// Info is what the kernel knows of a connection.
type Info struct {
	Established bool // neither side has closed or reset
	Closed      bool // over: reset, timed out, or closed by both sides
	Unsent      int  // bytes that the peer's kernel has not acknowledged
}

// Stat returns what the kernel knows of c; ok is false when it does not tell.
func Stat(*net.TCPConn) (info Info, ok bool) { return Info{}, false }

// Acked cannot tell on this system and returns 0.
func Acked(*net.TCPConn) uint64 { return 0 }

// TakeError returns and clears the error that is pending on c, if any.
func TakeError(*net.TCPConn) error { return nil }

// WaitUntil is not possible on this system and returns an error at once.
func WaitUntil(*net.TCPConn, func() bool) error { return errors.ErrUnsupported }

// Pending cannot tell on this system and returns false.
func Pending(*net.TCPConn) bool { return false }

func limit() (n int, ok bool) { return 0, false }

// Ended cannot tell on this system and returns false.
func Ended(*net.TCPConn) bool { return false }

// Peek cannot look on this system and returns 0.
func Peek(*net.TCPConn, []byte) int { return 0 }
