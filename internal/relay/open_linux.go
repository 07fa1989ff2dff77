package relay

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ohrouter/oh-router/internal/socket"
)

// opening is what a pair has while its session is opened. Its end B comes when
// it is known where that leads.
type opening struct {
	Opening
	a        Conn           // as it was given, to be given back
	asker    Asker          // of Serve, else nil
	answerer Answerer       // of Forward, else nil
	hello    []byte         // of Forward
	sockets  socket.Options // of b

	secure func(raw io.ReadWriter) *tls.Conn // the TLS of the end that asks, or answers; nil without
	shook  bool                              // its handshake is complete
	lined  bool                              // it is in loop.shaking

	index    int // in loop.opening
	stage    stage
	until    time.Time     // when the stage has to be over
	within   time.Duration // how long the next one may take
	answerBy time.Time     // when b has to have answered; zero while it was not told all
	read     []byte        // what was taken from a, and would have to be given back
	said     bool          // b was sent something
	unsaid   []byte        // what it is still to be sent
	partial  []byte        // of b's answer
}

// stage is what an opening waits for.
type stage int

const (
	asking     stage = iota // a's request
	connecting              // b
	answering               // b's answer
)

// What is read of an end before its session stands.
const (
	maxRequest = 16 << 10
	maxEarly   = 4 << 10 // what goes into one segment with the hello, or a few
)

