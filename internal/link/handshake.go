package link

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/socket"
)

// Handshake is the making of one link. It knows which proxies to ask and what
// to say, and is made by [Dialer.Begin]. [Handshake.Dial] does it all. Whoever
// does the I/O by himself asks Call first, says what that returns, and reports
// what comes of it to Answered or Failed. It is not safe for concurrent use.
type Handshake struct {
	dialer *Dialer
	want   Want
	hello  []byte

	rest  []*proxy // not asked yet, in the order in which they are to be
	link  *Link    // to the one that is being asked; nil before
	said  bool     // it has answered
	warm  bool     // Call has a warm one
	fresh bool     // the next one is to be no warm one, of which one has died

	settings *tls.Config // of TLS for the call; nil without
	resumes  bool        // they are for a session that is resumed
	proved   bool        // they were good

	worst error // of the answers so far, the one that says most
}

// Begin chooses the proxies for a link and asks none yet.
func (d *Dialer) Begin(want Want) *Handshake {
	h := &Handshake{dialer: d, want: want}
	h.rest, h.worst = d.candidates(want)
	if len(h.rest) > 1 { // whom it is known to be in vain to ask comes last
		h.rest = slices.Clone(h.rest)
		slices.SortStableFunc(h.rest, func(a, b *proxy) int { return a.away() - b.away() })
	}
	if h.worst == nil {
		h.hello, h.worst = want.commands()
	}
	return h
}

// Call is what to do for a link that is to be acknowledged at once.
type Call struct {
	To            netip.AddrPort
	Hello         []byte        // to be sent first; payload may follow at once
	ConnectWithin time.Duration // how long connecting may take
	AnswerWithin  time.Duration // how long the answer may take from then on
	Sockets       socket.Options
	Secure        func(raw io.ReadWriter) *tls.Conn // makes TLS of the connection; nil for a plain one
	Over          net.Conn                          // a connection that leads there already, the caller's; nil when there is none
}

// Call begins with the first proxy. It returns false when that takes more than
// a connect and a few frames: Dial can do it. cut is called when the link must
// not go on, see [Dialer.Cut].
func (h *Handshake) Call(cut func()) (c Call, ok bool) {
	if h.worst != nil || h.want.Park {
		return Call{}, false
	}
	p := h.rest[0]
	c = Call{Hello: h.hello, ConnectWithin: Timeout, AnswerWithin: p.patience() + Timeout, Sockets: h.dialer.Sockets}
	if !p.pool.tells() {
		return Call{}, false // payload has to wait for the answer
	}
	if l := p.pool.take(); l != nil {
		h.rest = h.rest[1:]
		h.dialer.wanted(p)
		h.link, h.warm = l, true
		c.Over = l.Take(cut)
		return c, true
	}
	now := time.Now()
	c.To = p.at(now)
	if !c.To.IsValid() || h.dialer.Pool.Max > 0 && p.pool.unknown(now) {
		return Call{}, false
	}
	h.rest = h.rest[1:]
	h.dialer.wanted(p)
	h.link, _ = h.dialer.newLink(p, nil) // fails for what is proved, later
	h.link.begun, h.link.cut = now, cut
	if d := h.dialer; d.TLS != nil {
		h.settings, h.resumes = d.TLS(p.Proxy, p.wasRefused())
		c.Secure = func(raw io.ReadWriter) *tls.Conn {
			return tls.Client(lent(raw, d.MaxHandshake), h.settings)
		}
	}
	return c, true
}

// Secured notes who the proxy has proved to be. It fails when that is not good
// any more.
func (h *Handshake) Secured(peer tls.ConnectionState) error {
	if h.resumes && !peer.DidResume {
		return errNotResumed
	}
	now := time.Now()
	h.link.proxy.pool.tookSetUp(now.Sub(h.link.begun), now)
	h.link.begun = time.Time{} // the set-up itself has asked the proxy
	h.proved = true
	return h.link.prove(&h.dialer.secured, peer)
}

// Answered reads what the proxy has said so far. It returns the length of its
// answer, or 0 while that is not complete; then Link returns the link. An error
// is for Failed.
func (h *Handshake) Answered(b []byte) (n int, err error) {
	var m connectResponse
	n, err = frames.take(b, typeResponse, &m)
	if n == 0 || err != nil {
		return 0, err
	}
	if h.said, err = h.link.answered(m); err != nil {
		return 0, err
	}
	h.link.move(active)
	if h.warm {
		h.link.proxy.pool.used()
	}
	h.link.proxy.answered(ohrouter.ProxyUp)
	return n, nil
}

// Link returns the link when the proxy has answered that there is one.
func (h *Handshake) Link() *Link { return h.link }

// Failed notes that what Call asked for did not come about; gave tells that
// payload was sent behind the hello, acked how many bytes the proxy's kernel has
// taken of the connection, ever, 0 if that is not known. It returns nil when Dial
// may go on, be it with another proxy, else what Dial would return.
func (h *Handshake) Failed(err error, gave bool, acked uint64) error {
	p, said, otherwise := h.link.proxy, h.said, h.otherwise(err)
	err = h.dialer.explain(p, err)
	warm := h.warm
	h.warm, h.fresh = false, warm && h.link.lost(said, gave, acked, err)
	if h.fresh || warm && h.link.silent(acked, err) {
		p.pool.useless(err)
	}
	if h.fresh || otherwise {
		h.link.Close()
		h.link, h.said, h.rest = nil, false, append([]*proxy{p}, h.rest...)
		return nil
	}
	again := h.failed(context.Background(), err, gave)
	if !p.literal && !warm && !said && !gave { // its name may lead elsewhere by now: Dial asks
		p.forget()
		h.rest, again = append([]*proxy{p}, h.rest...), true
	}
	if again {
		return nil
	}
	return h.failure()
}

