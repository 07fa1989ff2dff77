package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/audit"
	"github.com/ohrouter/oh-router/internal/gate"
	"github.com/ohrouter/oh-router/internal/link"
	"github.com/ohrouter/oh-router/internal/policy"
	"github.com/ohrouter/oh-router/internal/relay"
	"github.com/ohrouter/oh-router/internal/socket"
)

// session is a link and what becomes of it. It is the [relay.Asker] of a
// request that an event loop can serve: one to an address, or to a name whose
// address is known, which waits for nothing but a connect. A goroutine serves all
// others.
type session struct {
	proxy  *Proxy
	router netip.AddrPort
	req    *link.Request // nil until the ConnectCommand is read, or the link is warm
	start  time.Time
	dialed time.Duration // how long after start the loop began to connect

	routerName string // for the audit log

	live relay.Counters

	// Proxy.mu guards the rest.
	at      netip.AddrPort        // where req leads, which is there and stays while this is valid
	place   gate.Member[*session] // until it has said what it wants
	why     ohrouter.Outcome      // of being cut, be it before there was anything to cut; "" while nobody has
	opened  bool                  // in the audit log
	warm    bool                  // a loop has told the router that the link is; req is there
	begun   bool                  // its end is waited for by a drain
	onLoop  bool                  // a loop opens it
	carried relay.Session         // who has it: nobody yet, a loop, a goroutine (serving), the relay
}

// way is where a session leads, and by which list that was permitted.
type way struct {
	at    netip.AddrPort
	allow *policy.List
}

// serving has a goroutine's session. Proxy.mu guards it.
type serving struct{ link, target *net.TCPConn } // nil while it is not connected

// Cut resets both.
func (s *serving) Cut() {
	socket.Abort(s.link)
	if s.target != nil {
		socket.Abort(s.target)
	}
}

// accepted begins to serve a link.
func (p *Proxy) accepted(c relay.Conn) {
	s := &session{proxy: p, router: c.Remote, start: time.Now()}
	p.mu.Lock()
	if p.stopped { // Shutdown waits for no more
		p.mu.Unlock()
		c.Abort()
		p.cfg.Descriptors.Release(2)
		return
	}
	p.links[s] = struct{}{}
	p.wg.Add(1) // for end
	s.onLoop = c.OnLoop()
	p.mu.Unlock()
	if !s.onLoop {
		s.take(c, relay.Failure{}, nil)
		return
	}
	carried := c.Serve(relay.Terms{
		AskWithin: p.cfg.HandshakeTimeout, Sockets: p.cfg.Targets, Secure: p.secure,
	}, s, &s.live)
	p.mu.Lock()
	defer p.mu.Unlock()
	if !s.onLoop {
		return // a goroutine has the link, or it has ended
	}
	s.carried = carried
	switch {
	case p.stopped || s.why != "":
		carried.Cut()
	case s.begun:
	case !s.warm:
		p.wait(s)
	case p.draining:
		carried.GiveBack(errElsewhere)
	}
}

// errElsewhere hands a link from its loop to a goroutine.
var errElsewhere = errors.New("not to be served by an event loop")

// Secured notes who the router has proved to be.
func (s *session) Secured(peer tls.ConnectionState) error {
	if len(peer.PeerCertificates) > 0 {
		s.nameRouter(peer.PeerCertificates[0])
	}
	return nil
}

// Asked reads what the router asks for.
func (s *session) Asked(b []byte) (n int, leads relay.Way, err error) {
	p := s.proxy
	req, n, err := p.acceptor.Pipelined(b, s.req)
	switch {
	case err != nil && s.req == nil:
		return s.asksToWait(b)
	case err != nil:
		return 0, leads, errElsewhere
	case req == nil:
		return n, leads, nil
	}
	leads = relay.Way{To: literal(req.Target), ConnectWithin: p.cfg.DialTimeout}
	if !leads.To.IsValid() {
		leads = p.known.find(req.Target, time.Now())
	}
	w := way{leads.To, p.allow.Load()}
	s.req = req // before begin: SetAllow may look from then on
	if !w.at.IsValid() || !w.allow.Permits(req.Target, w.at.Addr()) || p.mayBeOwn(w.at) || !p.begin(s, w) {
		return 0, relay.Way{}, errElsewhere
	}
	s.dialed = time.Since(s.start)
	return n, leads, nil
}

// asksToWait reads a request to keep the link warm.
func (s *session) asksToWait(b []byte) (n int, way relay.Way, err error) {
	p := s.proxy
	req, n, ready, err := p.acceptor.Warm(b, s.router.Addr())
	switch {
	case err != nil:
		return 0, way, errElsewhere
	case req == nil:
		return n, way, nil
	case !p.waits(s):
		req.Close()
		return 0, way, errElsewhere
	}
	s.req = req
	return n, relay.Way{Reply: ready, NextWithin: link.NextWithin, AskWithin: link.Timeout}, nil
}

