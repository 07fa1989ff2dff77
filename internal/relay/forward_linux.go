package relay

import (
	"errors"
	"io"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/ohrouter/oh-router/internal/socket"
)

// Forward connects a to another side, with TLS if so called, or takes a connection
// that leads there, says hello and waits for the answer. Then it carries bytes
// between the two, until one of them has ended, as [Engine.Start] does; those of
// live include what went right behind the hello. It is to be called from where a was
// accepted.
func (c Conn) Forward(call Call, s Answerer, live *Counters) Session {
	l := c.raw.loop
	p := l.newPair(c, s, live)
	o := p.opening
	o.answerer, o.hello, o.answerWithin, o.sockets, o.secure = s, call.Hello, call.AnswerWithin, call.Sockets, call.Secure
	o.stage, o.until = connecting, l.now.Add(call.ConnectWithin)
	switch {
	case call.Over != nil:
		if p.take(call.Over) {
			p.watch() // as if it connected: the event of that finds also what TLS has already
		}
		if !p.over {
			p.sayHello()
		}
	case !p.connect(call.To, socket.Here):
	case o.secure == nil:
		p.sayHello()
		p.watch()
	default:
		if p.watch(); !p.over {
			p.shakeHands(&p.ends[B]) // it has nothing to read yet
		}
	}
	return rawSession{p}
}

// sayHello says hello to b, and what a has said already.
func (p *pair) sayHello() {
	l, o := p.on(), p.opening
	n := copy(l.buf[:], o.hello)
	early := p.readEarly(l.buf[n : n+maxEarly])
	if p.over {
		return
	}
	if early > 0 {
		o.read = slices.Clone(l.buf[n : n+early])
	}
	p.say(l.buf[:n+early])
}

// readEarly reads what a has sent already.
func (p *pair) readEarly(buf []byte) int {
	e := &p.ends[A]
	n, err := socket.Read(e.fd, buf)
	if !p.received(e, n, err) {
		if e.lost != nil {
			p.abort()
		}
		return 0
	}
	e.readable = n == len(buf) || e.last
	return n
}

// lastWords takes what b has said before it was lost: an answer may be among
// it, or why.
func (p *pair) lastWords(err error) {
	e := &p.ends[B]
	e.lost = err // also where reading tells less
	p.hear()
	switch {
	case p.over:
	case p.opening != nil:
		p.fail(err)
	default:
		e.lost = nil
		p.lostEnd(e, err)
		p.pump()
	}
}

// say sends b what it is to hear first, as far as it goes.
func (p *pair) say(b []byte) {
	o := p.opening
	if s := p.ends[B].secure; s != nil {
		o.said = true
		if err := s.write(b); err != nil {
			p.lastWords(err)
			return
		}
		b = nil // it is queued
	}
	for len(b) > 0 {
		n, err := socket.Write(p.ends[B].fd, b)
		switch {
		case n > 0:
			o.said = true
			b = b[n:]
		case errors.Is(err, unix.EAGAIN): // it is not connected yet, or very full
			o.unsaid = slices.Clone(b)
			if e := &p.ends[B]; e.watched && !e.outEvent {
				p.blocked(e)
			}
			return
		default:
			p.lastWords(os.NewSyscallError("write", err))
			return
		}
	}
	o.unsaid, o.stage = nil, answering
	if o.answerBy.IsZero() { // what a says later gives no more time
		o.answerBy = p.on().now.Add(o.answerWithin)
	}
	o.until = o.answerBy
}

// sayMore sends b what a has said meanwhile, as far as it can be kept for
// another b: a client that says a little more than it did at once does not wait
// for the answer.
func (p *pair) sayMore() {
	o := p.opening
	room := maxEarly - len(o.read)
	if o.stage != answering || room <= 0 || o.unsaid != nil {
		return
	}
	buf := p.on().buf[:room]
	n := p.readEarly(buf)
	o.read = append(o.read, buf[:n]...)
	if n > 0 {
		o.stage = connecting // as far as b has not got it
		p.say(buf[:n])
	}
}

// hear reads b's answer. What is behind it is payload.
func (p *pair) hear() {
	l, o, e := p.on(), p.opening, &p.ends[B]
	for {
		n, more, err := e.read(l.buf[:])
		switch {
		case errors.Is(err, errNothingYet):
			return
		case err != nil:
			if e.lost != nil && (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)) {
				err = e.lost // says more than that, and an alert of TLS more than it
			}
			p.fail(err)
			return
		}
		b := l.buf[:n]
		if o.partial != nil {
			b = append(o.partial, b...)
		}
		length, err := o.answerer.Answered(b)
		if err != nil {
			p.fail(err)
			return
		}
		if length > 0 {
			e.readable = more
			p.live.AB.Add(uint64(len(o.read)))
			p.stand()
			p.give(e, b[length:])
			p.pump()
			return
		}
		o.partial = slices.Clone(b)
	}
}

// read reads what an end has to say before its session stands, and tells whether
// there may be more of it.
func (e *end) read(b []byte) (n int, more bool, err error) {
	if s := e.secure; s != nil {
		n, err = s.read(b)
		if n > 0 {
			return n, !errors.Is(err, errNothingYet), nil // another error stays
		}
		return 0, false, err
	}
	n, err = socket.Read(e.fd, b)
	switch {
	case errors.Is(err, unix.EAGAIN):
		return 0, false, errNothingYet
	case err != nil:
		return 0, false, os.NewSyscallError("read", err)
	case n == 0:
		return 0, false, io.EOF
	}
	return n, n == len(b) || e.last, nil
}
