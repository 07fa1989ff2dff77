package socket

import (
	"context"
	"log/slog"
	"math"
	"time"

	"golang.org/x/sync/semaphore"
)

// Backoff slows an accept loop down while accepting fails, as it does when the
// process is out of descriptors. It says so once, and once when it is over.
type Backoff struct {
	Log *slog.Logger

	pause time.Duration
}

// Failed logs the first failure in a row and waits, 5 ms first and up to 1 s,
// or until ctx ends. It is told what is not accepted.
func (b *Backoff) Failed(ctx context.Context, what string, err error) {
	if b.pause == 0 {
		b.Log.Warn("connections not accepted for a moment", "what", what, "err", err)
	}
	b.pause = min(max(2*b.pause, 5*time.Millisecond), time.Second)
	timer := time.NewTimer(b.pause)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// Succeeded ends a row of failures.
func (b *Backoff) Succeeded() {
	if b.pause > 0 {
		b.pause = 0
		b.Log.Info("connections accepted again")
	}
}

// Budget bounds the descriptors that sessions take, so that some are left for
// the API, health checks and files. The zero value has no bound.
type Budget struct{ sem *semaphore.Weighted }

// NewBudget returns a budget of n descriptors.
func NewBudget(n int) Budget { return Budget{semaphore.NewWeighted(int64(min(n, math.MaxInt32)))} }

// Acquire takes n descriptors, waiting for them until ctx ends.
func (b Budget) Acquire(ctx context.Context, n int) error {
	if b.sem == nil {
		return ctx.Err()
	}
	return b.sem.Acquire(ctx, int64(n))
}

// TryAcquire takes n descriptors if they are there.
func (b Budget) TryAcquire(n int) bool { return b.sem == nil || b.sem.TryAcquire(int64(n)) }

// Release gives n descriptors back.
func (b Budget) Release(n int) {
	if b.sem != nil {
		b.sem.Release(int64(n))
	}
}
