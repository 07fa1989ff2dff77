package socket

import (
	"io"
	"net"
	"sync/atomic"
	"time"
)

// Transport is a TCP connection for TLS to run over. It is no more than that
// until [Transport.TakeOver].
type Transport struct {
	*net.TCPConn
	rw atomic.Pointer[io.ReadWriter]
}

// NewTransport returns c for tls.Client or tls.Server to run over.
func NewTransport(c *net.TCPConn) *Transport { return &Transport{TCPConn: c} }

// NetConn returns the connection itself.
func (t *Transport) NetConn() net.Conn { return t.TCPConn }

// TakeOver has rw do all reads and writes from here on, and write deadlines no
// effect: crypto/tls sets one to send the end of a stream, which would then be
// lost on a peer that is slow. Nobody may be reading or writing. nil gives them
// back. crypto/tls goes on after a read that fails with a net.Error that is
// Temporary, but not before its handshake is complete.
func (t *Transport) TakeOver(rw io.ReadWriter) {
	if rw == nil {
		t.rw.Store(nil)
		return
	}
	t.rw.Store(&rw)
}

// Read implements net.Conn.
func (t *Transport) Read(b []byte) (int, error) {
	if rw := t.rw.Load(); rw != nil {
		return (*rw).Read(b)
	}
	return t.TCPConn.Read(b)
}

// Write implements net.Conn.
func (t *Transport) Write(b []byte) (int, error) {
	if rw := t.rw.Load(); rw != nil {
		return (*rw).Write(b)
	}
	return t.TCPConn.Write(b)
}

// SetWriteDeadline implements net.Conn.
func (t *Transport) SetWriteDeadline(at time.Time) error {
	if t.rw.Load() != nil {
		return nil
	}
	return t.TCPConn.SetWriteDeadline(at)
}
