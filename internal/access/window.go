package access

import (
	"time"

	ohrouter "github.com/ohrouter/oh-router"
)

// window remembers which targets were new within the last minute. It never
// holds more than its limit.
type window []seen

type seen struct {
	target ohrouter.Target
	at     time.Time
}

// add notes a target and returns 0, or, when the limit is reached, how long
// there is no room for it. A target that is in the window already is not new:
// to try again what has failed is no search.
func (w *window) add(target ohrouter.Target, limit int, now time.Time) (wait time.Duration) {
	from := now.Add(-time.Minute)
	kept := (*w)[:0]
	known := false
	for _, s := range *w {
		if s.at.After(from) {
			kept = append(kept, s)
			known = known || s.target == target
		}
	}
	*w = kept
	switch {
	case known:
		return 0
	case len(kept) >= limit:
		return kept[0].at.Sub(from)
	}
	*w = append(*w, seen{target, now})
	return 0
}
