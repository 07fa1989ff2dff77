package registry

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/audit"
)

// Patch changes a binding and returns it as it is then. Errors have the codes
// [ohrouter.InvalidRequest], [ohrouter.NotFound], [ohrouter.Conflict] while it
// drains, [ohrouter.Draining] at the end of Run, or [ohrouter.Internal]; then
// nothing has changed.
func (r *Registry) Patch(ctx context.Context, id string, p ohrouter.BindingPatch) (ohrouter.Binding, error) {
	b, err := r.grab(id)
	if err != nil {
		return ohrouter.Binding{}, err
	}
	defer r.leave(b)
	r.mu.Lock()
	before := b.facts
	r.mu.Unlock()
	if before.state != ohrouter.BindingActive {
		return ohrouter.Binding{}, ohrouter.Errorf(ohrouter.Conflict, "binding %s is draining and cannot be changed any more", id)
	}
	r.mu.Lock()
	token, err := r.tokenOf(before.owner)
	r.mu.Unlock()
	if err != nil { // its end is under way
		return ohrouter.Binding{}, unknown(id)
	}
	next, err := patched(before.kept, p, time.Now(), token.ExpiresAt)
	if err != nil {
		return ohrouter.Binding{}, err
	}
	if err := r.replace(context.WithoutCancel(ctx), b, next); err != nil {
		return ohrouter.Binding{}, err
	}
	r.record(ctx, audit.BindingChanged, b, "")
	return r.snapshot(b), nil
}

// replace stores next as what is kept of b and applies it to the listener. It
// is called with b.op held; on error b is as it was.
func (r *Registry) replace(ctx context.Context, b *binding, next *Stored) error {
	adopt := func(kept *Stored) {
		r.mu.Lock()
		defer r.mu.Unlock()
		b.kept, b.slot.kept = kept, kept
	}
	before := b.kept
	adopt(next)
	err := r.put(ctx, b.slot)
	what := "the router's state store did not take the change of"
	r.mu.Lock()
	_, revoked := r.tokenOf(b.owner)
	r.mu.Unlock()
	if revoked != nil { // its port is closed already, and who ends it waits for op
		return unknown(before.ID)
	}
	if err == nil {
		what = "the router's listener did not take the change of"
		err = r.cfg.Listeners.Open(r.snapshot(b))
	}
	if err != nil {
		adopt(before)
		r.mu.Lock()
		defer r.mu.Unlock()
		r.soil(b.slot)
		return &ohrouter.Error{Code: ohrouter.Internal, Message: fmt.Sprintf("%s %s; see the router's log", what, before.ID), Err: err}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.schedule(b, b.dueAt(b.idleEnd(ohrouter.Usage{})))
	return nil
}

// Release ends a binding. When it returns, the port refuses connections and the
// target can be bound anew. Sessions may finish for as long as drain says, and
// the binding is listed until they have; then, or at once without a drain, they
// are reset. Release waits for none of that. To release a draining binding
// without a drain cuts it; with one, it changes nothing. Errors have the codes
// [ohrouter.NotFound], or [ohrouter.Draining] at the end of Run.
func (r *Registry) Release(ctx context.Context, id string, drain time.Duration) error {
	return r.release(ctx, id, drain, "released")
}

// ReleaseOwned ends every binding of an owner, sessions included, and then waits
// for the store. Once the owner's token is not valid any more, none is left
// then, and none comes: a bind that is under way fails.
func (r *Registry) ReleaseOwned(ctx context.Context, owner string) error {
	r.mu.Lock()
	var ids []string
	for id, b := range r.byID {
		if b.owner == owner {
			ids = append(ids, id)
		}
	}
	for c, f := range r.flights {
		if c.owner == owner && f.opened != "" {
			ids = append(ids, f.opened) // its bind fails once the store has answered
		}
	}
	r.mu.Unlock()
	var group errgroup.Group // without a limit: none waits until others are stored
	for _, id := range ids {
		group.Go(func() error {
			r.cfg.Listeners.Close(done(), id) // at once: a change of it may be being stored
			err := r.release(ctx, id, 0, "revoked")
			if code := ohrouter.CodeOf(err); code == ohrouter.NotFound || code == ohrouter.Draining {
				err = nil // it has ended by itself, is never seen, or does not survive a restart
			}
			r.cfg.Listeners.Close(done(), id) // its end may be under way: this waits for it
			return err
		})
	}
	return group.Wait()
}

func (r *Registry) release(ctx context.Context, id string, drain time.Duration, reason string) error {
	b, err := r.grab(id)
	if err != nil {
		return err
	}
	defer r.leave(b)
	r.mu.Lock()
	cut := b.cut
	r.mu.Unlock()
	if cut != nil {
		if drain <= 0 {
			cut()
		}
		return nil
	}
	r.end(ctx, b, max(drain, 0), reason)
	r.save(context.WithoutCancel(ctx), b.slot)
	return nil
}

// end takes b out of service: nobody is offered it any more, its listener is
// closed, and its sessions have until the drain or the ttl ends, in a goroutine
// of their own. It is called with b.op held; the caller sees to the record.
func (r *Registry) end(ctx context.Context, b *binding, drain time.Duration, reason string) {
	r.mu.Lock()
	f := r.withdraw(b)
	r.clock.remove(b)
	b.state = ohrouter.BindingDraining
	r.mu.Unlock()
	// Before the port rests and binds of the target go on: they may be given it.
	r.cfg.Listeners.Stop(b.kept.ID)

	r.mu.Lock()
	now := time.Now()
	deadline := now.Add(drain)
	if e := b.kept.ExpiresAt; !e.IsZero() && e.Before(deadline) {
		deadline = later(now, e)
	}
	draining, cancel := context.WithDeadline(context.Background(), deadline)
	b.cut = cancel
	if drain > 0 {
		b.slot.kept, b.slot.endedAt, b.slot.restsUntil = nil, now, deadline.Add(r.quarantine)
	} else {
		cancel()
		r.rest(b, now)
	}
	going := r.start(func() { r.drain(draining, b) })
	r.land(b.claim, f)
	r.mu.Unlock()
	r.logOf(b.claim).Info("binding ended", "binding", b.kept.ID, "target", b.target, "port", b.port, "reason", reason)
	r.record(ctx, audit.BindingEnded, b, reason)
	if !going {
		cancel()
		r.drain(draining, b)
	}
}

// drain waits for the sessions of b until ctx is done, cuts the rest, and lets
// the port rest if it does not already.
func (r *Registry) drain(ctx context.Context, b *binding) {
	r.cfg.Listeners.Close(ctx, b.kept.ID)
	r.mu.Lock()
	b.cut()
	listed := r.byID[b.kept.ID] == b
	if listed {
		r.rest(b, time.Now())
	}
	r.mu.Unlock()
	if listed {
		r.save(context.Background(), b.slot)
	}
}

// rest forgets b and lets its port rest from now on. It is called with mu held.
func (r *Registry) rest(b *binding, now time.Time) {
	delete(r.byID, b.kept.ID)
	s := b.slot
	s.kept, s.endedAt, s.restsUntil = nil, now, now.Add(r.quarantine)
	r.ports.unhold(s)
}
