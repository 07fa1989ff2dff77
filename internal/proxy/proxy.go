// Package proxy is the role beside the targets: it takes links from routers,
// asks the policy, dials the target and hands both connections to the relay.
package proxy

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
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
	"github.com/ohrouter/oh-router/internal/audit"
	"github.com/ohrouter/oh-router/internal/gate"
	"github.com/ohrouter/oh-router/internal/link"
	"github.com/ohrouter/oh-router/internal/policy"
	"github.com/ohrouter/oh-router/internal/relay"
	"github.com/ohrouter/oh-router/internal/socket"
)

// Config is what a proxy is made of.
type Config struct {
	Allow       *policy.List     // targets it may dial; nil denies all
	Own         []netip.AddrPort // where it listens itself: never dialled
	DialTimeout time.Duration    // for resolving and connecting together
	Targets     socket.Options   // of connections to targets
	Descriptors socket.Budget    // a session takes two
	// Handshakes is how many links may not have said yet what they want, in all
	// and of one source; 0 any number. The oldest go when there are more.
	Handshakes, HandshakesPerSource int
	// HandshakeTimeout is how long they have for that; 0 is [link.Timeout].
	HandshakeTimeout time.Duration

	States       *link.States
	TLS          *tls.Config                                                  // of links; nil is plain TCP
	MaxHandshake int                                                          // bytes of it from a router that has not proved who it is; 0 any number
	Explain      func(error) error                                            // finds better errors for handshakes of TLS; nil none
	Relay        *relay.Engine                                                // carries the sessions; closed after Shutdown
	Resolve      func(ctx context.Context, host string) ([]netip.Addr, error) // nil: the system's resolver
	ResolveEvery time.Duration                                                // how long an address of a name serves others; 0: each looks it up
	Name         func(router *x509.Certificate) string                        // for the audit log; nil: no names
	Audit        *audit.Log                                                   // nil: none
	Log          *slog.Logger
	Metrics      prometheus.Registerer
}

// Proxy serves links. It is made by [New].
type Proxy struct {
	cfg         Config
	acceptor    *link.Acceptor
	secure      func(raw io.ReadWriter) *tls.Conn // makes TLS of a link; nil for plain ones
	known       known                             // addresses of names
	allow       atomic.Pointer[policy.List]
	dialSeconds prometheus.Histogram
	dropped     prometheus.Counter
	mapped      func(port uint16) netip.AddrPort // nil: no router in this process

	taking, ctx context.Context    // the first ends with Shutdown's begin, the second with its end
	drain, stop context.CancelFunc // of taking and ctx

	wg       sync.WaitGroup // every link, and what logs its end
	mu       sync.Mutex     // guards what follows; never held during I/O
	draining bool
	stopped  bool                  // nothing is started any more
	links    map[*session]struct{} // from accept to end
	crowd    gate.Crowd[*session]  // of them, those that have not said yet what they want
	warned   time.Time             // of the crowd
	begun    int                   // of them
	listener *relay.Listener
	idle     chan struct{} // closed when draining and no session is left that has begun
}

// New returns a proxy that serves nothing yet.
func New(cfg Config) *Proxy {
	cfg.HandshakeTimeout = cmp.Or(cfg.HandshakeTimeout, link.Timeout)
	p := &Proxy{
		cfg:   cfg,
		known: known{within: cfg.ResolveEvery},
		links: make(map[*session]struct{}),
		crowd: gate.Crowd[*session]{Most: cfg.Handshakes, MostOfOne: cfg.HandshakesPerSource},
		idle:  make(chan struct{}),
		dialSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "ohrouter_dial_seconds",
			Help:    "Time to resolve and connect to a target, failures included.",
			Buckets: prometheus.ExponentialBuckets(0.00025, 2.5, 12),
		}),
		dropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "ohrouter_handshakes_dropped_total",
			Help: "Links that were reset before they said what they want, because too many did not.",
		}),
	}
	p.allow.Store(cfg.Allow)
	p.ctx, p.stop = context.WithCancel(context.Background())
	p.taking, p.drain = context.WithCancel(p.ctx)
	p.acceptor = &link.Acceptor{States: cfg.States, Patience: cfg.DialTimeout, TLS: cfg.TLS, Explain: cfg.Explain, MaxHandshake: cfg.MaxHandshake, HandshakeTimeout: cfg.HandshakeTimeout, Draining: p.taking.Done()}
	p.secure = p.acceptor.Secure()
	cfg.Metrics.MustRegister(p.dialSeconds, p.dropped)
	return p
}

// SetAllow replaces the allow-list. Sessions, and links that are parked, whose
// target is not permitted any more are cut.
func (p *Proxy) SetAllow(allow *policy.List) {
	p.recordAllow(p.allow.Load(), allow)
	type cut struct {
		req *link.Request
		at  netip.AddrPort
	}
	var denied []cut
	p.mu.Lock()
	p.allow.Store(allow)
	for s := range p.links {
		if s.at.IsValid() && !allow.Permits(s.req.Target, s.at.Addr()) {
			s.cut(ohrouter.Outcome(ohrouter.TargetDenied))
			denied = append(denied, cut{s.req, s.at})
		}
	}
	p.mu.Unlock()
	for _, c := range denied {
		p.cfg.Log.Warn("session cut: its target is not permitted any more",
			"session", c.req.Session, "target", c.req.Target.String(), "resolved", c.at.String())
	}
}

// Serve accepts links on ln until [Proxy.Shutdown] has ended. It closes ln, and
// returns nil after a shutdown.
func (p *Proxy) Serve(ln *net.TCPListener) error {
	how := relay.Accept{Accepted: p.accepted, Descriptors: p.cfg.Descriptors, Each: 2, AckLate: true, Log: p.cfg.Log, What: "links"}
	listener, err := p.cfg.Relay.Listen(ln, how)
	if err != nil {
		return fmt.Errorf("accept links on %v: %w", ln.Addr(), err)
	}
	p.mu.Lock()
	p.listener = listener
	if p.stopped {
		listener.Close() // Shutdown was faster
	}
	p.mu.Unlock()
	<-p.ctx.Done()
	return nil
}

// Draining tells whether the proxy is shutting down.
func (p *Proxy) Draining() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.draining
}

// lateFor is how long a proxy that has nothing left to do answers routers that do
// not know yet: who was not told cannot ask another one, once a client has spoken.
const lateFor = 100 * time.Millisecond

// Shutdown refuses new sessions from now on, with code [ohrouter.Draining],
// waits for those that run until ctx is done, resets the rest, and stops
// listening. It is idempotent.
func (p *Proxy) Shutdown(ctx context.Context) {
	p.mu.Lock()
	if !p.draining && p.begun == 0 {
		close(p.idle)
	}
	p.draining = true
	for s := range p.links {
		if loop, ok := s.carried.(relay.Served); ok && s.warm && !s.begun {
			loop.GiveBack(errElsewhere)
		}
	}
	p.mu.Unlock()
	p.drain() // warm and parked links: their clients have not come
	select {
	case <-p.idle:
	case <-ctx.Done():
	}
	select {
	case <-time.After(lateFor): // what routers have sent meanwhile gets its answer
	case <-ctx.Done():
	}
	p.stop()
	p.mu.Lock()
	p.stopped = true
	if p.listener != nil {
		p.listener.Close()
	}
	for s := range p.links {
		s.cut(ohrouter.Drained)
	}
	p.mu.Unlock()
	p.wg.Wait()
}
