package access

import (
	"context"
	"slices"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
)

// Watch calls expired for each token whose time ends, until ctx ends.
func (t *Tokens) Watch(ctx context.Context, expired func(ohrouter.Token)) {
	for seen := time.Now(); ; {
		now := time.Now()
		ended, next := t.ended(seen, now)
		for _, token := range ended {
			expired(token)
		}
		seen = now
		var soonest <-chan time.Time
		if !next.IsZero() {
			soonest = time.After(time.Until(next))
		}
		select {
		case <-soonest:
		case <-t.made:
		case <-ctx.Done():
			return
		}
	}
}

// ended returns the tokens whose time has ended after one time and not after
// another, the first first, and when that of the next one will: never is zero.
func (t *Tokens) ended(after, until time.Time) (list []ohrouter.Token, next time.Time) {
	t.mu.Lock()
	for _, e := range t.byID {
		switch end := e.token.ExpiresAt; {
		case end == nil || e.revoked || !end.After(after):
		case !end.After(until):
			list = append(list, e.snapshot())
		case next.IsZero() || end.Before(next):
			next = *end
		}
	}
	t.mu.Unlock()
	slices.SortFunc(list, func(a, b ohrouter.Token) int { return a.ExpiresAt.Compare(*b.ExpiresAt) })
	return list, next
}
