package main

import (
	"fmt"
	"os"
	"runtime"
	"time"

	"github.com/ohrouter/oh-router/test/bench/load"
	"github.com/ohrouter/oh-router/test/bench/measure"
	"github.com/ohrouter/oh-router/test/bench/process"
	"github.com/ohrouter/oh-router/test/bench/report"
)

// moment is the state of the machine and of the benchmark at one edge of a
// window.
type moment struct {
	at    time.Time
	busy  time.Duration // of all processes
	steal time.Duration
	chain time.Duration // CPU time of the chain's hops
	known time.Duration // CPU time of all that belongs to the window
	other time.Duration // CPU time of all other processes
	stats load.Stats
}

// now looks at everything. others are processes of the benchmark that are
// neither the chain's nor the target or this one.
func (b *benchmark) now(hops []*process.Process, others ...int) (moment, error) {
	m := moment{at: time.Now()}
	var err error
	if m.stats, err = b.target.Stats(); err != nil {
		return m, err
	}
	if m.busy, m.steal, err = measure.Machine(); err != nil {
		return m, err
	}
	ps, err := measure.List()
	if err != nil {
		return m, err
	}
	// This process alone, not its children: the other chains are strangers now.
	known := map[int]bool{os.Getpid(): true}
	for _, h := range hops {
		m.chain += ps.CPU(h.PID())
		others = append(others, h.PID())
	}
	for _, root := range append(others, b.target.PID()) {
		for _, pid := range ps.Tree(root) {
			known[pid] = true
		}
	}
	m.known, m.other = ps.Split(known)
	return m, nil
}

// observed is what one window has brought.
type observed struct {
	result load.Result
	window measure.Window
	chain  time.Duration // CPU time of the chain's hops
	sunk   float64       // bytes per second that the target read of streams up
}

// observe runs a job through a chain and watches the machine meanwhile.
func (b *benchmark) observe(in *instance, job load.Job) (observed, error) {
	g, err := load.StartJob(loadCommand, b.dir, job)
	if err != nil {
		return observed{}, err
	}
	defer b.settle()
	defer g.Close()
	var edges [2]moment
	for i := range edges {
		if err := g.Mark(); err != nil {
			return observed{}, err
		}
		if edges[i], err = b.now(in.Hops, append(in.delayPIDs(), g.PID())...); err != nil {
			return observed{}, err
		}
	}
	result, err := g.Result()
	if err != nil {
		return observed{}, err
	}
	from, to := edges[0], edges[1]
	o := observed{result: result, chain: to.chain - from.chain, window: measure.Window{
		Wall: to.at.Sub(from.at), Cores: runtime.NumCPU(),
		Busy: to.busy - from.busy, Steal: to.steal - from.steal, Known: to.known - from.known, Others: to.other - from.other,
	}}
	if d := to.stats.At - from.stats.At; d > 0 {
		o.sunk = float64(to.stats.Sunk-from.stats.Sunk) / d.Seconds()
	}
	return o, nil
}

// settle waits until the target has no connection left, so that one window
// does not pay for the end of another. A chain that keeps some does not stop
// the benchmark.
func (b *benchmark) settle() {
	const patience = 3 * time.Second
	for start := time.Now(); time.Since(start) < patience; time.Sleep(5 * time.Millisecond) {
		if s, err := b.target.Stats(); err != nil || s.Open == 0 {
			return
		}
	}
}

// sample turns what a window has brought into figures.
func (o observed) sample(kind load.Kind) (report.Sample, error) {
	s := report.Sample{"foreign_share": o.window.Share()}
	wall, cpu := o.result.Elapsed.Seconds(), o.chain.Seconds()
	switch kind {
	case load.Up, load.Down:
		rate := o.sunk
		if kind == load.Down && wall > 0 {
			rate = float64(o.result.Bytes) / wall
		}
		if rate <= 0 {
			return nil, fmt.Errorf("no byte arrived: %s", o.result.LastError)
		}
		s[gbps.Key] = rate / 1e9
		if cpu > 0 {
			s[cpuPerGB.Key] = cpu / o.window.Wall.Seconds() / (rate / 1e9)
		}
	default:
		if o.result.Ops == 0 {
			return nil, fmt.Errorf("nothing was completed: %s", o.result.LastError)
		}
		s[requests.Key] = float64(o.result.Ops) / wall
		s[p50.Key], s[p99.Key], s[p999.Key] = micros(o.result.P50), micros(o.result.P99), micros(o.result.P999)
		if cpu > 0 {
			s[cpuPerOp.Key] = cpu * 1e6 / float64(o.result.Ops)
		}
	}
	return s, nil
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
