package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ohrouter/oh-router/test/bench/load"
	"github.com/ohrouter/oh-router/test/bench/report"
)

// workload is what is measured of a chain in one go.
type workload struct {
	id, label string
	job       load.Job      // without addresses and lengths
	roundTrip time.Duration // between the hops; 0 on loopback
	smoke     bool          // part of -smoke
}

// group is a table of the report and the workloads that fill it.
type group struct {
	report.Group
	workloads []workload
}

// Metrics.
var (
	gbps      = report.Metric{Key: "gbps", Name: "GB/s"}
	cpuPerGB  = report.Metric{Key: "cpu_s_per_gb", Name: "CPU s per GB, both hops", Lower: true}
	requests  = report.Metric{Key: "rate", Name: "requests/s"}
	sessions  = report.Metric{Key: "rate", Name: "sessions/s"}
	p50       = report.Metric{Key: "p50_us", Name: "p50 µs", Lower: true}
	p99       = report.Metric{Key: "p99_us", Name: "p99 µs", Lower: true}
	p999      = report.Metric{Key: "p999_us", Name: "p99.9 µs", Lower: true}
	cpuPerOp  = report.Metric{Key: "cpu_us_per_op", Name: "CPU µs each, both hops", Lower: true}
	rss       = report.Metric{Key: "rss_kb", Name: "RSS KB per session and hop", Lower: true}
	pss       = report.Metric{Key: "pss_kb", Name: "PSS KB per session and hop", Lower: true}
	fds       = report.Metric{Key: "descriptors", Name: "descriptors per session and hop", Lower: true}
	bindExtra = report.Metric{Key: "bind_extra_ms", Name: "p50 ms over a plain connect", Lower: true}
	bindTime  = report.Metric{Key: "bind_ms", Name: "p50 ms", Lower: true}
	cold      = report.Metric{Key: "cold_ms", Name: "first session, ms", Lower: true}
	repeated  = report.Metric{Key: "repeated_ms", Name: "repeated, p50 ms", Lower: true}
	afterBind = report.Metric{Key: "after_bind_ms", Name: "first session after a bind, ms", Lower: true}
)

// nearGroups is what is measured on loopback.
func nearGroups() []group {
	counts := func(id, label string, kind load.Kind, smoke int, conns ...int) (all []workload) {
		for _, n := range conns {
			all = append(all, workload{
				id: fmt.Sprintf("%s-%d", id, n), label: fmt.Sprintf(label, n),
				job: load.Job{Kind: kind, Conns: n}, smoke: n == smoke,
			})
		}
		return all
	}
	streams := append(counts("stream-up", "up, %d", load.Up, 8, 1, 8, 64), counts("stream-down", "down, %d", load.Down, 8, 1, 8, 64)...)
	return filled(
		group{report.Group{
			ID: "stream", Title: "Streams", Note: "Bytes through 1, 8 and 64 connections, from client to target (up) or back (down).",
			Metrics: []report.Metric{gbps, cpuPerGB},
		}, streams},
		group{report.Group{
			ID: "rr", Title: "Requests on open connections", Note: "64 bytes there and back, on 1, 64 and 512 connections at once.",
			Metrics: []report.Metric{requests, p50, p99, p999, cpuPerOp},
		}, counts("rr", "%d connections", load.RR, 64, 1, 64, 512)},
		group{report.Group{
			ID: "paced", Title: "Requests now and then", Note: "64 bytes there and back on 16 connections, so many times a second on all of them together: what a chain costs that has little to do.",
			Metrics: []report.Metric{cpuPerOp, p50, p99},
		}, paced(100, 1000, 5000)},
		group{report.Group{
			ID: "crr", Title: "Short sessions", Note: "Connect, exchange 64 bytes, close; 1, 16 and 64 at once. Times are of the set-up: from connecting to the response.",
			Metrics: []report.Metric{sessions, p50, p99, p999, cpuPerOp}, Headlines: 2,
		}, counts("crr", "%d at once", load.CRR, 16, 1, 16, 64)},
		group{report.Group{
			ID: "idle", Title: "Idle sessions", Note: "Memory that a hop holds for a session that has exchanged one message and rests; a chain just started.",
			Metrics: []report.Metric{rss, pss, fds},
		}, []workload{{id: "idle", label: "idle session", job: load.Job{Kind: load.Idle}, smoke: true}}},
		group{report.Group{
			ID: "bind", Title: "Bind call", Note: "Router and proxy warm, target reachable; the API's connection is open.",
			Metrics: []report.Metric{bindExtra, bindTime},
		}, []workload{{id: "bind", label: "bind call", job: load.Job{Kind: load.Bind}, smoke: true}}},
	)
}

