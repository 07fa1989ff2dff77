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
	rw     atomic.Pointer[io.ReadWriter]
	unread []byte // comes before what else there is to read
}

// NewTransport returns c for tls.Client or tls.Server to run over. It may be
// nil until [Transport.GiveBack], if something else takes over before.
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

// GiveBack has c do all reads and writes from here on.
func (t *Transport) GiveBack(c *net.TCPConn) {
	t.TCPConn = c
	t.TakeOver(nil)
}

// Unread leaves b, which has been read already, to the next reads.
func (t *Transport) Unread(b []byte) { t.unread = b }

// Buffered tells whether there are bytes that were left by Unread.
func (t *Transport) Buffered() bool { return len(t.unread) > 0 }

// Read implements net.Conn.
func (t *Transport) Read(b []byte) (int, error) {
	if len(t.unread) > 0 {
		n := copy(b, t.unread)
		if t.unread = t.unread[n:]; len(t.unread) == 0 {
			t.unread = nil
		}
		return n, nil
	}
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
