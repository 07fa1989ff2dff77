package router

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/relay"
)

// binding is a mapped port and what it is used for. Router.mu guards it.
type binding struct {
	router   *Router
	spec     ohrouter.Binding
	listener *relay.Listener
	stopped  bool                // the listener is closed; no session begins any more
	idle     chan struct{}       // closed when stopped and no session is left
	sessions map[uint64]*session // by number
	usage    ohrouter.Usage      // of sessions that have ended, but for the times
}

// Check connects to b's target and keeps the connection for the first client
// of b. It returns the name of the proxy that served it. On error the returned
// check has its time and duration.
func (r *Router) Check(ctx context.Context, b ohrouter.Binding) (proxy string, check ohrouter.Check, err error) {
	r.mu.Lock()
	park := r.park
	r.mu.Unlock()
	begin := time.Now()
	l, err := r.cfg.Linker.Begin(Want{
		Session: r.ids.name(r.ids.next()), Target: b.Target, Proxy: string(b.Proxy), Pinned: b.Pinned, Park: true,
	}).Dial(ctx)
	check = ohrouter.Check{At: begin.UTC(), Duration: ohrouter.Duration(time.Since(begin))}
	if err != nil {
		return "", check, fmt.Errorf("check %v: %w", b.Target, err)
	}
	proxy, resolved := l.Peer()
	check.OK, check.Resolved = true, ohrouter.Optional(resolved.String())
	r.keep(b.ID, l, park)
	return proxy, check, nil
}

// keep parks a link for a binding's first client, unless descriptors are short:
// that client can do without, sessions cannot.
func (r *Router) keep(id string, l Link, park time.Duration) {
	if park <= 0 || !r.cfg.Descriptors.TryAcquire(1) {
		l.Close()
		return
	}
	r.mu.Lock()
	gone := []*parkedLink{{link: l}}
	if !r.closing {
		gone = r.parked.put(id, l, park, r.expire)
	}
	r.mu.Unlock()
	r.discard(gone...)
}

// expire closes a parked link whose time is over.
func (r *Router) expire(p *parkedLink) {
	r.mu.Lock()
	mine := r.parked.remove(p)
	if mine { // Shutdown has not emptied the lot, and is to wait
		r.wg.Add(1)
	}
	r.mu.Unlock()
	if mine {
		defer r.wg.Done()
		r.discard(p)
	}
}

// discard closes links that are parked no more. Each may be nil.
func (r *Router) discard(gone ...*parkedLink) {
	for _, p := range gone {
		if p != nil {
			p.link.Close()
			r.cfg.Descriptors.Release(1)
		}
	}
}

// Open listens on b's port, or, when b is open already, applies what may have
// changed to sessions that begin from now on. An error that wraps
// syscall.EADDRINUSE means that another program has the port.
func (r *Router) Open(b ohrouter.Binding) error {
	if r.apply(b) {
		return nil
	}
	if !r.cfg.Descriptors.TryAcquire(1) {
		return ohrouter.Errorf(ohrouter.PortsExhausted, "the router has run out of file descriptors for mapped ports; raise its limit (ulimit -n)")
	}
	ln, err := r.cfg.Clients.Listen(r.ctx, netip.AddrPortFrom(r.cfg.BindAddress, b.Port).String())
	if err != nil {
		r.cfg.Descriptors.Release(1)
		return fmt.Errorf("listen on port %d: %w", b.Port, err)
	}
	n := &binding{router: r, spec: b, idle: make(chan struct{})}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closing {
		_ = ln.Close()
		r.cfg.Descriptors.Release(1)
		return ohrouter.Errorf(ohrouter.Draining, "the router is shutting down")
	}
	how := relay.Accept{
		Accepted: n.accepted, Descriptors: r.cfg.Descriptors, Each: 2, Log: r.cfg.Log, What: "clients",
		Missed: func() { r.metrics.ended(ohrouter.BindingClosed) },
	}
	if n.listener, err = r.cfg.Relay.Listen(ln, how); err != nil {
		r.cfg.Descriptors.Release(1)
		return fmt.Errorf("listen on port %d: %w", b.Port, err)
	}
	r.bindings[b.ID] = n
	r.ports[n.at().Port()] = n.at()
	return nil
}

// at returns where the port listens.
func (b *binding) at() netip.AddrPort { return b.listener.Addr.(*net.TCPAddr).AddrPort() }

// apply changes an open binding, for sessions that begin from now on, and tells
// whether there is one.
func (r *Router) apply(b ohrouter.Binding) (open bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.bindings[b.ID]
	if n != nil {
		n.spec = b
	}
	return n != nil
}

// accepted begins a session, or resets the client.
func (b *binding) accepted(client relay.Conn) {
	r := b.router
	s, want, parked, outcome := b.register(client.Remote)
	if outcome != "" {
		b.recordRefused(client.Remote, outcome)
		client.Abort()
		r.cfg.Descriptors.Release(2)
		r.metrics.ended(outcome)
		return
	}
	want.Early = s.firstBytes
	if s.tellsClient {
		want.Preamble = preamble(client.Remote, client.Local())
	}
	s.begin(client, want, parked)
}

