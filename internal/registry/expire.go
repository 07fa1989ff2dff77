package registry

import (
	"context"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/audit"
)

// busyRetry is how long the clock leaves a binding alone that somebody else is
// changing.
const busyRetry = time.Second

// expire ends bindings as they become due, until ctx ends. One timer serves
// all: a binding that has been used in the meantime is due again later, so that
// its use costs nothing here.
func (r *Registry) expire(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.wake:
		case <-timer.C:
		}
		for ctx.Err() == nil {
			r.mu.Lock()
			b := r.clock.pop(time.Now())
			r.mu.Unlock()
			if b == nil {
				break
			}
			r.examine(b)
		}
		r.mu.Lock()
		if next, ok := r.clock.next(); ok {
			timer.Reset(time.Until(next))
		}
		r.mu.Unlock()
	}
}

// schedule makes b due at t. It is called with mu held.
func (r *Registry) schedule(b *binding, t time.Time) {
	if r.clock.set(b, t) {
		signal(r.wake)
	}
}

// examine ends b if its time has come, else makes it due again.
func (r *Registry) examine(b *binding) {
	if !b.op.TryLock() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if b.state == ohrouter.BindingActive {
			r.schedule(b, time.Now().Add(busyRetry))
		}
		return
	}
	defer b.op.Unlock()
	usage := r.cfg.Listeners.Usage(b.kept.ID)
	now := time.Now()

	r.mu.Lock()
	if b.state != ohrouter.BindingActive {
		r.mu.Unlock()
		return
	}
	if b.expired(now) {
		r.mu.Unlock()
		r.end(context.Background(), b, 0, "ttl")
		r.mu.Lock()
		r.soil(b.slot)
		r.mu.Unlock()
		return
	}
	idle := b.idleEnd(usage)
	if usage.Sessions > 0 || r.flights[b.claim] != nil { // a session, or a bind that is being answered
		idle = b.idleFrom(now)
	}
	if idle.IsZero() || now.Before(idle) {
		r.schedule(b, b.dueAt(idle))
		r.mu.Unlock()
		return
	}
	f := r.withdraw(b)
	r.mu.Unlock()
	r.closeIdle(b, f)
}

// closeIdle ends a withdrawn binding, unless a session has come at the last
// moment.
func (r *Registry) closeIdle(b *binding, f *flight) {
	closed := r.cfg.Listeners.CloseIdle(b.kept.ID)
	now := time.Now()
	r.mu.Lock()
	if closed {
		b.state = ohrouter.BindingDraining
		r.rest(b, now)
		r.soil(b.slot)
	} else {
		r.byClaim[b.claim] = b
		r.schedule(b, b.dueAt(b.idleFrom(now)))
	}
	r.land(b.claim, f)
	r.mu.Unlock()
	if closed {
		r.logOf(b.claim).Info("binding ended", "binding", b.kept.ID, "target", b.target, "port", b.port, "reason", "idle")
		r.record(context.Background(), audit.BindingEnded, b, "idle")
	}
}
