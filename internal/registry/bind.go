package registry

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/audit"
)

// Bind returns the owner's binding of a target, and tells whether this call
// created it. The target is connected to before Bind answers, unless the spec says
// otherwise, a session of the binding is open or one succeeded just now. When
// the check fails, so does Bind, with the check's code; a binding that existed
// before stays.
//
// Errors have the codes [ohrouter.InvalidRequest], [ohrouter.Conflict],
// [ohrouter.NoProxy], [ohrouter.PortsExhausted], [ohrouter.Draining],
// [ohrouter.Internal], [ohrouter.QuotaExceeded], [ohrouter.Unauthorized] when
// the owner's token has ended, or what the check found.
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
	c := claim{spec.Owner, spec.Target}
	id, usage := r.usageOf(c)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.draining {
		return ticket{}, ohrouter.Errorf(ohrouter.Draining, "the router is shutting down and takes no new binds")
	}
	b, f := r.byClaim[c], r.flights[c]
	token, err := r.tokenOf(c.owner)
	if err != nil {
		return ticket{}, err
	}
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
	} else {
		spec = granted(spec, token.Grant)
		if err := r.mayCreate(spec, token.Grant, f); err != nil {
			return ticket{}, err
		}
	}

	t := ticket{flight: f, own: f == nil}
	switch {
	case f != nil:
	case b != nil:
		t.flight = r.launch(ctx, c, func(ctx context.Context, f *flight) { r.recheck(ctx, f, b) })
	default:
		t.flight = r.launch(ctx, c, func(ctx context.Context, f *flight) { r.create(ctx, f, spec, token) })
		t.flight.proxy, t.flight.creates = spec.Proxy, true
	}
	t.same = b != nil || t.flight.proxy == spec.Proxy
	t.flight.waiting++
	return t, nil
}

// usageOf returns the id and the usage of the claim's binding, if it has one.
func (r *Registry) usageOf(c claim) (string, ohrouter.Usage) {
	r.mu.Lock()
	var id string
	if b := r.byClaim[c]; b != nil {
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
		r.cfg.Listeners.Stop(id) // Check has kept a connection; sessions may be draining yet
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
func (r *Registry) create(ctx context.Context, f *flight, spec ohrouter.BindingSpec, owner ohrouter.Token) {
	b := &binding{facts: facts{
		claim: claim{spec.Owner, spec.Target}, kept: r.stored(spec), state: ohrouter.BindingActive,
		ownerName: owner.Name, ownerSessions: owner.MaxSessions,
	}}
	if wantsCheck(spec) {
		proxy, check, err := r.cfg.Listeners.Check(ctx, b.snapshot(ohrouter.Usage{}, time.Now()))
		if err != nil {
			f.err, f.failed = err, true
			return
		}
		b.note(check, nil, time.Now())
		b.kept.Proxy = proxy
	}
	if err := r.install(ctx, f, b, newSearch(b.claim, spec.Port, owner.Ports)); err != nil {
		r.cfg.Listeners.Close(done(), b.kept.ID)
		f.err = err
		return
	}
	f.bound, f.created = b, true
	r.logOf(b.claim).Info("binding created", "binding", b.kept.ID, "target", b.target, "port", b.port)
	r.record(ctx, audit.BindingCreated, b, "")
}

// note keeps the result of a check.
func (f *facts) note(check ohrouter.Check, err error, now time.Time) {
	check.OK = err == nil
	f.check = &check
	if err == nil {
		f.okAt = now
		return
	}
	f.failure = &ohrouter.Failure{Code: ohrouter.CodeOf(err), Message: ohrouter.Message(err), At: now.UTC()}
}

// install gives a new binding its port, stores it and makes it visible. On
// error its sessions, if it had any already, are left to the caller.
func (r *Registry) install(ctx context.Context, f *flight, b *binding, q *search) error {
	if err := r.open(ctx, b, q); err != nil {
		return err
	}
	s := b.slot
	r.mu.Lock()
	now := time.Now()
	token, err := r.tokenOf(b.owner)
	b.kept.CreatedAt, b.kept.ExpiresAt = now, expiry(b.kept.TTL, now, token.ExpiresAt)
	b.usedAt = now
	before := s.record()
	s.claim, s.kept, s.endedAt, s.restsUntil = b.claim, b.kept, time.Time{}, time.Time{}
	f.opened = b.kept.ID
	r.mu.Unlock()

	if err == nil {
		err = r.putNew(ctx, b)
	}
	if err == nil {
		err = r.show(f, b)
	}
	if err != nil {
		r.cfg.Listeners.Stop(b.kept.ID) // before others may have the port
		usage := r.cfg.Listeners.Usage(b.kept.ID)
		r.mu.Lock()
		defer r.mu.Unlock()
		// Somebody may know the port: who had it before. Where a revocation has
		// closed it, nothing tells any more whether anybody has used it.
		if ohrouter.CodeOf(err) == ohrouter.Unauthorized || usage.SessionsTotal > 0 {
			r.rest(b, time.Now())
		} else {
			s.claim, s.kept, s.endedAt, s.restsUntil = before.claim(), nil, before.EndedAt, before.RestsUntil
			r.ports.unhold(s)
		}
		r.soil(s)
	}
	return err
}

// putNew stores the port of a new binding.
func (r *Registry) putNew(ctx context.Context, b *binding) error {
	if err := r.put(context.WithoutCancel(ctx), b.slot); err != nil {
		return &ohrouter.Error{
			Code:    ohrouter.Internal,
			Message: fmt.Sprintf("the router's state store did not take the binding of %s; see --state and the router's log", b.target),
			Err:     err,
		}
	}
	return nil
}

// show makes a new binding visible, unless its owner's token has ended
// meanwhile: whoever ends the bindings of that owner does not see this one.
func (r *Registry) show(f *flight, b *binding) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	f.opened = ""
	if _, err := r.tokenOf(b.owner); err != nil {
		return err
	}
	r.byClaim[b.claim], r.byID[b.kept.ID] = b, b
	r.schedule(b, b.dueAt(b.idleEnd(ohrouter.Usage{})))
	return nil
}

// open finds a port that can be listened on and opens it. Only then is it
// known to be free: other programs take ports without asking.
func (r *Registry) open(ctx context.Context, b *binding, q *search) error {
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
