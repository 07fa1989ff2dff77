package measure

import (
	"math/bits"
	"time"
)

// Buckets are exact below 2<<subBits ns; above, each power of two has
// 1<<subBits of them, so that a value is known to about 3 %.
const (
	subBits = 5
	subs    = 1 << subBits
	buckets = 2*subs + (64-subBits-1)*subs
)

// Histogram counts durations in fixed memory. The zero value is empty. It is
// not for concurrent use: give each goroutine its own and Merge them.
type Histogram struct {
	counts [buckets]uint64
	n      uint64
}

// Record counts d; a negative d counts as 0.
func (h *Histogram) Record(d time.Duration) {
	h.counts[bucket(uint64(max(d, 0)))]++
	h.n++
}

// Merge adds the counts of o.
func (h *Histogram) Merge(o *Histogram) {
	for i, n := range o.counts {
		h.counts[i] += n
	}
	h.n += o.n
}

// Count returns how many durations were recorded.
func (h *Histogram) Count() uint64 { return h.n }

// Quantile returns the duration below or at which the share q of all lies, or
// 0 when none was recorded.
func (h *Histogram) Quantile(q float64) time.Duration {
	if h.n == 0 {
		return 0
	}
	rank := min(uint64(q*float64(h.n)), h.n-1)
	var seen uint64
	for i, n := range h.counts {
		if seen += n; seen > rank {
			return middle(i)
		}
	}
	return 0
}

func bucket(v uint64) int {
	if v < 2*subs {
		return int(v)
	}
	shift := bits.Len64(v) - subBits - 1
	return shift*subs + int(v>>shift)
}

// middle returns the value in the middle of a bucket.
func middle(i int) time.Duration {
	if i < 2*subs {
		return time.Duration(i)
	}
	shift := i/subs - 1
	low := uint64(i-shift*subs) << shift
	return time.Duration(low + 1<<shift/2)
}
