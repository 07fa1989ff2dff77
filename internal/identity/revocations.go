package identity

import (
	"context"
	"crypto/x509"
	"fmt"
	"sync"
	"time"
)

// Revocations is the router's list of proxies whose certificates are not good
// any more. It is safe for concurrent use.
type Revocations struct {
	store Store

	writing sync.Mutex // held across the store: revocations of a name follow each other

	mu      sync.RWMutex // guards what follows; never held during I/O
	at      map[string]time.Time
	changed chan struct{} // closed by the next revocation
}

// LoadRevocations reads the list of a store.
func LoadRevocations(ctx context.Context, store Store) (*Revocations, error) {
	list, err := store.Revocations(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the revoked certificates: %w", err)
	}
	r := &Revocations{store: store, at: make(map[string]time.Time, len(list)), changed: make(chan struct{})}
	for _, one := range list {
		r.at[one.Proxy] = one.At
	}
	return r, nil
}

// Revoke ends all certificates that a proxy has now, also if none is known: it
// may be one that another tool made. When it returns nil no new connection of
// theirs passes, and [Revocations.Changed] has told whoever has old ones.
func (r *Revocations) Revoke(ctx context.Context, proxy string) error {
	if err := CheckName(proxy); err != nil {
		return err
	}
	r.writing.Lock()
	defer r.writing.Unlock()
	at := time.Now().UTC()
	// The clock may have been set back, and a certificate that came after the
	// last revocation may begin up to a second after it.
	if former, ok := r.last(proxy); ok && at.Before(reinstated(former)) {
		at = reinstated(former)
	}
	if err := r.store.AddRevocation(ctx, Revocation{Proxy: proxy, At: at}); err != nil {
		return fmt.Errorf("revoke %s: %w", proxy, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.at[proxy] = at
	close(r.changed)
	r.changed = make(chan struct{})
	return nil
}

// Revoked tells whether the certificate of a proxy has been revoked.
func (r *Revocations) Revoked(leaf *x509.Certificate) bool {
	id, err := Of(leaf)
	if err != nil || id.Role != Proxy {
		return false // nobody's, which others refuse
	}
	at, ok := r.last(id.Name)
	return ok && !leaf.NotBefore.After(at)
}

// last returns when a proxy was revoked last.
func (r *Revocations) last(proxy string) (at time.Time, ok bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	at, ok = r.at[proxy]
	return at, ok
}

// reinstated returns when certificates that come after a revocation begin at
// the earliest: their times have whole seconds.
func reinstated(revoked time.Time) time.Time { return revoked.Truncate(time.Second).Add(time.Second) }

// Changed returns a channel that is closed by the next revocation. Whoever owns
// connections takes it, ends those whose certificate is [Revocations.Revoked],
// and waits for it: in this order it misses none.
func (r *Revocations) Changed() <-chan struct{} {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.changed
}
