package relay_test

import (
	"errors"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// sendUrgent sends b; its last byte is urgent.
func sendUrgent(c *net.TCPConn, b []byte) error {
	rc, err := c.SyscallConn()
	if err != nil {
		return err
	}
	for len(b) > 0 && err == nil {
		werr := rc.Write(func(fd uintptr) bool {
			var n int
			n, err = unix.SendmsgN(int(fd), b, nil, nil, unix.MSG_OOB)
			b = b[max(n, 0):]
			if errors.Is(err, syscall.EAGAIN) {
				err = nil
				return false
			}
			return true
		})
		err = errors.Join(err, werr)
	}
	return err
}
