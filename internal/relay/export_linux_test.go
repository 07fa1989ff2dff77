package relay

import "crypto/tls"

// Held is how many bytes the buffers of c take, if they were found.
func Held(c *tls.Conn) (n int, ok bool) {
	h := heldBy(c)
	if h.raw == nil {
		return 0, false
	}
	return h.raw.Cap() + int(h.plain.Size()) + h.handshake.Cap(), true
}
