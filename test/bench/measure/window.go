package measure

import "time"

// The rule by which a window is dropped, fixed before any figure was looked
// at: other programs and the hypervisor together took more than maxForeign of
// the machine's CPU time. /proc/stat counts in ticks of 10 ms and books a tick
// to whoever runs when it ends, so that short windows get tickSlack on top.
const (
	maxForeign = 0.05
	tickSlack  = 20 * time.Millisecond
)

// Window is what the machine did while something was measured.
type Window struct {
	Wall   time.Duration
	Cores  int
	Busy   time.Duration // CPU time of everything, from /proc/stat
	Steal  time.Duration // CPU time that the hypervisor gave to others
	Known  time.Duration // CPU time of what the benchmark runs
	Others time.Duration // CPU time of all other processes
}

// Foreign returns the CPU time that others have taken. There are two ways to
// know, and the larger one counts: adding up the other processes misses those
// of other containers; what is left of the machine's total without the
// benchmark's own misses as much as the network's interrupts have taken, which
// most kernels book both under interrupts and on the process that they met.
func (w Window) Foreign() time.Duration { return max(w.Busy-w.Known, w.Others, 0) + w.Steal }

// Share returns Foreign as a share of all CPU time of the window.
func (w Window) Share() float64 {
	if w.Wall <= 0 || w.Cores <= 0 {
		return 0
	}
	return float64(w.Foreign()) / (float64(w.Wall) * float64(w.Cores))
}

// Disturbed tells whether what was measured in the window is to be dropped.
func (w Window) Disturbed() bool {
	limit := time.Duration(maxForeign*float64(w.Wall)*float64(w.Cores)) + tickSlack
	return w.Foreign() > limit
}
