package main

import (
	"context"
	"net/netip"
	"time"

	"github.com/ohrouter/oh-router/test/bench/chain"
	"github.com/ohrouter/oh-router/test/bench/load"
	"github.com/ohrouter/oh-router/test/bench/report"
)

// again is how many sessions a repeated time is the median of.
const again = 10

// far measures with a distance between the hops. Every turn has a chain just
// started: only that shows what the first session costs.
func (b *benchmark) far(ctx context.Context) error {
	for round := range b.opts.rounds {
		for _, rtt := range roundTrips {
			for i := range b.chains {
				c := b.chains[(i+round)%len(b.chains)]
				if work := b.at(rtt); len(work) > 0 {
					b.say("round %d of %d: %s, %v apart", round+1, b.opts.rounds, c.Name, rtt)
					b.farTurn(ctx, c, rtt, work)
				}
				if ctx.Err() != nil {
					return ctx.Err()
				}
			}
		}
	}
	return nil
}

// at returns the workloads at a distance.
func (b *benchmark) at(roundTrip time.Duration) (all []workload) {
	for _, g := range b.groups {
		for _, w := range g.workloads {
			if w.roundTrip == roundTrip {
				all = append(all, w)
			}
		}
	}
	return all
}

// farTurn measures all workloads of one distance on one chain.
func (b *benchmark) farTurn(ctx context.Context, c chain.Chain, rtt time.Duration, work []workload) {
	// Without the bind's check, whose connection would be the first session.
	in, err := b.start(ctx, c, chain.Spec{Targets: []netip.AddrPort{b.target.Echo, b.target.Greet}, NoCheck: true}, rtt)
	if err != nil {
		b.fail(c, work[0], err)
		return
	}
	defer in.Stop()
	// Control connections are made, pools filled.
	rest(ctx, 500*time.Millisecond+6*rtt)
	for _, w := range work {
		var err error
		switch w.job.Kind {
		case load.ClientFirst:
			if err = b.first(in, in.Entries[0], w); err == nil && c.Ours {
				err = b.bound(ctx, c, rtt, w)
			}
		case load.ServerFirst:
			err = b.first(in, in.Entries[1], w)
		case load.Bind:
			err = b.farBind(ctx, c, rtt, w)
		default:
			err = b.window(ctx, in, w)
		}
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			b.fail(c, w, err)
		}
	}
}

// first measures the first session through an entry, and those after it.
func (b *benchmark) first(in *instance, entry netip.AddrPort, w workload) error {
	r, err := b.once(load.Job{Kind: w.job.Kind, Addr: entry, Count: 1 + again})
	if err != nil {
		return err
	}
	cell := b.report.At(w.id, in.Name)
	cell.Samples = append(cell.Samples, report.Sample{cold.Key: millis(r.Samples[0]), repeated.Key: median(r.Samples[1:])})
	return nil
}

// bound measures the first session after a bind call that has connected to
// the target: it gets that connection.
func (b *benchmark) bound(ctx context.Context, c chain.Chain, rtt time.Duration, w workload) error {
	in, err := b.start(ctx, c, chain.Spec{Targets: []netip.AddrPort{b.target.Echo}}, rtt)
	if err != nil {
		return err
	}
	defer in.Stop()
	r, err := b.once(load.Job{Kind: w.job.Kind, Addr: in.Entries[0], Count: 1})
	if err != nil {
		return err
	}
	cell := b.report.At(w.id, c.Name)
	cell.Samples = append(cell.Samples, report.Sample{afterBind.Key: millis(r.Samples[0])})
	return nil
}

// farBind measures bind calls, on a chain in which the target is not bound.
func (b *benchmark) farBind(ctx context.Context, c chain.Chain, rtt time.Duration, w workload) error {
	if !c.Ours {
		return nil
	}
	in, err := b.start(ctx, c, chain.Spec{Targets: []netip.AddrPort{b.target.Echo}}, rtt)
	if err != nil {
		return err
	}
	defer in.Stop()
	r, err := b.once(load.Job{Kind: load.Bind, API: in.API, Target: b.target.Greet, Count: again})
	if err != nil {
		return err
	}
	cell := b.report.At(w.id, c.Name)
	cell.Samples = append(cell.Samples, report.Sample{bindTime.Key: median(r.Samples)})
	return nil
}

// rest waits, or until ctx ends.
func rest(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
