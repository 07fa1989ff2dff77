package router

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/relay"
	"github.com/ohrouter/oh-router/internal/socket"
)

// Want says which link is wanted.
type Want struct {
	Session string
	Target  ohrouter.Target
	Proxy   string // name of the proxy to use; "" any
	Pinned  bool   // no other will do
	Park    bool   // Ack comes later
	// Early, if not nil, is asked for the client's first bytes, to be sent with
	// what makes the session stand. Of several answers the last one counts.
	Early func() []byte
}

// Linker makes links and knows where they lead.
type Linker interface {
	// Link returns a link whose target is connected. ctx bounds the call, not
	// the link. Errors have the code that says why there is none.
	Link(ctx context.Context, want Want) (Link, error)
	// Up tells whether a proxy takes connections now.
	Up(ctx context.Context, proxy string) bool
}

// Link is a connection to a target through a proxy.
type Link interface {
	// Peer returns the name of the proxy and the target's address.
	Peer() (proxy string, resolved netip.AddrPort)
	// Alive tells whether a link that waits for Ack still stands.
	Alive() bool
	// Ack makes the session of a link stand that was wanted with Park.
	Ack() error
	// Conn returns the connection that carries the session's bytes.
	Conn() net.Conn
	// Close closes the link. It is idempotent.
	Close()
}

// session is a client's connection and what becomes of it.
type session struct {
	id      string
	binding *binding
	client  netip.AddrPort
	conn    *net.TCPConn
	start   time.Time
	live    relay.Counters     // A is the client
	cancel  context.CancelFunc // ends the link's set-up

	// Router.mu guards the rest.
	link    Link             // nil until the relay has its connection
	carried *relay.Session   // nil until then
	why     ohrouter.Outcome // why it was cut; "" while nobody has
}

// run gets the session a link and hands both connections to the relay.
func (s *session) run(ctx context.Context) {
	l, err := s.getLink(ctx)
	s.cancel()
	if err == nil && !s.carry(l) {
		l.Close()
		err = context.Canceled
	}
	if err != nil {
		socket.Abort(s.conn)
		s.finish(s.failed(err), err)
	}
}

// carry hands the connections to the relay, which is to end the session. It
// tells whether it did: not when the session was cut while it had no link.
func (s *session) carry(l Link) bool {
	r := s.binding.router
	r.mu.Lock() // for Start, too: a cut comes before it, or finds what it has started
	defer r.mu.Unlock()
	if s.why != "" {
		return false
	}
	now := time.Now().UTC()
	r.metrics.setup.Observe(now.Sub(s.start).Seconds())
	s.binding.usage.LastOK = now
	s.link = l
	r.wg.Add(1) // run's own count keeps Wait from seeing none
	s.carried = r.cfg.Relay.Start(s.conn, l.Conn(), &s.live, func(end relay.End) { s.ended(end, l) })
	return true
}

// ended accounts for a session that the relay has ended. It runs where other
// sessions are carried: what may wait gets a goroutine.
func (s *session) ended(end relay.End, l Link) {
	r := s.binding.router
	l.Close()
	outcome, known := outcomeOf(end)
	if known {
		s.finish(outcome, end.Err)
		r.wg.Done()
		return
	}
	go func() {
		defer r.wg.Done()
		s.finish(s.whoReset(l), end.Err)
	}()
}

// getLink returns the link that is parked for the binding's first client, or a
// fresh one.
func (s *session) getLink(ctx context.Context) (Link, error) {
	r := s.binding.router
	r.mu.Lock()
	spec, p := s.binding.spec, r.parked.take(s.binding.spec.ID)
	r.mu.Unlock()
	if l := r.adopt(p); l != nil {
		return l, nil
	}
	early := early{conn: s.conn}
	l, err := r.cfg.Linker.Link(ctx, Want{
		Session: s.id, Target: spec.Target, Proxy: string(spec.Proxy), Pinned: spec.Pinned, Early: early.peek,
	})
	if err != nil {
		return nil, err
	}
	n, err := early.take()
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("%w: %w", errClientLost, err)
	}
	s.live.AB.Add(uint64(n))
	return l, nil
}

// errClientLost is why a session has no link: its client had gone before.
var errClientLost = errors.New("the client was lost while its link was made")

// early lends a client's first bytes to a link's set-up, which saves them the
// wait for its answer. They stay with the client's connection until take: when
// the set-up fails and another link is made, they are lent again.
type early struct {
	conn *net.TCPConn
	buf  []byte
	n    int // lent last
}

// maxEarly is what goes into one segment with the commands, or a few.
const maxEarly = 4 << 10

func (e *early) peek() []byte {
	if e.buf == nil {
		e.buf = make([]byte, maxEarly)
	}
	e.n = socket.Peek(e.conn, e.buf)
	return e.buf[:e.n]
}

// take takes from the connection what was lent last.
func (e *early) take() (n int, err error) { return io.ReadFull(e.conn, e.buf[:e.n]) }

// adopt makes a parked link the client's, if there is one and it still stands.
func (r *Router) adopt(p *parkedLink) Link {
	if p == nil || !p.link.Alive() || p.link.Ack() != nil {
		r.discard(p)
		return nil
	}
	r.cfg.Descriptors.Release(1) // the session has its own
	return p.link
}

