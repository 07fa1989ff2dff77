package router

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
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
	// Preamble goes to the target before the client's bytes and is not counted
	// among them. A link to park does not send it.
	Preamble []byte
	// Early, if not nil, is asked for what the client has sent so far, to go
	// with what makes the session stand.
	Early func() []byte
}

// Linker makes links and knows where they lead.
type Linker interface {
	// Begin chooses how a link is made, and makes none yet.
	Begin(want Want) Handshake
	// Up tells whether a proxy takes connections now.
	Up(ctx context.Context, proxy string) bool
}

// Handshake is the making of one link: by Dial, or on an event loop as Call
// says, whose failure Dial may make good.
type Handshake interface {
	// Call returns what to do on an event loop, if that is all there is to do.
	// cut is called when the link must not go on.
	Call(cut func()) (call relay.Call, ok bool)
	// Secured learns who the proxy has proved to be: relay.Opening has its
	// promise.
	Secured(peer tls.ConnectionState) error
	// Answered reads what the proxy has said: relay.Answerer has its promise.
	Answered(b []byte) (n int, err error)
	// Link returns the link when Answered has read an answer.
	Link() Link
	// Failed is told why Call did not succeed, whether the client's first bytes
	// were sent, and how many bytes in all the proxy's kernel has taken, as
	// [relay.Failure] has it. It returns nil when Dial may go on, else why there is
	// no link.
	Failed(err error, gave bool, acked uint64) error
	// Dial returns a link whose target is connected. ctx bounds the call, not
	// the link. Errors have the code that says why there is none.
	Dial(ctx context.Context) (Link, error)
}

// Link is a connection to a target through a proxy.
type Link interface {
	// Peer returns the name of the proxy and the target's address.
	Peer() (proxy string, resolved netip.AddrPort)
	// Alive tells whether a link that waits for Ack still stands.
	Alive() bool
	// Ack makes the session of a link stand that was wanted with Park. It may
	// wait for bad news until the client speaks; a nil one is not waited for.
	Ack(ctx context.Context, client *net.TCPConn) error
	// Conn returns the connection; nil for the link of a call.
	Conn() net.Conn
	// Take returns the connection that carries the session's bytes, and leaves
	// it to the caller; not for the link of a call. cut is called when the
	// session must not go on.
	Take(cut func()) net.Conn
	// Close closes the link. It is idempotent.
	Close()
}

// session is a client's connection and what becomes of it. It is the
// [relay.Answerer] of its own call.
type session struct {
	number  uint64 // see idSource
	binding *binding
	client  netip.AddrPort
	start   time.Time
	live    relay.Counters // A is the client

	handshake   Handshake // while there is no link: whoever makes it has this
	tellsClient bool      // the target, who the client is

	// Router.mu guards the rest.
	calling  bool             // a loop makes the link
	dialling *dialling        // the goroutine that makes it; nil while there is none
	link     Link             // nil until it is made
	carried  relay.Session    // nil until the relay has the client
	why      ohrouter.Outcome // why it was cut; "" while nobody has
}

// dialling is what the goroutine has that makes a link for a client. It alone
// changes it, and reads it without the lock; others only cancel.
type dialling struct {
	client *net.TCPConn
	early  []byte             // what was taken from the client
	cancel context.CancelFunc // ends it
}

// begin gets the session its link: the one that is parked, or a fresh one, on
// the loop that has accepted the client when a call is all that it takes, else
// in a goroutine.
func (s *session) begin(client relay.Conn, want Want, parked *parkedLink) {
	if parked == nil {
		s.handshake = s.binding.router.cfg.Linker.Begin(want)
		if client.OnLoop() {
			if call, ok := s.handshake.Call(s.lost); ok {
				s.call(client, call)
				return
			}
		}
	}
	s.dial(client, nil, want, parked)
}