// Connected answers the router.
func (s *session) Connected() []byte {
	s.proxy.dialSeconds.Observe((time.Since(s.start) - s.dialed).Seconds())
	s.recordOpened()
	return s.req.Answer(s.at)
}

// literal returns the address that a target is; one that is not valid for a
// name.
func literal(t ohrouter.Target) netip.AddrPort { return netip.AddrPortFrom(t.Addr().Unmap(), t.Port) }

// Failed takes the link back from its loop. A goroutine reads the request
// again and does with it what the loop could not.
func (s *session) Failed(c relay.Conn, f relay.Failure) {
	p := s.proxy
	p.mu.Lock()
	leads := s.at.IsValid()
	s.onLoop, s.carried, s.at = false, nil, netip.AddrPort{}
	p.mu.Unlock()
	var notConnected error
	switch {
	case leads:
		if at := literal(s.req.Target); at.IsValid() {
			took := time.Since(s.start) - s.dialed
			p.dialSeconds.Observe(took.Seconds())
			notConnected = p.dialError(s.req.Target, at, f.Err, took)
		} else {
			p.known.forget(s.req.Target) // it is looked up anew
		}
	case isTimeout(f.Err):
		err := p.acceptor.Refused(p.ctx, f.Err)
		if errors.Is(f.Err, relay.ErrNotAsked) {
			err = io.EOF // the link was not needed
		}
		c.Abort()
		p.wg.Go(func() { s.refused(err) }) // a log may be slow, and this is a loop
		s.end()
		return
	}
	if s.req != nil && !s.warm {
		s.req.Close()
		s.req = nil
	}
	s.take(c, f, notConnected)
}

