package relay

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"iter"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"github.com/ohrouter/oh-router/internal/socket"
)

// handshake is that of an end's TLS. crypto/tls does it in one go, and so it is
// a coroutine: it runs on the loop's goroutine, as a call of it, until it has
// nothing to read, and goes on when there is something.
type handshake struct {
	secure *secure
	resume func() (waits struct{}, more bool)
	stop   func()
	wait   func(struct{}) bool // false: it is given up
	in     []byte              // read from the socket, and not by crypto/tls yet; the loop's memory
	err    error               // how it ended
}

// shakeHands begins a handshake of e, or goes on with it. It tells whether it is
// complete; when it has failed the opening has, too. What was written last
// waits for more.
func (p *pair) shakeHands(e *end) (complete bool) {
	if e.secure == nil {
		e.secure = newSecure(e, p.opening.secure)
	}
	s := e.secure
	h := s.shake
	s.dry, s.corked, e.readable = !e.readable, true, false
	if _, more := h.resume(); more {
		if err := s.uncork(); err != nil {
			p.fail(err)
		}
		return false
	}
	s.shake = nil
	err := h.err
	if err == nil {
		s.held = heldBy(s.conn)
		s.transport().TakeOver(s)
		s.transport().Unread(bytes.Clone(h.in))
		err = p.opening.Secured(s.conn.ConnectionState())
	}
	if err != nil {
		_ = s.uncork() // an alert, if there is still somebody
		p.opening.shook = h.err == nil
		p.fail(err)
		return false
	}
	p.opening.shook = true
	return true
}

// lineUp has e go on with its handshake when it is its turn, if there is
// something to read.
func (p *pair) lineUp(e *end) {
	if !e.readable || p.opening.lined {
		return
	}
	p.opening.lined = true
	var from netip.Addr // handshakes with b are of our own making: one source
	if e.side == A {
		from = p.opening.a.Remote.Addr()
	}
	p.on().shaking.Push(from, e)
}

// shakeNext goes on with one handshake. Each keeps the processor for as long as
// many other events, so that there is but one in a turn of the loop, and who
// begins a thousand waits for them alone.
func (l *loop) shakeNext() {
	for e, ok := l.shaking.Pop(); ok; e, ok = l.shaking.Pop() {
		p := e.pair
		if p.over {
			continue
		}
		p.opening.lined = false
		if p.shakeHands(e) {
			p.shaken(e)
		}
		if !p.over && p.opening != nil {
			p.watch()
		}
		return
	}
}

func newSecure(e *end, secured func(io.ReadWriter) *tls.Conn) *secure {
	s := &secure{end: e}
	h := &handshake{secure: s}
	s.shake = h
	s.conn = secured(s)
	h.resume, h.stop = iter.Pull(func(yield func(struct{}) bool) {
		h.wait = yield
		h.err = s.conn.Handshake()
	})
	return s
}

// read is the Read of crypto/tls during the handshake. It waits.
func (h *handshake) read(b []byte) (int, error) {
	s := h.secure
	for len(h.in) == 0 {
		if s.dry {
			if !h.wait(struct{}{}) {
				return 0, net.ErrClosed
			}
			continue
		}
		buf := s.end.pair.on().buf[:]
		n, err := socket.Read(s.end.fd, buf)
		switch {
		case errors.Is(err, unix.EAGAIN):
			n = 0
		case err != nil:
			return 0, os.NewSyscallError("read", err)
		case n == 0 && s.end.pair.opening.lost != nil:
			return 0, s.end.pair.opening.lost
		case n == 0:
			return 0, io.EOF
		}
		h.in, s.dry = buf[:n], n < len(buf) && !(n > 0 && s.end.last)
	}
	n := copy(b, h.in)
	h.in = h.in[n:]
	return n, nil
}

// giveUpShaking ends the handshakes of a pair that is over.
func (p *pair) giveUpShaking() {
	for i := range p.ends {
		if s := p.ends[i].secure; s != nil && s.shake != nil {
			s.shake.stop()
			s.shake = nil
		}
	}
}