// register makes a session of a client, or says why there is none. It returns
// which link the session wants, and the one that waits for it, if any.
func (b *binding) register(client netip.AddrPort) (s *session, want Want, parked *parkedLink, outcome ohrouter.Outcome) {
	r := b.router
	r.mu.Lock()
	defer r.mu.Unlock()
	if outcome := b.refuses(client.Addr()); outcome != "" {
		return nil, Want{}, nil, outcome
	}
	s = &session{number: r.ids.next(), binding: b, client: client, start: time.Now(), tellsClient: b.spec.ProxyProtocol != ""}
	if b.sessions == nil {
		b.sessions = make(map[uint64]*session)
	}
	b.sessions[s.number] = s
	if owner := string(b.spec.Owner); owner != "" {
		r.owned[owner]++
	}
	r.wg.Add(1) // for finish
	want = Want{Session: s.id(), Target: b.spec.Target, Proxy: string(b.spec.Proxy), Pinned: b.spec.Pinned}
	return s, want, r.parked.take(b.spec.ID), ""
}

// refuses says why a client is to have no session, "" when it may. The caller
// holds Router.mu.
func (b *binding) refuses(client netip.Addr) ohrouter.Outcome {
	switch {
	case b.stopped:
		return ohrouter.BindingClosed
	case !b.allows(client):
		return ohrouter.SourceDenied
	case b.spec.MaxSessions > 0 && len(b.sessions) >= b.spec.MaxSessions,
		b.spec.OwnerSessions > 0 && b.router.owned[string(b.spec.Owner)] >= b.spec.OwnerSessions:
		return ohrouter.SessionLimit
	}
	return ""
}

// allows tells whether a client may connect. The caller holds Router.mu.
func (b *binding) allows(client netip.Addr) bool {
	plain := client.WithZone("") // prefixes have no zones and contain none
	return len(b.spec.Allow) == 0 || slices.ContainsFunc(b.spec.Allow, func(p netip.Prefix) bool { return p.Contains(plain) })
}

// Usage returns what an open or draining binding has been used for; zero for
// an unknown id.
func (r *Router) Usage(id string) ohrouter.Usage {
	r.mu.Lock()
	defer r.mu.Unlock()
	b := r.bindings[id]
	if b == nil {
		return ohrouter.Usage{}
	}
	u := b.usage
	u.Sessions = len(b.sessions)
	u.SessionsTotal += uint64(len(b.sessions))
	for _, s := range b.sessions {
		if s.link != nil {
			u.Standing++
		}
		u.BytesUp += s.live.AB.Load()
		u.BytesDown += s.live.BA.Load()
	}
	return u
}

// CloseIdle closes a binding's port if no session is open, and tells whether
// it did.
func (r *Router) CloseIdle(id string) bool {
	r.mu.Lock()
	b := r.bindings[id]
	if b != nil && len(b.sessions) > 0 {
		r.mu.Unlock()
		return false
	}
	parked := r.stopBinding(id, b)
	if b != nil {
		delete(r.bindings, id)
	}
	r.mu.Unlock()
	r.discard(parked)
	return true
}

// Stop closes a binding's port at once. Its sessions go on.
func (r *Router) Stop(id string) {
	r.mu.Lock()
	parked := r.stopBinding(id, r.bindings[id])
	r.mu.Unlock()
	r.discard(parked)
}

// stopBinding closes a binding's listener and returns the link that is parked
// for it. The caller holds mu.
func (r *Router) stopBinding(id string, b *binding) *parkedLink {
	if b != nil {
		b.stopListening()
	}
	return r.parked.take(id)
}

// stopListening closes the port. The caller holds Router.mu.
func (b *binding) stopListening() {
	if b.stopped {
		return
	}
	b.stopped = true
	b.listener.Close()
	delete(b.router.ports, b.at().Port())
	b.router.cfg.Descriptors.Release(1)
	if len(b.sessions) == 0 {
		close(b.idle)
	}
}

// Close closes a binding's port, waits for its sessions until ctx is done,
// resets the rest, and returns when all have ended.
func (r *Router) Close(ctx context.Context, id string) {
	r.Stop(id)
	r.mu.Lock()
	b := r.bindings[id]
	r.mu.Unlock()
	if b == nil {
		return
	}
	r.end(ctx, b, ohrouter.BindingClosed)
	r.mu.Lock()
	delete(r.bindings, id)
	r.mu.Unlock()
}

// end waits for the sessions of a stopped binding until ctx is done and then
// cuts the rest.
func (r *Router) end(ctx context.Context, b *binding, outcome ohrouter.Outcome) {
	select {
	case <-b.idle:
		return
	case <-ctx.Done():
	}
	r.mu.Lock()
	rest := slices.Collect(maps.Values(b.sessions))
	r.mu.Unlock()
	for _, s := range rest {
		s.cut(outcome)
	}
	<-b.idle
}
