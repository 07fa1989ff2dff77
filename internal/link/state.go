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

// tracker keeps one link's place in States.
type tracker struct {
	states *States
	now    atomic.Int32
}

// begin counts a link, once.
func (t *tracker) begin(s *States) {
	t.states = s
	s.gauges[handshake].Inc()
}

// move tells whether the link was not in that state, or beyond it, before.
func (t *tracker) move(to state) bool {
	for {
		from := state(t.now.Load())
		if from >= to {
			return false
		}
		if t.now.CompareAndSwap(int32(from), int32(to)) {
			t.states.gauges[from].Dec()
			if to != closed {
				t.states.gauges[to].Inc()
			}
			return true
		}
	}
}
