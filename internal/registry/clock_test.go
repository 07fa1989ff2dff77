package registry

import (
	"testing"
	"time"
)

// TestDueTimesCompare has times of both kinds: those of this process, and those
// that were stored, which have no monotonic reading. Where the machine's clock
// has been set, they do not compare.
func TestDueTimesCompare(t *testing.T) {
	var c clock
	b := new(binding)
	at := time.Now().Add(time.Hour)
	c.set(b, at.Round(0))
	if b.due == b.due.Round(0) || b.due.Sub(at).Abs() > time.Minute {
		t.Errorf("due at %v, want %v, with a monotonic reading", b.due, at)
	}
}
