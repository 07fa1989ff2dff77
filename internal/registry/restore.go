package registry

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/audit"
)

// Restore loads the store and opens the listeners of the bindings that it
// holds, each at its port and under its id, with a new idle clock. It is called
// before anything else, once.
//
// A binding whose ttl or whose owner's token has ended, whose port is outside
// the range or taken by another program now is dropped; its port stays its
// target's for the quarantine. When a port cannot be opened for another reason, Restore returns
// an error and nothing is forgotten.
func (r *Registry) Restore(ctx context.Context) error {
	if r.cfg.Store == nil {
		return nil
	}
	records, err := r.cfg.Store.Load(ctx)
	if err != nil {
		return fmt.Errorf("load the bindings: %w", err)
	}
	// The newest of a claim first: the end of a former one may not have come to
	// the store, while that of the newest's bind has.
	slices.SortFunc(records, func(a, b Record) int { return b.createdAt().Compare(a.createdAt()) })
	now := time.Now()
	for i := range records {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("restore the bindings: %w", err)
		}
		if err := r.restore(ctx, &records[i], now); err != nil {
			return err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.log.Info("bindings restored", "bindings", len(r.byID), "ports_free", r.ports.free(now))
	return nil
}

// restore takes over what a record says.
func (r *Registry) restore(ctx context.Context, rec *Record, now time.Time) error {
	s := r.adopt(rec, now)
	if rec.Binding == nil {
		return nil
	}
	r.mu.Lock()
	token, revoked := r.tokenOf(rec.Owner)
	r.mu.Unlock()
	b := &binding{slot: s, facts: facts{
		claim: rec.claim(), kept: rec.Binding, port: rec.Port, ownerName: token.Name, ownerSessions: token.MaxSessions,
		state: ohrouter.BindingActive, usedAt: now,
	}}
	dropped, endedAt := "", now
	switch {
	case b.expired(now):
		dropped, endedAt = "its ttl has ended", b.kept.ExpiresAt
	case revoked != nil:
		dropped = "its owner's token has ended or was revoked"
	case r.cfg.NeedAllow && len(b.kept.Allow) == 0:
		dropped = "it has no allow list, and its port would be in reach of other machines: bind it again"
	case !r.ports.contains(rec.Port):
		dropped = "its port is outside " + r.ports.String()
	case r.byClaim[b.claim] != nil:
		dropped = "its target has another binding"
	default:
		err := r.cfg.Listeners.Open(b.snapshot(ohrouter.Usage{}, now))
		if err != nil && !errors.Is(err, syscall.EADDRINUSE) {
			return fmt.Errorf("open port %d of binding %s again: %w", rec.Port, b.kept.ID, err)
		}
		if err != nil {
			dropped = "another program has its port"
		}
	}

	if dropped != "" {
		defer r.record(ctx, audit.BindingEnded, b, dropped)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if dropped == "" {
		s.kept = b.kept
		r.byClaim[b.claim], r.byID[b.kept.ID] = b, b
		r.schedule(b, b.dueAt(b.idleEnd(ohrouter.Usage{})))
		return nil
	}
	s.endedAt, s.restsUntil = endedAt, endedAt.Add(r.quarantine)
	if r.ports.contains(rec.Port) {
		r.ports.unhold(s)
	}
	r.soil(s)
	r.logOf(b.claim).Warn("binding dropped", "binding", b.kept.ID, "target", b.target, "port", b.port, "reason", dropped)
	return nil
}

// adopt returns the slot of a record: held when a binding uses it, else at rest
// as the record says. A slot outside the range is nobody's.
func (r *Registry) adopt(rec *Record, now time.Time) *slot {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.ports.contains(rec.Port) {
		return &slot{port: rec.Port, claim: rec.claim()}
	}
	s := r.ports.at(rec.Port)
	s.claim, s.endedAt, s.restsUntil = rec.claim(), rec.EndedAt, rec.RestsUntil
	if rec.EndedAt.After(now) { // the machine's clock was set back: rest as long, but from now
		s.endedAt, s.restsUntil = now, now.Add(rec.RestsUntil.Sub(rec.EndedAt))
	}
	if rec.Binding != nil {
		s.held = true
		return s
	}
	r.ports.unhold(s)
	return s
}
