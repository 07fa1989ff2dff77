package registry

import (
	"context"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
)

// flight is work on one claim that concurrent callers share. It runs in a
// goroutine of its own, so that a caller who leaves takes nobody's answer
// away, and is cancelled once all have left.
type flight struct {
	done   chan struct{} // closed when the flight is over
	cancel context.CancelFunc

	// Guarded by Registry.mu.
	proxy     string // the name that a new binding asks for
	creates   bool   // there is to be a new binding
	opened    string // id of the new binding while it listens and nobody can see it yet
	waiting   int    // callers who want the result
	abandoned bool   // cancelled: the result means nothing

	// The result; written before done is closed, read after.
	bound   *binding // what the flight made or checked; nil: look again
	created bool
	err     error
	failed  bool // err is the check's: it holds for all who asked for the same
}

// abandon cancels the flight. It is called with Registry.mu held.
func (f *flight) abandon() {
	f.abandoned = true
	f.cancel()
}

// launch starts a flight on c. It is called with mu held, while there is no
// flight on c and the registry is not closed.
func (r *Registry) launch(ctx context.Context, c claim, work func(context.Context, *flight)) *flight {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	f := &flight{done: make(chan struct{}), cancel: cancel}
	r.flights[c] = f
	r.start(func() {
		defer cancel()
		work(ctx, f)
		r.mu.Lock()
		defer r.mu.Unlock()
		r.land(c, f)
	})
	return f
}

// land ends a flight; nil is none. The binding is used from now on, also when it
// was checked and that failed: a check, or a disk, may take longer than it may be
// idle. It is called with mu held.
func (r *Registry) land(c claim, f *flight) {
	if f == nil {
		return
	}
	if f.abandoned {
		f.bound, f.err, f.failed = nil, nil, false
	}
	if b := r.byClaim[c]; b != nil {
		b.usedAt = time.Now()
	}
	delete(r.flights, c)
	close(f.done)
}

// wait returns when the flight is over, or with an error when ctx is done
// earlier.
func (r *Registry) wait(ctx context.Context, target ohrouter.Target, f *flight) error {
	select {
	case <-f.done:
		return nil
	case <-ctx.Done():
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if f.waiting--; f.waiting == 0 {
		f.abandon()
	}
	return &ohrouter.Error{
		Code:    ohrouter.TargetTimeout,
		Message: "the call ended while " + target.String() + " was being bound",
		Err:     context.Cause(ctx),
	}
}

// withdraw takes b away from binds. Those that come before the returned flight
// has landed wait for it; it is nil when b has one already, which they then wait
// for. It is called with mu held.
func (r *Registry) withdraw(b *binding) *flight {
	delete(r.byClaim, b.claim)
	if r.flights[b.claim] != nil {
		return nil
	}
	f := &flight{done: make(chan struct{}), cancel: func() {}}
	r.flights[b.claim] = f
	return f
}
