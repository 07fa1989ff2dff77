package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/ohrouter/oh-router/test/bench/chain"
	"github.com/ohrouter/oh-router/test/bench/load"
	"github.com/ohrouter/oh-router/test/bench/measure"
	"github.com/ohrouter/oh-router/test/bench/report"
)

// near measures on loopback. All chains stay up; the chains take turns within
// each workload, and begin with another one in each round.
func (b *benchmark) near(ctx context.Context) error {
	running := map[string]*instance{}
	defer func() {
		for _, in := range running {
			in.Stop()
		}
	}()
	for _, c := range b.chains {
		in, err := b.start(ctx, c, chain.Spec{Targets: []netip.AddrPort{b.target.Echo}}, 0)
		if err == nil {
			running[c.Name] = in
			err = in.Probe(ctx)
		}
		if err != nil && c.Ours {
			return err
		}
		if err != nil {
			b.report.Missing = append(b.report.Missing, err.Error())
			b.say("%v", err)
		}
	}
	for round := range b.opts.rounds {
		for _, g := range b.groups {
			for _, w := range g.workloads {
				b.say("round %d of %d: %s", round+1, b.opts.rounds, w.id)
				for i := range b.chains {
					c := b.chains[(i+round)%len(b.chains)]
					if in := running[c.Name]; in != nil && !b.hopeless(c, w) {
						b.turn(ctx, in, w)
					}
					if ctx.Err() != nil {
						return ctx.Err()
					}
				}
			}
		}
	}
	return nil
}

// hopeless tells that a chain has never brought a sample and failed twice: it
// would only cost time.
func (b *benchmark) hopeless(c chain.Chain, w workload) bool {
	cell := b.report.Cell(w.id, c.Name)
	return cell != nil && cell.Failures > 1 && len(cell.Samples)+len(cell.Dropped) == 0
}

// turn measures one workload on one chain.
func (b *benchmark) turn(ctx context.Context, in *instance, w workload) {
	var err error
	switch w.job.Kind {
	case load.Idle:
		err = b.idle(ctx, in.Chain, w)
	case load.Bind:
		err = b.bind(in, w)
	default:
		err = b.window(ctx, in, w)
	}
	if err != nil && ctx.Err() == nil {
		b.fail(in.Chain, w, err)
	}
}

// window measures a window and repeats it while it is disturbed.
func (b *benchmark) window(ctx context.Context, in *instance, w workload) error {
	job := w.job
	job.Addr, job.Warmup, job.Window, job.Reset = in.Entries[0], b.opts.warmup, b.opts.window, b.opts.reset
	if w.roundTrip > 0 {
		// Until windows are open and connections are made.
		job.Warmup += 6 * w.roundTrip
	}
	cell := b.report.At(w.id, in.Name)
	for range b.opts.retries + 1 {
		o, err := b.observe(in, job)
		if err != nil {
			return err
		}
		s, err := o.sample(job.Kind)
		if err != nil {
			return err
		}
		if o.result.Failed > 0 {
			cell.Failures += o.result.Failed
			cell.Error = o.result.LastError
			b.broken = b.broken || in.Ours
		}
		if !o.window.Disturbed() {
			cell.Samples = append(cell.Samples, s)
			return nil
		}
		cell.Dropped = append(cell.Dropped, s)
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	b.say("%s, %s: disturbed", in.Name, w.id)
	return nil
}

// bind measures bind calls of a target that nothing else has bound.
func (b *benchmark) bind(in *instance, w workload) error {
	if in.API == "" {
		return nil
	}
	r, err := b.once(load.Job{Kind: load.Bind, API: in.API, Target: b.target.Greet, Count: b.opts.binds})
	if err != nil {
		return err
	}
	bound, connected := median(r.Samples), median(r.Connects)
	cell := b.report.At(w.id, in.Name)
	cell.Samples = append(cell.Samples, report.Sample{
		bindTime.Key: bound, bindExtra.Key: bound - connected, "connect_ms": connected,
	})
	return nil
}

// once runs a job that has no window.
func (b *benchmark) once(job load.Job) (load.Result, error) {
	g, err := load.StartJob(loadCommand, b.dir, job)
	if err != nil {
		return load.Result{}, err
	}
	defer b.settle()
	defer g.Close()
	if err := g.Mark(); err != nil {
		return load.Result{}, err
	}
	return g.Result()
}

// median returns the median in milliseconds.
func median(times []time.Duration) float64 {
	var ms []float64
	for _, t := range times {
		ms = append(ms, millis(t))
	}
	return measure.Summarize(ms).Median
}

// Before memory is read: the chain has had this many sessions, so that what it
// needs once is there, and has rested, so that nothing is on its way.
const (
	idleFirst = 64
	idleRest  = time.Second
)

// idle measures what sessions hold that do nothing, on a chain just started:
// one that has worked has memory to spare.
func (b *benchmark) idle(ctx context.Context, c chain.Chain, w workload) error {
	if c.Name == chain.Direct {
		return nil
	}
	in, err := b.start(ctx, c, chain.Spec{Targets: []netip.AddrPort{b.target.Echo}}, 0)
	if err != nil {
		return err
	}
	defer in.Stop()
	if err := in.Probe(ctx); err != nil {
		return err
	}
	if _, err := b.held(ctx, in, idleFirst); err != nil {
		return err
	}
	before, err := holding(in)
	if err != nil {
		return err
	}
	after, err := b.held(ctx, in, b.opts.idle)
	if err != nil {
		return err
	}
	const hops = 2 // however many programs they are of
	per := func(after, before float64) float64 { return (after - before) / float64(b.opts.idle) / hops }
	cell := b.report.At(w.id, c.Name)
	cell.Samples = append(cell.Samples, report.Sample{
		rss.Key: per(after.rss, before.rss) / 1024, pss.Key: per(after.pss, before.pss) / 1024, fds.Key: per(after.fds, before.fds),
	})
	return nil
}

// held opens sessions, lets them rest, and returns what the chain holds then.
func (b *benchmark) held(ctx context.Context, in *instance, n int) (holds, error) {
	g, err := load.StartJob(loadCommand, b.dir, load.Job{Kind: load.Idle, Addr: in.Entries[0], Conns: n})
	if err != nil {
		return holds{}, err
	}
	defer b.settle()
	defer g.Close()
	if err := g.Mark(); err != nil {
		return holds{}, fmt.Errorf("open %d sessions: %w", n, err)
	}
	select {
	case <-ctx.Done():
		return holds{}, errors.New("interrupted")
	case <-time.After(idleRest):
	}
	return holding(in)
}

// holds is what the processes of a chain have, memory in bytes.
type holds struct{ rss, pss, fds float64 }

func holding(in *instance) (holds, error) {
	ps, err := measure.List()
	if err != nil {
		return holds{}, err
	}
	var h holds
	for _, hop := range in.Hops {
		m, err := ps.Memory(hop.PID())
		if err != nil {
			return holds{}, err
		}
		h.rss, h.pss = h.rss+float64(m.RSS), h.pss+float64(m.PSS)
		h.fds += float64(ps.Descriptors(hop.PID()))
	}
	return h, nil
}
