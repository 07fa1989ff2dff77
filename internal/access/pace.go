package access

import (
	"fmt"
	"math"
	"time"
)

// burst is for how long nothing counts before calls have to keep their pace: a
// script makes all of its calls at once, and then none.
const burst = 2 * time.Second

// pace keeps calls to so many a second, and a burst.
type pace struct {
	until time.Time // how far ahead of their pace calls are
}

// take notes a call and returns 0, or how long to wait with it.
func (p *pace) take(perSecond int, now time.Time) (wait time.Duration) {
	next := now
	if p.until.After(now) {
		next = p.until
	}
	next = next.Add(time.Second / time.Duration(perSecond))
	if ahead := next.Sub(now); ahead > burst {
		return ahead - burst
	}
	p.until = next
	return 0
}

// Wait is the cause of an error with code quota_exceeded that goes away by
// itself: it is how long that takes.
type Wait time.Duration

// Error says how long, in whole seconds.
func (w Wait) Error() string { return fmt.Sprintf("wait %d s", w.Seconds()) }

// Seconds returns the wait in whole seconds, at least 1.
func (w Wait) Seconds() int { return max(1, int(math.Ceil(time.Duration(w).Seconds()))) }