// cut resets the session, unless it has ended.
func (s *session) cut(why ohrouter.Outcome) {
	r := s.binding.router
	r.mu.Lock()
	defer r.mu.Unlock()
	if s.why == "" {
		s.why = why
	}
	if s.carried != nil {
		s.carried.Cut()
		return
	}
	s.cancel()
	socket.Abort(s.conn)
}

// failed takes note of why there is no link and returns it as the outcome.
func (s *session) failed(err error) ohrouter.Outcome {
	r := s.binding.router
	if errors.Is(err, errClientLost) {
		return ohrouter.ClientReset
	}
	code := ohrouter.CodeOf(err)
	r.mu.Lock()
	defer r.mu.Unlock()
	if s.why == "" {
		s.binding.usage.LastError = &ohrouter.Failure{Code: code, Message: ohrouter.Message(err), At: time.Now().UTC()}
	}
	return ohrouter.Outcome(code)
}

// finish takes the session out of the books.
func (s *session) finish(outcome ohrouter.Outcome, err error) {
	r, b := s.binding.router, s.binding
	up, down := s.live.AB.Load(), s.live.BA.Load()
	r.mu.Lock()
	if s.why != "" {
		outcome, err = s.why, nil // that it was cut says all
	}
	u := &b.usage
	u.SessionsTotal++
	u.BytesUp += up
	u.BytesDown += down
	u.LastEnd = time.Now().UTC()
	r.metrics.add(up, down)
	r.metrics.ended(outcome)
	delete(b.sessions, s)
	delete(r.sessions, s.id)
	spec := b.spec
	if b.stopped && len(b.sessions) == 0 {
		close(b.idle)
	}
	r.mu.Unlock()
	r.cfg.Descriptors.Release(2)
	level := levelOf(outcome)
	if r.cfg.Log.Enabled(context.Background(), level) {
		r.wg.Go(func() { s.log(level, spec, outcome, err) }) // a log may be slow
	}
}

// levelOf returns how much an outcome matters. What went as it should is for
// those who look for it.
func levelOf(outcome ohrouter.Outcome) slog.Level {
	switch {
	case ohrouter.Code(outcome).Known():
		return slog.LevelWarn
	case outcome == ohrouter.ClientClosed || outcome == ohrouter.TargetClosed:
		return slog.LevelDebug
	}
	return slog.LevelInfo
}

// log writes one record of the session.
func (s *session) log(level slog.Level, spec ohrouter.Binding, outcome ohrouter.Outcome, err error) {
	log := s.binding.router.cfg.Log.With("session", s.id, "binding", spec.ID, "target", spec.Target.String(),
		"client", s.client.String(), "outcome", string(outcome), "duration", time.Since(s.start),
		"bytes_up", s.live.AB.Load(), "bytes_down", s.live.BA.Load())
	if err != nil {
		log = log.With("err", err)
	}
	if level == slog.LevelWarn {
		log.Warn("session not set up")
		return
	}
	log.Log(context.Background(), level, "session closed")
}

// outcomeOf names how the relay between the client and a link ended. It is not
// known who reset a link.
func outcomeOf(end relay.End) (outcome ohrouter.Outcome, known bool) {
	switch {
	case end.Err == nil && end.Side == relay.A:
		return ohrouter.ClientClosed, true
	case end.Err == nil:
		return ohrouter.TargetClosed, true
	case end.Side == relay.A:
		return ohrouter.ClientReset, true
	case !errors.Is(end.Err, syscall.ECONNRESET) && !errors.Is(end.Err, syscall.EPIPE):
		return ohrouter.LinkLost, true
	}
	return "", false
}

// whoReset tells who reset a link. A proxy passes a target's reset on as one,
// and the kernel of a proxy that was killed resets its links: a look at the
// proxy tells which it was.
func (s *session) whoReset(l Link) ohrouter.Outcome {
	r := s.binding.router
	if proxy, _ := l.Peer(); r.cfg.Linker.Up(r.ctx, proxy) {
		return ohrouter.TargetReset
	}
	return ohrouter.LinkLost
}

// snapshot returns what the API shows. The caller holds Router.mu.
func (s *session) snapshot() ohrouter.Session {
	o := ohrouter.Session{
		ID: s.id, BindingID: s.binding.spec.ID, Target: s.binding.spec.Target,
		Client: s.client, StartedAt: s.start, BytesUp: s.live.AB.Load(), BytesDown: s.live.BA.Load(),
	}
	if s.link != nil {
		proxy, resolved := s.link.Peer()
		o.Proxy, o.Resolved = ohrouter.Optional(proxy), ohrouter.Optional(resolved.String())
	}
	return o
}

// idSource names sessions: unique in this process, and not the same again
// after a restart.
type idSource struct {
	prefix string
	n      *atomic.Uint64
}

func newIDSource() idSource {
	return idSource{prefix: "s-" + strings.ToLower(rand.Text()[:6]) + "-", n: new(atomic.Uint64)}
}

func (i idSource) next() string { return i.prefix + strconv.FormatUint(i.n.Add(1), 36) }