// call makes the link on the client's loop.
func (s *session) call(client relay.Conn, call relay.Call) {
	r := s.binding.router
	r.mu.Lock()
	s.calling = true
	r.mu.Unlock()
	carried := client.Forward(call, s, &s.live)
	r.mu.Lock()
	defer r.mu.Unlock()
	if !s.calling {
		return // it has failed: a goroutine has the client, or nobody
	}
	s.carried = carried
	if s.why != "" {
		carried.Cut()
	}
}

// Secured learns who the proxy of the call has proved to be.
func (s *session) Secured(peer tls.ConnectionState) error { return s.handshake.Secured(peer) }

// Answered reads what the proxy has said to the call.
func (s *session) Answered(b []byte) (n int, err error) {
	n, err = s.handshake.Answered(b)
	if n > 0 && err == nil {
		l := s.handshake.Link()
		s.handshake = nil
		r := s.binding.router
		r.mu.Lock()
		defer r.mu.Unlock()
		s.stands(l)
	}
	return n, err
}

// Failed takes the client back from the call and goes on by dialling, if that
// is of use.
func (s *session) Failed(client relay.Conn, f relay.Failure) {
	r := s.binding.router
	r.mu.Lock()
	s.calling, s.carried = false, nil // a cut is for who dials now
	r.mu.Unlock()
	if err := s.handshake.Failed(f.Err, f.Said && len(f.Read) > 0, f.Acked); err != nil {
		client.Abort()
		s.finish(s.failed(err), err)
		return
	}
	s.dial(client, f.Read, Want{}, nil)
}

// Ended accounts for a session that the relay has ended. It runs where other
// sessions are carried: what may wait gets a goroutine.
func (s *session) Ended(end relay.End) {
	r := s.binding.router
	if s.handshake != nil { // the client was lost, or cut
		s.handshake.Link().Close()
	} else {
		s.link.Close()
	}
	outcome, known := outcomeOf(end)
	if known {
		s.finish(outcome, end.Err)
		return
	}
	r.wg.Go(func() { s.finish(s.whoReset(), end.Err) })
}

