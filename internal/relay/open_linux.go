package relay

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
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
	sockets  socket.Options // of b

	// Of Serve.
	replied   bool          // another request is to come, and has not begun
	later     bool          // it is not the first
	askWithin time.Duration // it has so long, once it has begun

	// Of Forward.
	hello        []byte
	answerWithin time.Duration
	answerBy     time.Time // when b has to have answered; zero while it was not told all

	secure func(raw io.ReadWriter) *tls.Conn // the TLS of the end that asks, or answers; nil without
	shook  bool                              // its handshake is complete
	lost   error                             // the end is, but may have said why
	lined  bool                              // it is in loop.shaking

	index   int // in loop.opening
	stage   stage
	until   time.Time // when the stage has to be over
	read    []byte    // what was taken from a, and would have to be given back
	said    bool      // b was sent something
	unsaid  []byte    // what it is still to be sent
	partial []byte    // of b's answer
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

// connect begins to connect b.
func (p *pair) connect(to netip.AddrPort, talk socket.Talk) bool {
	return p.has(p.opening.sockets.Connect(to, talk))
}

// take makes b of a connection of Go's.
func (p *pair) take(c net.Conn) bool {
	tcp, secure := overTLS(c)
	if tcp == nil {
		_ = c.Close()
		p.fail(fmt.Errorf("take %T to an event loop: %w", c, errors.ErrUnsupported))
		return false
	}
	defer tcp.Close() // the duplicate lives on
	if !p.has(socket.Descriptor(tcp)) {
		return false
	}
	if secure != nil {
		p.ends[B].wrap(secure)
	}
	return true
}

// has gives p its descriptor of b, if there is one.
func (p *pair) has(fd int, err error) bool {
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

// newPair returns a pair that has its end A.
func (l *loop) newPair(a Conn, s Opening, live *Counters) *pair {
	p := &pair{done: s, live: live, opening: l.newOpening()}
	*p.opening = opening{Opening: s, a: a}
	p.loop.Store(l)
	p.ends[A] = end{pair: p, fd: a.raw.fd, side: A}
	p.ends[B] = end{pair: p, fd: -1, side: B}
	p.opening.index = len(l.opening)
	l.opening = append(l.opening, p)
	l.polling.session(afterBegin)
	return p
}

// unlist takes p out of those that are being opened.
func (l *loop) unlist(p *pair) {
	if p.opening.replied {
		l.resting--
	}
	last := l.opening[len(l.opening)-1]
	l.opening[p.opening.index], last.opening.index = last, p.opening.index
	l.opening[len(l.opening)-1] = nil
	l.opening = l.opening[:len(l.opening)-1]
}

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

// opened takes an event of a pair that is being opened.
func (p *pair) opened(e *end, events uint32) {
	var err error
	if events&(unix.EPOLLERR|unix.EPOLLHUP) != 0 {
		if n, serr := unix.GetsockoptInt(e.fd, unix.SOL_SOCKET, unix.SO_ERROR); serr == nil && n != 0 {
			err = os.NewSyscallError(p.opening.stage.call(), unix.Errno(n))
		}
	}
	switch {
	case err != nil && p.shaking(e) && e.hasSaid():
		p.opening.lost = err
		p.lineUp(e)
	case err != nil && e.side == B && !p.opening.answerBy.IsZero():
		p.lastWords(err)
	case err != nil && e.side == B && p.opening.asker != nil && wasConnected(err):
		p.lostEnd(e, errors.Unwrap(err)) // it may have said something
		p.connected()
	case err != nil:
		p.lostEarly(e, err)
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
		if !p.over && p.opening != nil && p.opening.stage == answering && e.readable {
			p.hear() // it has spoken already
		}
	default:
		p.hear()
	}
	if !p.over && p.opening != nil {
		p.watch()
	}
}

// wasConnected tells whether a connection was lost after it had been made: until
// then a reset is a refusal.
func wasConnected(err error) bool {
	return errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE)
}

// hasSaid tells whether there is something to read of an end that is lost: the
// alert of a peer that does not trust this one comes with a reset.
func (e *end) hasSaid() bool {
	n, _ := socket.PeekAt(e.fd, e.pair.on().buf[:1]) // its error is known
	return n > 0
}

// lostEarly ends the opening of a session that has lost an end.
func (p *pair) lostEarly(e *end, err error) {
	if e.side == B {
		p.fail(err)
		return
	}
	p.lostEnd(e, err)
	p.abort()
}

// shaking tells whether e is to complete a handshake first.
func (p *pair) shaking(e *end) bool {
	return p.opening.secure != nil && !p.opening.shook && (e.side == A) == (p.opening.asker != nil)
}

// shaken goes on with an end whose handshake is complete.
func (p *pair) shaken(e *end) {
	if lost := p.opening.lost; lost != nil {
		p.lostEarly(e, lost)
		return
	}
	if e.side == A {
		p.ask()
		return
	}
	if p.sayHello(); !p.over {
		p.hear() // it may have spoken behind the handshake
	}
}

// call names what an end does in the stage, for errors.
func (s stage) call() string {
	if s == connecting {
		return "connect"
	}
	return "read"
}

// stand begins the session. What there is of its opening is another's from here
// on.
func (p *pair) stand() {
	l, o := p.on(), p.opening
	l.young = append(l.young, young{p, l.now, o.sockets})
	l.unlist(p)
	p.opening, *o = nil, opening{}
	if len(l.spare) < maxSpare {
		l.spare = append(l.spare, o)
	}
	l.standing.Add(1)
}

// maxSpare is how many openings a loop keeps for the next: each is a third of a
// KiB that need not be collected.
const maxSpare = 64

func (l *loop) newOpening() *opening {
	last := len(l.spare) - 1
	if last < 0 {
		return new(opening)
	}
	o := l.spare[last]
	l.spare = l.spare[:last]
	return o
}

// fail gives a back: there will be no session.
func (p *pair) fail(err error) {
	l, o := p.on(), p.opening
	p.over = true
	p.giveUpShaking()
	f := Failure{Err: err, Read: o.read, Said: o.said}
	if s := p.ends[A].secure; s != nil && o.shook {
		switch err := s.uncork(); {
		case err != nil:
			f.Err = err // a has gone: nobody waits for the rest
		case len(s.queue) == 0:
			o.a.raw.secure, f.TLS = s, s.conn
		}
	}
	l.unlist(p)
	delete(l.losing, p) // it may be there when a registration has failed
	l.leave(&p.ends[A])
	if b := &p.ends[B]; b.fd >= 0 {
		f.Acked = socket.AckedAt(b.fd)
		l.leave(b)
		socket.Close(b.fd)
	}
	o.Failed(o.a, f)
}

// late ends openings whose time is over.
func (l *loop) late() {
	for _, p := range slices.Backward(l.opening) { // one that fails leaves its place to the last
		switch o := p.opening; {
		case !l.now.After(o.until):
		case o.replied:
			p.fail(ErrNotAsked)
		default:
			p.fail(fmt.Errorf("%s: %w", o.stage.call(), os.ErrDeadlineExceeded))
		}
	}
}
