package relay

import "crypto/tls"

// Descriptors returns those of a session on an event loop. They are the loop's,
// and closed when the session ends.
func Descriptors(s Session) [2]int {
	p, fds := s.(rawSession).pair, make(chan [2]int)
	p.on().order(func() { fds <- [2]int{p.ends[A].fd, p.ends[B].fd} })
	return <-fds
}

// Held is how many bytes the buffers of c take, if they were found.
func Held(c *tls.Conn) (n int, ok bool) {
	h := heldBy(c)
	if h.raw == nil {
		return 0, false
	}
	return h.raw.Cap() + int(h.plain.Size()) + h.handshake.Cap(), true
}
