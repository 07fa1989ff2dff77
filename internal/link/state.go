package link

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// States counts links by what they are doing. Both roles of one process share
// one.
type States struct {
	gauges [closed]prometheus.Gauge
}

// NewStates registers ohrouter_links.
func NewStates(reg prometheus.Registerer) *States {
	vec := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "ohrouter_links",
		Help: "Links between router and proxy by state: handshake, warm (no session yet), parked (answered, not acknowledged yet), active.",
	}, []string{"state"})
	reg.MustRegister(vec)
	return &States{[closed]prometheus.Gauge{
		handshake: vec.WithLabelValues("handshake"),
		warm:      vec.WithLabelValues("warm"),
		parked:    vec.WithLabelValues("parked"),
		active:    vec.WithLabelValues("active"),
	}}
}

// state is what a link is doing.
type state int32

const (
	handshake state = iota
	warm
	parked
	active
	closed
)

// place is the state of one link.
type place struct{ now atomic.Int32 }

// begin counts a link.
func (s *States) begin() { s.gauges[handshake].Inc() }

// move notes what a link that was counted is doing now, and tells whether it was not
// in that state, or beyond it, before.
func (s *States) move(p *place, to state) bool {
	for {
		from := state(p.now.Load())
		if from >= to {
			return false
		}
		if p.now.CompareAndSwap(int32(from), int32(to)) {
			s.gauges[from].Dec()
			if to != closed {
				s.gauges[to].Inc()
			}
			return true
		}
	}
}