func paced(rates ...int) (all []workload) {
	for _, n := range rates {
		all = append(all, workload{
			id: fmt.Sprintf("paced-%d", n), label: fmt.Sprintf("%d a second", n),
			job: load.Job{Kind: load.RR, Conns: 16, Rate: n}, smoke: n == 1000,
		})
	}
	return all
}

// roundTrips are the distances between the hops.
var roundTrips = []time.Duration{time.Millisecond, 20 * time.Millisecond, 100 * time.Millisecond}

// farGroups is what is measured with a distance between the hops.
func farGroups() []group {
	far := func(id string, job load.Job) (all []workload) {
		for _, rtt := range roundTrips {
			ms := rtt.Milliseconds()
			all = append(all, workload{
				id: fmt.Sprintf("%s-%dms", id, ms), label: fmt.Sprintf("%d ms", ms),
				job: job, roundTrip: rtt, smoke: ms == 20,
			})
		}
		return all
	}
	first := []report.Metric{cold, repeated}
	return filled(
		group{report.Group{
			ID: "client-first", Title: "First byte, client speaks first",
			Note:    "From connecting to the first byte of the reply. `direct` is what physics asks: a round trip to connect, one for the exchange. The first session is that of a chain just started.",
			Metrics: append(slices.Clone(first), afterBind),
		}, far("client-first", load.Job{Kind: load.ClientFirst})},
		group{report.Group{
			ID: "server-first", Title: "First byte, server speaks first",
			Note: "From connecting to the first byte of the greeting.", Metrics: first,
		}, far("server-first", load.Job{Kind: load.ServerFirst})},
		group{report.Group{ID: "far-up-1", Title: "One stream up", Metrics: []report.Metric{gbps}}, far("far-up-1", load.Job{Kind: load.Up, Conns: 1})},
		group{report.Group{ID: "far-up-64", Title: "64 streams up", Metrics: []report.Metric{gbps}}, far("far-up-64", load.Job{Kind: load.Up, Conns: 64})},
		group{report.Group{ID: "far-down-1", Title: "One stream down", Metrics: []report.Metric{gbps}}, far("far-down-1", load.Job{Kind: load.Down, Conns: 1})},
		group{report.Group{ID: "far-down-64", Title: "64 streams down", Metrics: []report.Metric{gbps}}, far("far-down-64", load.Job{Kind: load.Down, Conns: 64})},
		group{report.Group{
			ID: "far-bind", Title: "Bind call over a distance", Note: "The target is beside the proxy: a warm link costs one round trip.",
			Metrics: []report.Metric{bindTime},
		}, far("far-bind", load.Job{Kind: load.Bind})},
	)
}

// filled gives each group's report its workloads.
func filled(groups ...group) []group {
	for i, g := range groups {
		for _, w := range g.workloads {
			groups[i].Workloads = append(groups[i].Workloads, report.Workload{ID: w.id, Label: w.label})
		}
	}
	return groups
}

// choose keeps what names asks for: a group's id, a workload's, or the
// beginning of one up to a hyphen (stream-up). smoke keeps what -smoke runs.
func choose(groups []group, names []string, smoke bool) ([]group, error) {
	used := map[string]bool{}
	var chosen []group
	for _, g := range groups {
		g.Workloads = nil
		g.workloads = slices.DeleteFunc(slices.Clone(g.workloads), func(w workload) bool {
			wanted := len(names) == 0
			for _, n := range names {
				if n == g.ID || n == w.id || strings.HasPrefix(w.id, n+"-") {
					wanted, used[n] = true, true
				}
			}
			return !wanted || smoke && !w.smoke
		})
		if len(g.workloads) > 0 {
			chosen = append(chosen, filled(g)...)
		}
	}
	for _, n := range names {
		if !used[n] {
			return nil, fmt.Errorf("no workload is called %q", n)
		}
	}
	return chosen, nil
}
