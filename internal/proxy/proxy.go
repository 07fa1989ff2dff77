// Package proxy is the role beside the targets: it takes links from routers,
// asks the policy, dials the target and hands both connections to the relay.
package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/link"
	"github.com/ohrouter/oh-router/internal/policy"
	"github.com/ohrouter/oh-router/internal/relay"
	"github.com/ohrouter/oh-router/internal/socket"
)

// Config is what a proxy is made of.
type Config struct {
	Allow       *policy.List  // targets it may dial; nil denies all
	DialTimeout time.Duration // for resolving and connecting together
	Descriptors socket.Budget // a session takes two
	States      *link.States
	Relay       *relay.Engine                                                // carries the sessions; closed after Shutdown
	Resolve     func(ctx context.Context, host string) ([]netip.Addr, error) // nil: the system's resolver
	Log         *slog.Logger
	Metrics     prometheus.Registerer
}

// Proxy serves links. It is made by [New].
type Proxy struct {
	cfg         Config
	acceptor    *link.Acceptor
	allow       atomic.Pointer[policy.List]
	dialSeconds prometheus.Histogram

	taking, ctx context.Context    // the first ends with Shutdown's begin, the second with its end
	drain, stop context.CancelFunc // of taking and ctx

	wg       sync.WaitGroup // a goroutine per link
	mu       sync.Mutex     // guards what follows; never held during I/O
	draining bool
	stopped  bool // nothing is started any more
	sessions map[*session]struct{}
	listener *net.TCPListener
	idle     chan struct{} // closed when draining and no session is left
}

// session is a link and what becomes of it.
type session struct {
	proxy *Proxy
	link  *net.TCPConn
	req   *link.Request // nil until the ConnectCommand is read

	// Proxy.mu guards the rest.
	target  *net.TCPConn   // nil until it is connected
	carried *relay.Session // nil until the relay has both connections
}

// New returns a proxy that serves nothing yet.
func New(cfg Config) *Proxy {
	p := &Proxy{
		cfg:      cfg,
		acceptor: &link.Acceptor{States: cfg.States, Patience: cfg.DialTimeout},
		sessions: make(map[*session]struct{}),
		idle:     make(chan struct{}),
		dialSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "ohrouter_dial_seconds",
			Help:    "Time to resolve and connect to a target, failures included.",
			Buckets: prometheus.ExponentialBuckets(0.00025, 2.5, 12),
		}),
	}
	p.allow.Store(cfg.Allow)
	p.ctx, p.stop = context.WithCancel(context.Background())
	p.taking, p.drain = context.WithCancel(p.ctx)
	cfg.Metrics.MustRegister(p.dialSeconds)
	return p
}

// SetAllow replaces the allow-list for the connections that are dialled from
// now on.
func (p *Proxy) SetAllow(allow *policy.List) { p.allow.Store(allow) }