// take serves a link in a goroutine, with which a loop may have begun.
// notConnected is why its target is known not to be, if it is.
func (s *session) take(c relay.Conn, f relay.Failure, notConnected error) {
	p := s.proxy
	conn, err := c.TCP()
	if err != nil {
		s.logRefused(err)
		s.end()
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	s.carried = &serving{link: conn}
	if p.stopped || s.why != "" {
		s.carried.Cut()
	}
	if !s.begun && !s.warm {
		p.wait(s)
	}
	begun := link.Begun{Conn: conn, Warm: s.req}
	switch {
	case f.TLS != nil:
		begun.Conn, begun.Read = f.TLS, f.Read
	case p.secure != nil:
		begun.Err = f.Err
	}
	p.wg.Go(func() {
		if !s.serve(begun, notConnected) {
			s.end()
		}
	})
}

var errDraining = ohrouter.Errorf(ohrouter.Draining, "the proxy is shutting down")

// serve makes a link a session. It tells whether the relay has it now, and will
// end it.
func (s *session) serve(begun link.Begun, notConnected error) (carried bool) {
	p := s.proxy
	req, err := p.acceptor.AcceptWarm(p.ctx, begun, func() { p.heard(s) })
	if err != nil {
		s.refused(err)
		return false
	}
	s.req = req
	s.nameRouter(req.Leaf())
	switch {
	case !p.begin(s, way{}):
		err = errDraining
	case notConnected != nil:
		err = notConnected
	default:
		var target *net.TCPConn
		if target, err = p.connect(p.ctx, req.Target); err == nil {
			return s.carry(target)
		}
		if p.ctx.Err() != nil { // that is why, and not the target
			err = errDraining
		}
	}
	s.reject(err)
	return false
}

// refused tells why a link was not served, unless nobody refused it.
func (s *session) refused(err error) {
	s.proxy.mu.Lock()
	why := s.why
	s.proxy.mu.Unlock()
	switch {
	case why == dropped:
		s.recordRefused(audit.LinkRefused, errDropped) // the log tells of the crowd
	case errors.Is(err, io.EOF), s.proxy.ctx.Err() != nil, why != "":
		s.log().Debug("link closed before it began")
	default:
		s.logRefused(err)
		s.recordRefused(audit.LinkRefused, err)
	}
}

func (s *session) logRefused(err error) {
	s.proxy.cfg.Log.Warn("link refused", "router", audit.Stranger(s.router), "code", ohrouter.CodeOf(err), "err", err)
}

// log returns a logger that names the session.
func (s *session) log() *slog.Logger {
	log := s.proxy.cfg.Log.With("router", s.router.String())
	if !s.asked() {
		return log
	}
	return log.With("session", s.req.Session, "target", s.req.Target.String())
}

func (s *session) reject(err error) {
	s.log().Info("target not connected", "code", ohrouter.CodeOf(err), "err", err)
	s.recordRefused(audit.SessionRefused, err)
	if err := s.req.Reject(ohrouter.CodeOf(err), ohrouter.Message(err)); err != nil {
		s.log().Debug("router did not wait for the answer", "err", err)
	}
}

// carry answers that the target is connected and hands both connections to the
// relay. It tells whether it did.
func (s *session) carry(target *net.TCPConn) bool {
	p := s.proxy
	at := target.RemoteAddr().(*net.TCPAddr).AddrPort()
	for led := false; !led; {
		allow := p.allow.Load()
		if !allow.Permits(s.req.Target, at.Addr()) { // not any more
			socket.Orderly(target)
			_ = target.Close()
			s.reject(denied(s.req.Target, allow.Explain(s.req.Target, at.Addr())))
			return false
		}
		led = p.leads(s, target, way{at, allow})
	}
	ctx, stopWatching := p.ctx, func() {}
	if s.req.Parked {
		ctx, stopWatching = p.taking, whenHungUp(target, s.req.HangUp)
	}
	conn, err := s.req.Accept(ctx, at)
	stopWatching()
	if err != nil {
		if s.req.Parked {
			socket.Orderly(target) // no client came: nothing was cut
		}
		_ = target.Close()
		if ohrouter.CodeOf(err) == ohrouter.QuotaExceeded { // too many are parked
			s.recordRefused(audit.SessionRefused, err)
		}
		s.log().Debug("link given up before it was acknowledged", "err", err)
		return false
	}
	s.recordOpened()
	p.mu.Lock() // Shutdown looks for s.carried
	defer p.mu.Unlock()
	s.carried = p.cfg.Relay.Start(conn, target, &s.live, s.Ended)
	return true
}

// Ended takes note of a session that the relay, or a loop, has ended.
func (s *session) Ended(end relay.End) {
	p := s.proxy
	s.recordEnded(end)
	if p.cfg.Log.Enabled(context.Background(), slog.LevelDebug) {
		p.wg.Go(func() { s.logEnd(end) }) // a log may be slow, and this is where other sessions are carried
	}
	s.end()
}

// asked tells whether the ConnectCommand is read.
func (s *session) asked() bool { return s.req != nil && s.req.Target.Port != 0 }

func (s *session) logEnd(end relay.End) {
	if !s.asked() {
		s.log().Debug("link closed before it began")
		return
	}
	s.log().Debug("session ended", "up", s.live.AB.Load(), "down", s.live.BA.Load(),
		"duration", time.Since(s.start), "by_target", end.Side == relay.B, "err", end.Err)
}

// end takes the session out of the books.
func (s *session) end() {
	p := s.proxy
	if s.req != nil {
		s.req.Close()
	}
	p.mu.Lock()
	s.onLoop = false
	delete(p.links, s)
	p.crowd.Leave(&s.place)
	if s.begun {
		p.begun--
		if p.draining && p.begun == 0 {
			close(p.idle)
		}
	}
	p.mu.Unlock()
	p.cfg.Descriptors.Release(2)
	p.wg.Done()
}

// cut resets the session. The caller holds Proxy.mu.
func (s *session) cut(why ohrouter.Outcome) {
	if s.why == "" {
		s.why = why
	}
	if s.carried != nil {
		s.carried.Cut()
	}
}

// begin counts a session that has said what it wants among those that a drain
// waits for, unless none may begin any more, or the list has changed since it
// was asked about the session's way.
func (p *Proxy) begin(s *session, w way) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.crowd.Leave(&s.place)
	if p.draining && !s.begun || w.at.IsValid() && w.allow != p.allow.Load() {
		return false
	}
	s.at = w.at
	if s.begun {
		return true
	}
	s.begun = true
	p.begun++
	return true
}

// leads notes where a session leads, and the connection to that. It tells
// whether it did: not when the list has changed since it was asked.
func (p *Proxy) leads(s *session, target *net.TCPConn, w way) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if w.allow != p.allow.Load() {
		return false
	}
	s.at, s.carried.(*serving).target = w.at, target
	if s.why != "" {
		s.cut(s.why)
	}
	return true
}

// whenHungUp calls hungUp when the peer of c closes or resets it, until stop is
// called. It does not read.
func whenHungUp(c *net.TCPConn, hungUp func()) (stop func()) {
	var wg sync.WaitGroup
	wg.Go(func() {
		err := socket.WaitUntil(c, func() bool {
			info, ok := socket.Stat(c)
			return ok && !info.Established
		})
		if err == nil {
			hungUp()
		}
	})
	return func() {
		_ = c.SetReadDeadline(time.Unix(1, 0)) // fails only on a closed connection
		wg.Wait()
		_ = c.SetReadDeadline(time.Time{})
	}
}
