package identity

import (
	"context"
	"math/rand/v2"
	"time"
)

// The time between tries doubles from the one to the other.
const (
	firstRetry = 30 * time.Second
	lastRetry  = 30 * time.Minute
)

// maxSleep is how long a wait goes without a look at the clock: timers stand
// still while a machine sleeps.
const maxSleep = 10 * time.Minute

// retryAfter returns how long to wait after failures in a row, the present one
// not counted. The half of it is left to chance, as many may wait for the same.
func retryAfter(failures int) time.Duration {
	d := min(firstRetry<<min(failures, 10), lastRetry)
	return d/2 + rand.N(d/2)
}

// sleep waits for d, or a while if that is long, and tells whether ctx has not
// ended meanwhile.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(min(max(d, time.Second), maxSleep))
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
