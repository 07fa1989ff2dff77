package registry

import (
	"cmp"
	"context"
	"crypto/rand"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
)

// claim is what has one binding at most: a target, and whose it is.
type claim struct {
	owner  string // id of a token; "" without tokens
	target ohrouter.Target
}

// binding is one target mapped to one port, until it is ended.
type binding struct {
	// op is held by whoever changes or ends the binding, also while its
	// listener and the store follow. It is taken before Registry.mu.
	op sync.Mutex

	// All below is guarded by Registry.mu.
	facts
	slot  *slot
	due   time.Time          // when the clock looks at it
	index int                // its place in the clock; 0 none
	cut   context.CancelFunc // ends the drain; nil before
}

// facts is what a snapshot of a binding is made of. What its pointers lead to
// is replaced and never changed, so that a copy may be read without a lock.
type facts struct {
	claim
	kept    *Stored
	port    uint16
	state   ohrouter.BindingState
	usedAt  time.Time // the end of the last bind call, or its begin while it goes on
	okAt    time.Time // the last check that succeeded; zero before the first
	check   *ohrouter.Check
	failure *ohrouter.Failure // the last check that failed

	ownerName     string // of the owner's token
	ownerSessions int    // its quota
}

// newID returns an id that nobody can guess.
func newID() string { return "b-" + strings.ToLower(rand.Text()[:10]) }

// snapshot returns the binding as callers see it, whose times are UTC.
func (f *facts) snapshot(u ohrouter.Usage, now time.Time) ohrouter.Binding {
	b := ohrouter.Binding{
		ID:            f.kept.ID,
		Owner:         ohrouter.Optional(f.owner),
		OwnerName:     f.ownerName,
		OwnerSessions: f.ownerSessions,
		Target:        f.target,
		Proxy:         ohrouter.Optional(f.kept.Proxy),
		Pinned:        f.kept.Pinned,
		Port:          f.port,
		State:         f.state,
		CreatedAt:     f.kept.CreatedAt.UTC(),
		LastUsedAt:    later(f.usedAt, u.LastEnd).UTC(),
		IdleTimeout:   f.kept.IdleTimeout,
		Allow:         append([]netip.Prefix{}, f.kept.Allow...),
		MaxSessions:   f.kept.MaxSessions,
		Labels:        make(map[string]string, len(f.kept.Labels)),
		ProxyProtocol: ohrouter.Optional(f.kept.ProxyProtocol),
		Sessions:      u.Sessions,
		SessionsTotal: u.SessionsTotal,
		BytesUp:       u.BytesUp,
		BytesDown:     u.BytesDown,
		LastError:     newer(f.failure, u.LastError),
	}
	maps.Copy(b.Labels, f.kept.Labels)
	if u.Sessions > 0 {
		b.LastUsedAt = now.UTC()
	}
	if !f.kept.ExpiresAt.IsZero() {
		b.ExpiresAt = new(f.kept.ExpiresAt.UTC())
	}
	if f.check != nil {
		b.LastCheck = new(*f.check)
	}
	return b
}

// newer returns a copy of the later failure; nil when there is none.
func newer(a, b *ohrouter.Failure) *ohrouter.Failure {
	switch {
	case a == nil && b == nil:
		return nil
	case a == nil || b != nil && b.At.After(a.At):
		return new(*b)
	}
	return new(*a)
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// freshFor is how long a success stands for a check.
const freshFor = 30 * time.Second

// fresh tells whether a bind may do without a check.
func (f *facts) fresh(u ohrouter.Usage, now time.Time) bool {
	ok := later(f.okAt, u.LastOK)
	return u.Standing > 0 || !ok.IsZero() && now.Sub(ok) < freshFor
}

// idleEnd returns when the binding has been idle for long enough; zero: never.
func (f *facts) idleEnd(u ohrouter.Usage) time.Time {
	return f.idleFrom(later(f.usedAt, u.LastEnd))
}

// idleFrom returns when the binding has been idle for long enough if its last
// use is at t; zero: never.
func (f *facts) idleFrom(t time.Time) time.Time {
	if f.kept.IdleTimeout == 0 {
		return time.Time{}
	}
	return t.Add(time.Duration(f.kept.IdleTimeout))
}

// expired tells whether the ttl has ended.
func (f *facts) expired(now time.Time) bool {
	return !f.kept.ExpiresAt.IsZero() && !now.Before(f.kept.ExpiresAt)
}

// dueAt returns the earlier of idle and the end of the ttl; zero: never.
func (f *facts) dueAt(idle time.Time) time.Time {
	ttl := f.kept.ExpiresAt
	if idle.IsZero() || !ttl.IsZero() && ttl.Before(idle) {
		return ttl
	}
	return idle
}

// Bindings returns a snapshot of every binding, draining ones included, the
// oldest first. Host and Address are left empty.
func (r *Registry) Bindings() []ohrouter.Binding {
	r.mu.Lock()
	all := make([]facts, 0, len(r.byID))
	for _, b := range r.byID {
		all = append(all, b.facts)
	}
	r.mu.Unlock()

	now := time.Now()
	list := make([]ohrouter.Binding, len(all))
	for i := range all {
		list[i] = all[i].snapshot(r.cfg.Listeners.Usage(all[i].kept.ID), now)
	}
	slices.SortFunc(list, func(a, b ohrouter.Binding) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.ID, b.ID))
	})
	return list
}

// Binding returns a snapshot of one binding, or an error with code
// [ohrouter.NotFound].
func (r *Registry) Binding(id string) (ohrouter.Binding, error) {
	r.mu.Lock()
	b := r.byID[id]
	r.mu.Unlock()
	if b == nil {
		return ohrouter.Binding{}, unknown(id)
	}
	return r.snapshot(b), nil
}

// snapshot returns what callers see of b now.
func (r *Registry) snapshot(b *binding) ohrouter.Binding {
	r.mu.Lock()
	f := b.facts
	r.mu.Unlock()
	return f.snapshot(r.cfg.Listeners.Usage(f.kept.ID), time.Now())
}

func unknown(id string) error {
	return ohrouter.Errorf(ohrouter.NotFound, "no binding has the id %.40q", id)
}

// grab returns a binding with its op held: until the caller calls leave, nobody
// else changes or ends it, and Run waits, so that what becomes of it is stored.
func (r *Registry) grab(id string) (*binding, error) {
	r.mu.Lock()
	b := r.byID[id]
	if b == nil {
		r.mu.Unlock()
		return nil, unknown(id)
	}
	if r.closed {
		r.mu.Unlock()
		return nil, ohrouter.Errorf(ohrouter.Draining, "the router is shutting down, and keeps its bindings as they are")
	}
	r.work.Add(1)
	r.mu.Unlock()
	b.op.Lock()
	r.mu.Lock()
	there := r.byID[id] == b
	r.mu.Unlock()
	if !there {
		r.leave(b)
		return nil, unknown(id)
	}
	return b, nil
}

// leave gives back what grab returned.
func (r *Registry) leave(b *binding) {
	b.op.Unlock()
	r.work.Done()
}
