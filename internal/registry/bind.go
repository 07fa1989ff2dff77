package registry

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
)

// Bind returns the binding of a target, and tells whether this call created
// it. The target is connected to before Bind answers, unless the spec says
// otherwise, a session of the binding is open or one succeeded just now. When
// the check fails, so does Bind, with the check's code; a binding that existed
// before stays.
//
// Errors have the codes [ohrouter.InvalidRequest], [ohrouter.Conflict],
// [ohrouter.NoProxy], [ohrouter.PortsExhausted], [ohrouter.Draining],
// [ohrouter.Internal], or what the check found.
func (r *Registry) Bind(ctx context.Context, spec ohrouter.BindingSpec) (ohrouter.Binding, bool, error) {
	spec, err := r.checked(spec)
	if err != nil {
		return ohrouter.Binding{}, false, err
	}
	for {
		t, err := r.board(ctx, spec)
		if err != nil {
			return ohrouter.Binding{}, false, err
		}
		if t.flight == nil {
			return r.snapshot(t.bound), false, nil
		}
		if err := r.wait(ctx, spec.Target, t.flight); err != nil {
			return ohrouter.Binding{}, false, err
		}
		f := t.flight
		if f.err != nil && (t.own || f.failed && t.same && wantsCheck(spec)) {
			return ohrouter.Binding{}, false, f.err
		}
		if t.own && f.bound != nil {
			return r.snapshot(f.bound), f.created, nil
		}
	}
}

// ticket is what a bind call gets: a binding that is good as it is, or a flight
// to wait for.
type ticket struct {
	bound  *binding
	flight *flight
	own    bool // the flight was started for this call
	same   bool // the flight checks what this call asks for
}

// board looks for what exists and starts a flight where it has to.
func (r *Registry) board(ctx context.Context, spec ohrouter.BindingSpec) (ticket, error) {
	id, usage := r.usageOf(spec.Target)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.draining {
		return ticket{}, ohrouter.Errorf(ohrouter.Draining, "the router is shutting down and takes no new binds")
	}
	b, f := r.byTarget[spec.Target], r.flights[spec.Target]
	if b != nil {
		if err := b.agrees(spec); err != nil {
			return ticket{}, err
		}
		now := time.Now()
		b.usedAt = now
		if b.kept.ID != id {
			usage = ohrouter.Usage{}
		}
		if !wantsCheck(spec) || b.fresh(usage, now) {
			return ticket{bound: b}, nil
		}
	} else if f == nil && spec.Proxy != "" && r.cfg.KnowsProxy != nil && !r.cfg.KnowsProxy(spec.Proxy) {
		return ticket{}, ohrouter.Errorf(ohrouter.NoProxy, "no proxy is named %.40q; GET /v1/proxies lists them", spec.Proxy)
	}

	t := ticket{flight: f, own: f == nil}
	switch {
	case f != nil:
	case b != nil:
		t.flight = r.launch(ctx, spec.Target, func(ctx context.Context, f *flight) { r.recheck(ctx, f, b) })
	default:
		t.flight = r.launch(ctx, spec.Target, func(ctx context.Context, f *flight) { r.create(ctx, f, spec) })
		t.flight.proxy = spec.Proxy
	}
	t.same = b != nil || t.flight.proxy == spec.Proxy
	t.flight.waiting++
	return t, nil
}

// usageOf returns the id and the usage of the target's binding, if it has one.
func (r *Registry) usageOf(t ohrouter.Target) (string, ohrouter.Usage) {
	r.mu.Lock()
	var id string
	if b := r.byTarget[t]; b != nil {
		id = b.kept.ID
	}
	r.mu.Unlock()
	if id == "" {
		return "", ohrouter.Usage{}
	}
	return id, r.cfg.Listeners.Usage(id)
}

// recheck is the flight that checks an existing binding.
func (r *Registry) recheck(ctx context.Context, f *flight, b *binding) {
	proxy, check, err := r.cfg.Listeners.Check(ctx, r.snapshot(b))

	r.mu.Lock()
	active := b.state == ohrouter.BindingActive
	if active && !f.abandoned {
		b.note(check, err, time.Now())
	}
	id, moved := b.kept.ID, err == nil && !b.kept.Pinned && b.kept.Proxy != proxy
	r.mu.Unlock()

	switch {
	case !active: // ended meanwhile; callers look again
		r.cfg.Listeners.Close(done(), id)
	case err != nil:
		f.err, f.failed = err, true
	default:
		if moved {
			r.move(b, proxy)
		}
		f.bound = b
	}
}