// Forward connects a to another side, with TLS if so called, says hello there
// and waits for the answer. Then it carries bytes between the two, until one of them has ended,
// as [Engine.Start] does; those of live include what went right behind the
// hello. It is to be called from where a was accepted.
func (c Conn) Forward(call Call, s Answerer, live *Counters) *Session {
	l := c.raw.loop
	p := l.newPair(c, s, live, call.AnswerWithin)
	o := p.opening
	o.answerer, o.hello, o.sockets, o.secure = s, call.Hello, call.Sockets, call.Secure
	o.stage, o.until = connecting, l.now.Add(call.ConnectWithin)
	switch {
	case !p.connect(call.To, socket.Here):
	case o.secure == nil:
		p.sayHello()
		p.watch()
	default:
		if p.watch(); !p.over {
			p.shakeHands(&p.ends[B]) // it has nothing to read yet
		}
	}
	return p.session()
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

// connect begins to connect b.
func (p *pair) connect(to netip.AddrPort, talk socket.Talk) bool {
	fd, err := p.opening.sockets.Connect(to, talk)
	if err == nil && fd >= len(p.on().ends) {
		socket.Close(fd)
		err = os.NewSyscallError("socket", unix.EMFILE) // there is no place for it
	}
	if err != nil {
		p.fail(err)
		return false
	}
	p.ends[B].fd = fd
	return true
}

// Serve reads what a asks for, connects it to that, and carries bytes between
// the two as [Engine.Start] does. It is to be called from where a was accepted.
func (c Conn) Serve(terms Terms, s Asker, live *Counters) *Session {
	l := c.raw.loop
	p := l.newPair(c, s, live, terms.ConnectWithin)
	o := p.opening
	o.asker, o.sockets, o.secure, o.until = s, terms.Sockets, terms.Secure, l.now.Add(terms.AskWithin)
	if o.secure == nil { // else it costs more than a look, and who sends nothing is to cost nothing
		p.ask()
	}
	if !p.over {
		p.watch()
	}
	return p.session()
}

// newPair returns a pair that has its end A.
func (l *loop) newPair(a Conn, s Opening, live *Counters, within time.Duration) *pair {
	p := &pair{done: s, opening: &opening{Opening: s, a: a, within: within}}
	p.handle.raw = rawSession{p}
	p.loop.Store(l)
	p.ends[A] = end{pair: p, fd: a.raw.fd, side: A, moved: &live.AB}
	p.ends[B] = end{pair: p, fd: -1, side: B, moved: &live.BA}
	p.opening.index = len(l.opening)
	l.opening = append(l.opening, p)
	return p
}

// unlist takes p out of those that are being opened.
func (l *loop) unlist(p *pair) {
	last := l.opening[len(l.opening)-1]
	l.opening[p.opening.index], last.opening.index = last, p.opening.index
	l.opening[len(l.opening)-1] = nil
	l.opening = l.opening[:len(l.opening)-1]
}

func (p *pair) session() *Session { return &p.handle }

// watch registers the ends that are not registered yet. Writing to an end that
// connects is of interest.
func (p *pair) watch() {
	for i := range p.ends {
		e := &p.ends[i]
		if p.over || e.fd < 0 || e.watched {
			continue
		}
		e.outEvent = e.side == B && p.opening.stage == connecting
		if err := p.on().enter(e); err != nil {
			p.fail(err)
		}
	}
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

// opened takes an event of a pair that is being opened.
func (p *pair) opened(e *end, events uint32) {
	var err error
	if events&(unix.EPOLLERR|unix.EPOLLHUP) != 0 {
		if n, serr := unix.GetsockoptInt(e.fd, unix.SOL_SOCKET, unix.SO_ERROR); serr == nil && n != 0 {
			err = os.NewSyscallError(p.opening.stage.call(), unix.Errno(n))
		}
	}
	switch {
	case err != nil && e.side == A:
		p.lostEnd(e, err)
		p.abort()
	case err != nil && p.opening.stage == answering:
		p.lastWords(err)
	case err != nil:
		p.fail(err)
	case p.shaking(e):
		p.lineUp(e)
	case p.opening.stage == asking:
		p.ask()
	case e.side == A:
		p.sayMore()
	case p.opening.stage == connecting && p.opening.asker != nil:
		p.connected()
	case p.opening.stage == connecting:
		p.say(p.opening.unsaid)
		if !p.over && p.opening.stage == answering && e.readable {
			p.hear() // it has spoken already
		}
	default:
		p.hear()
	}
	if !p.over && p.opening != nil {
		p.watch()
	}
}

// shaking tells whether e is to complete a handshake first.
func (p *pair) shaking(e *end) bool {
	return p.opening.secure != nil && !p.opening.shook && (e.side == A) == (p.opening.asker != nil)
}

// shaken goes on with an end whose handshake is complete.
func (p *pair) shaken(e *end) {
	if e.side == A {
		p.ask()
		return
	}
	if p.sayHello(); !p.over {
		p.hear() // it may have spoken behind the handshake
	}
}

// lastWords takes what b has said before it was lost: an answer may be among
// it.
func (p *pair) lastWords(err error) {
	p.hear()
	switch {
	case p.over:
	case p.opening != nil:
		p.fail(err)
	default:
		p.lostEnd(&p.ends[B], err)
		p.pump()
	}
}

// call names what an end does in the stage, for errors.
func (s stage) call() string {
	if s == connecting {
		return "connect"
	}
	return "read"
}

// ask reads a's request and leaves it there: a that is given back has all of
// it.
func (p *pair) ask() {
	l, o := p.on(), p.opening
	if o.secure != nil {
		p.askSecurely()
		return
	}
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
	length, to, err := o.asker.Asked(l.buf[:n])
	switch {
	case err != nil:
		p.fail(err)
	case length <= n:
		p.ends[A].skip = length
		p.reach(to, l.buf[length:n])
	case n == maxRequest || p.ends[A].last:
		p.fail(io.ErrUnexpectedEOF)
	}
}

// askSecurely takes a's request out of its TLS, and no more: crypto/tls has what
// is behind it.
func (p *pair) askSecurely() {
	o, e := p.opening, &p.ends[A]
	for {
		length, to, err := o.asker.Asked(o.read)
		have := len(o.read)
		switch {
		case err != nil:
			p.fail(err)
			return
		case length <= have:
			p.reach(to, nil)
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

// reach begins to connect b. What a has said behind its request goes there at
// once if it can: near by, a connect is done when it returns.
func (p *pair) reach(to netip.AddrPort, early []byte) {
	o := p.opening
	o.stage, o.until = connecting, p.on().now.Add(o.within)
	talk := socket.Either
	if len(early) > 0 {
		talk = socket.Here
	}
	if !p.connect(to, talk) {
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
		p.ends[A].skip += n
		p.ends[A].moved.Add(uint64(n))
		o.stage = answering
		if p.watch(); !p.over {
			p.connected()
		}
	case !errors.Is(err, unix.EAGAIN): // the write has taken the connect's error
		p.fail(os.NewSyscallError("connect", err))
	}
}

// connected begins the session of a request. The answer waits a moment for b's
// first bytes.
func (p *pair) connected() {
	l := p.on()
	p.ends[B].greeting = p.opening.asker.Connected()
	p.ends[A].readable = true // what was said behind the request
	p.stand()
	l.greeting = append(l.greeting, young{pair: p, since: l.now})
	p.pump()
}

// say sends b what it is to hear first, as far as it goes.
func (p *pair) say(b []byte) {
	o := p.opening
	if s := p.ends[B].secure; s != nil {
		o.said = true
		if err := s.write(b); err != nil {
			p.fail(err)
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
			p.fail(os.NewSyscallError("write", err))
			return
		}
	}
	o.unsaid, o.stage = nil, answering
	if o.answerBy.IsZero() { // what a says later gives no more time
		o.answerBy = p.on().now.Add(o.within)
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
			p.ends[A].moved.Add(uint64(len(o.read)))
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

// stand begins the session.
func (p *pair) stand() {
	l := p.on()
	l.young = append(l.young, young{p, l.now, p.opening.sockets})
	l.unlist(p)
	p.opening = nil
	l.standing.Add(1)
}

// fail gives a back: there will be no session.
func (p *pair) fail(err error) {
	l, o := p.on(), p.opening
	p.over = true
	p.giveUpShaking()
	f := Failure{Err: err, Read: o.read, Said: o.said}
	if s := p.ends[A].secure; s != nil && o.shook {
		if err := s.uncork(); err == nil && len(s.queue) == 0 {
			o.a.raw.secure, f.TLS = s, s.conn
		}
	}
	l.unlist(p)
	l.leave(&p.ends[A])
	if b := &p.ends[B]; b.fd >= 0 {
		l.leave(b)
		socket.Close(b.fd)
	}
	o.Failed(o.a, f)
}

// late ends openings whose time is over.
func (l *loop) late() {
	for i := len(l.opening) - 1; i >= 0; i-- { // the one that fails is taken out
		if p := l.opening[i]; l.now.After(p.opening.until) {
			p.fail(fmt.Errorf("%s: %w", p.opening.stage.call(), os.ErrDeadlineExceeded))
		}
	}
}
