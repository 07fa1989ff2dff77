package registry

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	ohrouter "github.com/ohrouter/oh-router"
)

// put writes what is remembered of a port to the store. Writes of one port
// follow each other, and each writes what is true when its turn has come, so
// that the last one leaves the truth.
func (r *Registry) put(ctx context.Context, s *slot) error {
	if r.cfg.Store == nil {
		return nil
	}
	s.saving.Lock()
	defer s.saving.Unlock()
	r.mu.Lock()
	rec := s.record()
	delete(r.stale, s)
	r.mu.Unlock()
	if rec.Target == (ohrouter.Target{}) { // given back before it served anybody
		return r.cfg.Store.Delete(ctx, rec.Port)
	}
	return r.cfg.Store.Put(ctx, rec)
}

// save is put for what has happened already: when the store fails, it is
// logged, and tried again later.
func (r *Registry) save(ctx context.Context, s *slot) {
	if err := r.put(ctx, s); err != nil {
		r.log.Warn("port not stored, will be tried again", "port", s.port, "error", err)
		r.mu.Lock()
		defer r.mu.Unlock()
		r.soil(s)
	}
}

// soil notes that the store does not have what is remembered of s. It is
// called with mu held.
func (r *Registry) soil(s *slot) {
	if r.cfg.Store != nil {
		r.stale[s] = struct{}{}
		signal(r.dirt)
	}
}

// retryAfter is how long the registry waits after the store has failed.
const retryAfter = 5 * time.Second

// saveStale writes what is stale, until ctx ends.
func (r *Registry) saveStale(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.dirt:
		}
		if r.flush(context.WithoutCancel(ctx)) {
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(retryAfter):
			signal(r.dirt)
		}
	}
}

// saveParallel is how many records are offered to the store at a time, which
// may write them together.
const saveParallel = 1024

// flush writes every stale record once, and tells whether the store took all.
func (r *Registry) flush(ctx context.Context) bool {
	r.mu.Lock()
	slots := make([]*slot, 0, len(r.stale))
	for s := range r.stale {
		slots = append(slots, s)
	}
	r.mu.Unlock()

	var (
		group  errgroup.Group
		mu     sync.Mutex // guards failed and why
		failed []*slot
		why    error
	)
	group.SetLimit(saveParallel)
	for _, s := range slots {
		group.Go(func() error {
			if err := r.put(ctx, s); err != nil {
				mu.Lock()
				defer mu.Unlock()
				failed, why = append(failed, s), err
			}
			return nil
		})
	}
	_ = group.Wait()
	if len(failed) == 0 {
		return true
	}
	r.log.Warn("ports not stored, will be tried again", "ports", len(failed), "error", why)
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range failed {
		r.stale[s] = struct{}{}
	}
	return false
}