// move notes that another proxy serves the binding now. That is not stored: it
// is found again by the next check.
func (r *Registry) move(b *binding, proxy string) {
	b.op.Lock()
	defer b.op.Unlock()
	r.mu.Lock()
	if b.state != ohrouter.BindingActive {
		r.mu.Unlock()
		return
	}
	next := *b.kept
	next.Proxy = proxy
	b.kept, b.slot.kept = &next, &next
	r.mu.Unlock()
	if err := r.cfg.Listeners.Open(r.snapshot(b)); err != nil {
		r.log.Warn("binding not updated", "binding", next.ID, "error", err)
	}
}

// create is the flight that makes a new binding: check, open, store, show.
func (r *Registry) create(ctx context.Context, f *flight, spec ohrouter.BindingSpec) {
	b := &binding{facts: facts{kept: r.stored(spec), target: spec.Target, state: ohrouter.BindingActive}}
	if wantsCheck(spec) {
		proxy, check, err := r.cfg.Listeners.Check(ctx, b.snapshot(ohrouter.Usage{}, time.Now()))
		if err != nil {
			f.err, f.failed = err, true
			return
		}
		b.note(check, nil, time.Now())
		b.kept.Proxy = proxy
	}
	if err := r.install(ctx, b, spec.Port); err != nil {
		r.cfg.Listeners.Close(done(), b.kept.ID)
		f.err = err
		return
	}
	f.bound, f.created = b, true
	r.log.Info("binding created", "binding", b.kept.ID, "target", b.target, "port", b.port)
}

// note keeps the result of a check.
func (f *facts) note(check ohrouter.Check, err error, now time.Time) {
	check.OK = err == nil
	f.check = &check
	if err == nil {
		f.okAt = now
		return
	}
	f.failure = &ohrouter.Failure{Code: ohrouter.CodeOf(err), Message: ohrouter.Message(err), At: now}
}

// install gives a new binding its port, stores it and makes it visible. On
// error its sessions, if it had any already, are left to the caller.
func (r *Registry) install(ctx context.Context, b *binding, asked uint16) error {
	if err := r.open(ctx, b, asked); err != nil {
		return err
	}
	s := b.slot
	r.mu.Lock()
	now := time.Now()
	b.kept.CreatedAt, b.kept.ExpiresAt = now, expiry(b.kept.TTL, now)
	b.usedAt = now
	before := s.record()
	s.target, s.kept, s.endedAt, s.restsUntil = b.target, b.kept, time.Time{}, time.Time{}
	r.mu.Unlock()

	if err := r.put(context.WithoutCancel(ctx), s); err != nil {
		r.cfg.Listeners.Stop(b.kept.ID) // before others may have the port
		r.mu.Lock()
		defer r.mu.Unlock()
		s.target, s.kept, s.endedAt, s.restsUntil = before.Target, nil, before.EndedAt, before.RestsUntil
		r.ports.unhold(s)
		r.soil(s)
		return &ohrouter.Error{
			Code:    ohrouter.Internal,
			Message: fmt.Sprintf("the router's state store did not take the binding of %s; see --state and the router's log", b.target),
			Err:     err,
		}
	}

	r.mu.Lock()
	defer r.mu.Unlock()
	r.byTarget[b.target], r.byID[b.kept.ID] = b, b
	r.schedule(b, b.dueAt(b.idleEnd(ohrouter.Usage{})))
	return nil
}

// open finds a port that can be listened on and opens it. Only then is it
// known to be free: other programs take ports without asking.
func (r *Registry) open(ctx context.Context, b *binding, asked uint16) error {
	q := &search{target: b.target, asked: asked, tried: make(map[*slot]bool)}
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		r.mu.Lock()
		s, err := r.ports.reserve(q, time.Now())
		r.mu.Unlock()
		if err != nil {
			return err
		}
		b.slot, b.port = s, s.port
		err = r.cfg.Listeners.Open(b.snapshot(ohrouter.Usage{}, time.Now()))
		if err == nil {
			return nil
		}
		r.mu.Lock()
		r.ports.unhold(s)
		r.mu.Unlock()
		if _, explained := errors.AsType[*ohrouter.Error](err); explained {
			return err // out of descriptors, or shutting down
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			return &ohrouter.Error{
				Code:    ohrouter.Internal,
				Message: fmt.Sprintf("the router cannot listen on its port %d", s.port),
				Err:     err,
			}
		}
		q.tried[s] = true
	}
}

// done returns a context that is over.
func done() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}
