//go:build !linux

package relay_test

import "net"

// sendUrgent sends b: this system's urgent bytes are not tested.
func sendUrgent(c *net.TCPConn, b []byte) error {
	_, err := c.Write(b)
	return err
}