// Serve accepts links on ln until [Proxy.Shutdown] has ended. It closes ln, and
// returns nil after a shutdown.
func (p *Proxy) Serve(ln *net.TCPListener) error {
	p.mu.Lock()
	p.listener = ln
	if p.stopped {
		_ = ln.Close() // Shutdown was faster
	}
	p.mu.Unlock()
	backoff := socket.Backoff{Log: p.cfg.Log}
	for {
		conn, err := socket.Accept(ln)
		switch {
		case p.ctx.Err() != nil:
			if err == nil {
				_ = conn.Close() // nobody is left to serve it
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accept links on %v: %w", ln.Addr(), err)
		case err != nil:
			backoff.Failed(p.ctx, "links", err)
			continue
		}
		backoff.Succeeded()
		if p.cfg.Descriptors.Acquire(p.ctx, 2) != nil {
			_ = conn.Close()
			continue
		}
		p.start(conn)
	}
}

// start serves a link in a goroutine of its own.
func (p *Proxy) start(conn *net.TCPConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped { // Shutdown waits for no more
		_ = conn.Close()
		p.cfg.Descriptors.Release(2)
		return
	}
	s := &session{proxy: p, link: conn}
	p.wg.Go(func() {
		if !s.serve() {
			s.end()
		}
	})
}

// serve makes a link a session. It tells whether the relay has it now, and will
// end it.
func (s *session) serve() (carried bool) {
	p := s.proxy
	req, err := p.acceptor.Accept(p.ctx, s.link)
	switch {
	case errors.Is(err, io.EOF), p.ctx.Err() != nil && err != nil:
		s.log().Debug("link closed before it began")
		return false
	case err != nil:
		s.log().Warn("link refused", "code", ohrouter.CodeOf(err), "err", err)
		return false
	}
	s.req = req
	if !p.begin(s) {
		s.reject(ohrouter.Errorf(ohrouter.Draining, "the proxy is shutting down"))
		return false
	}
	target, err := p.connect(p.ctx, req.Target)
	if err != nil {
		s.reject(err)
		return false
	}
	return s.carry(target)
}

// log returns a logger that names the session.
func (s *session) log() *slog.Logger {
	log := s.proxy.cfg.Log.With("router", s.link.RemoteAddr().String())
	if s.req == nil {
		return log
	}
	return log.With("session", s.req.Session, "target", s.req.Target.String())
}

func (s *session) reject(err error) {
	s.log().Info("target not connected", "code", ohrouter.CodeOf(err), "err", err)
	if err := s.req.Reject(ohrouter.CodeOf(err), ohrouter.Message(err)); err != nil {
		s.log().Debug("router did not wait for the answer", "err", err)
	}
}

// carry answers that the target is connected and hands both connections to the
// relay. It tells whether it did.
func (s *session) carry(target *net.TCPConn) bool {
	p := s.proxy
	p.mu.Lock()
	s.target = target
	p.mu.Unlock()
	ctx, stopWatching := p.ctx, func() {}
	if s.req.Parked {
		ctx, stopWatching = p.taking, whenHungUp(target, s.req.HangUp)
	}
	conn, err := s.req.Accept(ctx, target.RemoteAddr().(*net.TCPAddr).AddrPort())
	stopWatching()
	if err != nil {
		if s.req.Parked {
			socket.Orderly(target) // no client came: nothing was cut
		}
		_ = target.Close()
		s.log().Debug("link given up before it was acknowledged", "err", err)
		return false
	}
	p.wg.Add(1) // serve's own count keeps Wait from seeing none
	start, live := time.Now(), new(relay.Counters)
	p.mu.Lock() // Shutdown looks for s.carried
	defer p.mu.Unlock()
	s.carried = p.cfg.Relay.Start(conn, target, live, func(end relay.End) {
		if p.cfg.Log.Enabled(context.Background(), slog.LevelDebug) {
			p.wg.Go(func() { // a log may be slow, and this is where other sessions are carried
				s.log().Debug("session ended", "up", live.AB.Load(), "down", live.BA.Load(),
					"duration", time.Since(start), "by_target", end.Side == relay.B, "err", end.Err)
			})
		}
		s.end()
		p.wg.Done()
	})
	return true
}

// end takes the session out of the books.
func (s *session) end() {
	if s.req != nil {
		s.req.Close()
		s.proxy.ended(s)
	}
	s.proxy.cfg.Descriptors.Release(2)
}

// cut resets the session. The caller holds Proxy.mu.
func (s *session) cut() {
	if s.carried != nil {
		s.carried.Cut()
		return
	}
	socket.Abort(s.link)
	if s.target != nil {
		socket.Abort(s.target)
	}
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

// begin registers a session, unless none may begin any more.
func (p *Proxy) begin(s *session) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.draining {
		return false
	}
	p.sessions[s] = struct{}{}
	return true
}

func (p *Proxy) ended(s *session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.sessions[s]; !ok {
		return // it never began
	}
	delete(p.sessions, s)
	if p.draining && len(p.sessions) == 0 {
		close(p.idle)
	}
}

// Draining tells whether the proxy is shutting down.
func (p *Proxy) Draining() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.draining
}

// Shutdown refuses new sessions from now on, with code [ohrouter.Draining],
// waits for those that run until ctx is done, resets the rest, and stops
// listening. It is idempotent.
func (p *Proxy) Shutdown(ctx context.Context) {
	p.mu.Lock()
	if !p.draining && len(p.sessions) == 0 {
		close(p.idle)
	}
	p.draining = true
	p.mu.Unlock()
	p.drain() // parked links: their clients have not come
	select {
	case <-p.idle:
	case <-ctx.Done():
	}
	p.stop()
	p.mu.Lock()
	p.stopped = true
	if p.listener != nil {
		_ = p.listener.Close() // Serve sees that it was asked for
	}
	for s := range p.sessions {
		s.cut()
	}
	p.mu.Unlock()
	p.wg.Wait()
}