// otherwise tells whether a handshake of TLS that has failed is to be tried again
// with other settings, which Dial does.
func (h *Handshake) otherwise(err error) bool {
	_, network := errors.AsType[*os.SyscallError](err)
	return h.settings != nil && !h.proved && !network && !isTimeout(err) && h.dialer.differs(h.link.proxy, h.settings)
}

// failed takes note of how the attempt with h.link ended. It tells whether
// another proxy may be asked.
func (h *Handshake) failed(ctx context.Context, err error, gave bool) (again bool) {
	p := h.link.proxy
	h.link.Close()
	switch {
	case !h.said:
		err = p.failed(ctx, err)
	case ohrouter.CodeOf(err) == ohrouter.Draining:
		p.answered(ohrouter.ProxyDraining)
	default:
		p.answered(ohrouter.ProxyUp)
	}
	return h.note(ctx, p, err, gave)
}

// note keeps the failure with p, if it says most. It tells whether another proxy
// may be asked.
func (h *Handshake) note(ctx context.Context, p *proxy, err error, gave bool) (again bool) {
	h.link, h.said = nil, false
	if h.worst == nil || rank(err) > rank(h.worst) {
		h.worst = err
	}
	if gave && ohrouter.CodeOf(err) == ohrouter.ProxyUnreachable {
		return false // the target may have the payload: it must not get it twice
	}
	return len(h.rest) > 0 && ctx.Err() == nil && elsewhere(err, p.Name == h.want.Proxy)
}

// failure returns why there is no link.
func (h *Handshake) failure() error {
	if ohrouter.CodeOf(h.worst) == ohrouter.Draining {
		return &ohrouter.Error{
			Code: ohrouter.NoProxy, Err: h.worst,
			Message: fmt.Sprintf("no proxy takes %v: every one that could is shutting down; try again when it is back", h.want.Target),
		}
	}
	return h.worst
}

// Dial makes the link, with the proxies that were not asked yet. Its error has
// the code that the proxy answered, or [ohrouter.ProxyUnreachable] when the
// handshake could not be completed, or [ohrouter.NoProxy]; it wraps ctx's when
// ctx was cancelled. ctx bounds the handshake, not the link.
func (h *Handshake) Dial(ctx context.Context) (*Link, error) {
	for len(h.rest) > 0 {
		p := h.rest[0]
		h.rest = h.rest[1:]
		l, again := h.dial(ctx, p)
		if l != nil {
			return l, nil
		}
		if !again {
			break
		}
	}
	return nil, h.failure()
}

// dial makes a link to one proxy, or tells whether another one may be asked. A
// warm link that turns out to have died is made good by a fresh one.
func (h *Handshake) dial(ctx context.Context, p *proxy) (l *Link, again bool) {
	want, gave := h.want, false
	early := func() []byte {
		b := h.want.Early()
		gave = len(b) > 0
		return b
	}
	if !h.fresh {
		l = p.pool.take()
	}
	h.fresh = false
	h.dialer.wanted(p)
	for warm := l != nil; ; warm = false {
		if !warm {
			var err error
			if l, err = h.dialer.connect(ctx, p); err != nil {
				return nil, h.note(ctx, p, p.failed(ctx, err), false)
			}
		}
		gave, want.Early = false, nil
		if h.want.Early != nil && (!warm || l.tells()) {
			want.Early = early
		}
		h.link = l
		var err error
		if h.said, err = l.handshake(ctx, h.hello, want); err == nil {
			if warm {
				p.pool.used()
			}
			if want.Early == nil && h.want.Early != nil && !h.want.Park {
				_, _ = l.conn.Write(h.want.Early()) // the session finds out if it fails
			}
			p.answered(ohrouter.ProxyUp)
			return l, false
		}
		err = h.dialer.explain(p, err)
		acked := l.acknowledged()
		warm = warm && ctx.Err() == nil
		again := warm && l.lost(h.said, gave, acked, err)
		if again || warm && l.silent(acked, err) {
			p.pool.useless(err)
		}
		if !again {
			return nil, h.failed(ctx, err, gave)
		}
		l.Close()
	}
}

// elsewhere tells whether another proxy may serve what one did not. What the
// proxy that a binding is bound to says of the target holds: the same name may
// be another machine in another network.
func elsewhere(err error, bound bool) bool {
	if isOwn(err) { // local ports are counted for each proxy by itself
		return true
	}
	switch ohrouter.CodeOf(err) {
	case ohrouter.Draining, ohrouter.ProxyUnreachable:
		return true
	case ohrouter.TargetDenied, ohrouter.TargetUnresolved:
		return !bound
	}
	return false
}

// rank orders failures by how much they say of the target.
func rank(err error) int {
	if isOwn(err) {
		return 1
	}
	switch ohrouter.CodeOf(err) {
	case ohrouter.Draining:
		return 0
	case ohrouter.ProxyUnreachable:
		return 1
	case ohrouter.TargetDenied:
		return 2
	case ohrouter.TargetUnresolved:
		return 3
	}
	return 4
}