// dial takes the client, of whom something may have been taken already, off its
// loop and makes the link in a goroutine: the parked one, that of the handshake,
// or else the one that is wanted.
func (s *session) dial(client relay.Conn, early []byte, want Want, parked *parkedLink) {
	r := s.binding.router
	conn, err := client.TCP()
	if err != nil {
		r.discard(parked)
		s.finish(s.failed(err), err)
		return
	}
	ctx, cancel := context.WithCancel(r.ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	s.dialling = &dialling{client: conn, early: early, cancel: cancel}
	if s.why != "" {
		cancel()
	}
	r.wg.Go(func() {
		defer cancel()
		s.run(ctx, want, parked)
	})
}

// run gets the session a link and hands both connections to the relay.
func (s *session) run(ctx context.Context, want Want, parked *parkedLink) {
	client := s.dialling.client
	l, err := s.getLink(ctx, want, parked)
	s.handshake = nil
	if err == nil && !s.carry(client, l) {
		l.Close()
		err = context.Canceled
	}
	if err != nil {
		socket.Abort(client)
		s.finish(s.failed(err), err)
	}
}

// carry hands the connections to the relay, which is to end the session. It
// tells whether it did: not when the session was cut while it had no link.
func (s *session) carry(client *net.TCPConn, l Link) bool {
	r := s.binding.router
	r.mu.Lock() // for Start, too: a cut comes before it, or finds what it has started
	defer r.mu.Unlock()
	if s.why != "" {
		return false
	}
	s.dialling = nil
	s.stands(l)
	s.carried = r.cfg.Relay.Start(client, l.Take(s.lost), &s.live, s.Ended)
	return true
}

// stands notes that the session has its link. The caller holds Router.mu.
func (s *session) stands(l Link) {
	now := time.Now()
	s.binding.router.metrics.setup.Observe(now.Sub(s.start).Seconds())
	s.binding.usage.LastOK = now
	s.link = l
	s.recordOpened()
}

// getLink returns the link that is parked for the binding's first client, or a
// fresh one.
func (s *session) getLink(ctx context.Context, want Want, parked *parkedLink) (Link, error) {
	r := s.binding.router
	if l := s.adopt(ctx, parked, want.Preamble); l != nil {
		return l, nil
	}
	if s.handshake == nil {
		s.handshake = r.cfg.Linker.Begin(want)
	}
	l, err := s.handshake.Dial(ctx)
	if err != nil {
		return nil, err
	}
	s.live.AB.Add(uint64(len(s.dialling.early)))
	return l, nil
}

// maxEarly is what goes into one segment with the commands, or a few.
const maxEarly = 4 << 10

// firstBytes returns what the client has sent so far, which saves it the wait
// for the proxy's answer. It was taken from the connection, and is kept for
// another proxy.
func (s *session) firstBytes() []byte {
	d := s.dialling
	if room := maxEarly - len(d.early); room > 0 && socket.Pending(d.client) {
		b := make([]byte, room)
		n := socket.Peek(d.client, b)
		n, _ = io.ReadFull(d.client, b[:n]) // it is there; an end or a loss stays to be read
		d.early = append(d.early, b[:n]...)
	}
	return d.early
}

// cut resets the session, unless it has ended.
func (s *session) cut(why ohrouter.Outcome) {
	r := s.binding.router
	r.mu.Lock()
	defer r.mu.Unlock()
	if s.why == "" {
		s.why = why
	}
	switch {
	case s.carried != nil:
		s.carried.Cut()
	case s.dialling != nil:
		s.dialling.cancel() // run sees to the client
	}
}

// lost resets a session whose link must not go on.
func (s *session) lost() { s.cut(ohrouter.LinkLost) }

// failed takes note of why there is no link and returns it as the outcome.
func (s *session) failed(err error) ohrouter.Outcome {
	r := s.binding.router
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
	u.LastEnd = time.Now()
	r.metrics.add(up, down)
	r.metrics.ended(outcome)
	delete(b.sessions, s.number)
	r.disown(string(b.spec.Owner))
	spec, link := b.spec, s.link
	if b.stopped && len(b.sessions) == 0 {
		close(b.idle)
	}
	r.mu.Unlock()
	r.cfg.Descriptors.Release(2)
	s.recordEnd(spec, link, outcome, err)
	level := levelOf(outcome)
	if r.cfg.Log.Enabled(context.Background(), level) {
		spec := spec                                         // only this one has to outlive the call
		r.wg.Go(func() { s.log(level, spec, outcome, err) }) // a log may be slow
	}
	r.wg.Done()
}

// snapshot returns what the API shows.
func (s *session) snapshot() ohrouter.Session {
	r := s.binding.router
	r.mu.Lock()
	binding, target, link := s.binding.spec.ID, s.binding.spec.Target, s.link
	r.mu.Unlock()
	o := ohrouter.Session{
		ID: s.id(), BindingID: binding, Target: target,
		Client: s.client, StartedAt: s.start.UTC(), BytesUp: s.live.AB.Load(), BytesDown: s.live.BA.Load(),
	}
	if link != nil {
		proxy, resolved := link.Peer()
		o.Proxy, o.Resolved = ohrouter.Optional(proxy), ohrouter.Optional(resolved.String())
	}
	return o
}

// id names the session to others.
func (s *session) id() string { return s.binding.router.ids.name(s.number) }

// idSource numbers sessions, and names them: uniquely in this process, and not the
// same again after a restart.
type idSource struct {
	prefix string
	n      *atomic.Uint64
}

func newIDSource() idSource {
	return idSource{prefix: "s-" + strings.ToLower(rand.Text()[:6]) + "-", n: new(atomic.Uint64)}
}

func (i idSource) next() uint64 { return i.n.Add(1) }

func (i idSource) name(number uint64) string {
	return string(strconv.AppendUint(append(make([]byte, 0, 32), i.prefix...), number, 36))
}

// number returns which number a name stands for, if it may be a session's.
func (i idSource) number(name string) (number uint64, ok bool) {
	number, err := strconv.ParseUint(strings.TrimPrefix(name, i.prefix), 36, 64)
	return number, err == nil && i.name(number) == name
}
