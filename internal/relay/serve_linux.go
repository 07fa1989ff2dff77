package relay

import (
	"cmp"
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/ohrouter/oh-router/internal/socket"
)

// Serve reads what a asks for, connects it to that, and carries bytes between
// the two as [Engine.Start] does. It is to be called from where a was accepted.
func (c Conn) Serve(terms Terms, s Asker, live *Counters) Served {
	l := c.raw.loop
	p := l.newPair(c, s, live)
	o := p.opening
	o.asker, o.sockets, o.secure, o.until = s, terms.Sockets, terms.Secure, l.now.Add(terms.AskWithin)
	if o.secure == nil { // else it costs more than a look, and who sends nothing is to cost nothing
		p.ask()
	}
	if !p.over {
		p.watch()
	}
	return rawSession{p}
}

// ask reads a's request and leaves it there: a that is given back has all of
// it.
func (p *pair) ask() {
	l, o := p.on(), p.opening
	if o.secure != nil {
		p.askSecurely()
		return
	}
	for {
		n, err := socket.PeekAt(p.ends[A].fd, l.buf[:maxRequest])
		switch {
		case errors.Is(err, unix.EAGAIN):
			return
		case err != nil:
			p.fail(os.NewSyscallError("recvfrom", err))
			return
		case n == 0:
			p.fail(io.EOF)
			return
		}
		p.asks()
		length, way, err := o.asker.Asked(l.buf[:n])
		switch {
		case err != nil:
			p.fail(err)
		case length <= n && way.Reply != nil:
			if p.replyTo(length, way); !p.over {
				continue
			}
		case length <= n:
			p.ends[A].skip = int32(length)
			p.reach(way, l.buf[length:n])
		case n == maxRequest || p.ends[A].last:
			p.fail(io.ErrUnexpectedEOF)
		}
		return
	}
}

// asks notes that a request has begun that was waited for.
func (p *pair) asks() {
	if o, l := p.opening, p.on(); o.replied {
		o.replied, o.until = false, l.now.Add(o.askWithin)
		l.resting--
	}
}

// replies notes that another request is to come, behind the answer to one.
func (p *pair) replies(way Way) {
	o, l := p.opening, p.on()
	o.replied, o.later, o.askWithin, o.until = true, true, way.AskWithin, l.now.Add(way.NextWithin)
	l.resting++
}

// replyTo takes a request that was looked at, and answers it.
func (p *pair) replyTo(length int, way Way) {
	e := &p.ends[A]
	if n, err := socket.Read(e.fd, p.on().buf[:length]); n < length {
		p.lostEarly(e, cmp.Or(os.NewSyscallError("read", err), io.ErrUnexpectedEOF)) // of urgent data, perhaps
		return
	}
	if n, err := socket.Write(e.fd, way.Reply); n < len(way.Reply) {
		p.lostEarly(e, cmp.Or(os.NewSyscallError("write", err), io.ErrShortWrite)) // not even a connection's first bytes
		return
	}
	p.replies(way)
}

// askSecurely takes a's request out of its TLS, and no more: crypto/tls has what
// is behind it.
func (p *pair) askSecurely() {
	o, e := p.opening, &p.ends[A]
	for {
		have := len(o.read)
		if have > 0 {
			p.asks()
		}
		length, way, err := o.asker.Asked(o.read)
		switch {
		case err == nil && length <= have && way.Reply != nil:
			o.read = nil
			if err := e.secure.write(way.Reply); err != nil {
				p.lostEarly(e, err)
				return
			}
			p.replies(way)
			continue
		case err != nil:
			p.fail(err)
			return
		case length <= have:
			p.reach(way, nil)
			return
		case length > maxRequest:
			p.fail(io.ErrUnexpectedEOF)
			return
		}
		o.read = append(o.read, make([]byte, length-have)...)
		n, err := e.secure.read(o.read[have:])
		o.read = o.read[:have+n]
		switch {
		case n > 0: // the error stays
		case !errors.Is(err, errNothingYet):
			p.fail(err)
			return
		default:
			if err := e.secure.uncork(); err != nil {
				p.fail(err)
			}
			return
		}
	}
}

// reach begins to connect b. What a has said behind its first request goes there
// at once if it can: near by, a connect is done when it returns.
func (p *pair) reach(way Way, early []byte) {
	o := p.opening
	o.stage, o.until = connecting, p.on().now.Add(way.ConnectWithin)
	talk := socket.Either
	if o.later {
		early = nil // see connected
	}
	if len(early) > 0 {
		talk = socket.Here
	}
	if !p.connect(way.To, talk) {
		return
	}
	if err := socket.InlineUrgent(p.ends[B].fd); err != nil {
		p.fail(err)
		return
	}
	if len(early) == 0 {
		return
	}
	switch n, err := socket.Write(p.ends[B].fd, early); {
	case n > 0:
		p.ends[A].skip += int32(n)
		p.live.AB.Add(uint64(n))
		o.stage = answering
		if p.watch(); !p.over {
			p.connected()
		}
	case !errors.Is(err, unix.EAGAIN): // the write has taken the connect's error
		p.fail(os.NewSyscallError("connect", err))
	}
}

// connected begins the session of a request. The answer to the first one waits a
// moment for b's first bytes. That to a later one is said before b is told
// anything: by whether it has come, a's peer may know what b cannot have got.
func (p *pair) connected() {
	l, later := p.on(), p.opening.later
	a, b := &p.ends[A], &p.ends[B]
	b.greeting = p.opening.asker.Connected()
	a.readable = true // what was said behind the request
	p.stand()
	if !later {
		l.greeting = append(l.greeting, young{pair: p, since: l.now})
	} else if p.greet(b); a.lost != nil || a.full || b.held > 0 {
		p.abort() // a takes not even the answer
		return
	}
	p.pump()
}
