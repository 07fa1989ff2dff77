package router

import (
	"github.com/prometheus/client_golang/prometheus"

	ohrouter "github.com/ohrouter/oh-router"
)

// metrics are what a router counts. The bytes are live: those of open sessions
// are summed up when somebody asks.
type metrics struct {
	setup    prometheus.Histogram
	outcomes map[ohrouter.Outcome]prometheus.Counter
	up, down uint64 // of sessions that have ended; Router.mu guards them
}

func newMetrics(reg prometheus.Registerer, r *Router) *metrics {
	outcomes := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "ohrouter_sessions_total",
		Help: "Sessions that have ended, by how, and client connections that never became one, by why.",
	}, []string{"outcome"})
	m := &metrics{
		setup: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "ohrouter_session_setup_seconds",
			Help:    "Time from accepting a client to having a link whose target is connected.",
			Buckets: prometheus.ExponentialBuckets(0.00025, 2.5, 12),
		}),
		outcomes: make(map[ohrouter.Outcome]prometheus.Counter),
	}
	for _, o := range ohrouter.Outcomes() {
		m.outcomes[o] = outcomes.WithLabelValues(string(o))
	}
	for _, c := range ohrouter.Codes() {
		m.outcomes[ohrouter.Outcome(c)] = outcomes.WithLabelValues(string(c))
	}
	open := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "ohrouter_sessions",
		Help: "Open sessions.",
	}, func() float64 {
		r.mu.Lock()
		defer r.mu.Unlock()
		return float64(r.count())
	})
	reg.MustRegister(outcomes, m.setup, open,
		bytesTotal("up", func() uint64 { up, _ := r.bytes(); return up }),
		bytesTotal("down", func() uint64 { _, down := r.bytes(); return down }))
	return m
}

func bytesTotal(direction string, count func() uint64) prometheus.Collector {
	return prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name:        "ohrouter_bytes_total",
		Help:        "Bytes carried; up is from client to target.",
		ConstLabels: prometheus.Labels{"direction": direction},
	}, func() float64 { return float64(count()) })
}

// bytes returns the bytes of all sessions, open ones included.
func (r *Router) bytes() (up, down uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	up, down = r.metrics.up, r.metrics.down
	for s := range r.all() {
		up += s.live.AB.Load()
		down += s.live.BA.Load()
	}
	return up, down
}

// add counts the bytes of an ended session. The caller holds Router.mu.
func (m *metrics) add(up, down uint64) {
	m.up += up
	m.down += down
}

// ended counts a session by its outcome.
func (m *metrics) ended(o ohrouter.Outcome) { m.outcomes[o].Inc() }
