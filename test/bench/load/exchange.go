//go:build linux

package load

import (
	"context"
	"net"
	"sync"
	"time"

	"github.com/ohrouter/oh-router/test/bench/measure"
)

// exchanges plays ping-pong on open connections.
func (w *work) exchanges(ctx context.Context) (Result, error) {
	conns, err := w.open(ctx, echoOnce)
	if err != nil {
		return Result{}, err
	}
	defer closeAll(conns)
	var wg sync.WaitGroup
	every, began := time.Duration(0), time.Now()
	if w.job.Rate > 0 {
		every = time.Second * time.Duration(len(conns)) / time.Duration(w.job.Rate)
	}
	for i, c := range conns {
		_ = c.SetDeadline(time.Now().Add(w.job.Warmup + w.job.Window + patience)) // it is not closed
		first := began.Add(every * time.Duration(i) / time.Duration(len(conns)))
		wg.Go(func() { w.pingPong(c, first, every) })
	}
	elapsed, err := w.window(ctx)
	closeAll(conns)
	wg.Wait()
	return w.result(elapsed), err
}

// pingPong makes exchanges, from next on and one in every so much time; one
// after the other when that is 0.
func (w *work) pingPong(c net.Conn, next time.Time, every time.Duration) {
	var times measure.Histogram
	defer w.merge(&times)
	buf := make([]byte, message)
	for start := next; !w.phase.over(); {
		if every > 0 {
			time.Sleep(time.Until(next))
			next, start = next.Add(every), time.Now()
		}
		if err := exchange(c, buf); err != nil {
			w.fail(err)
			return
		}
		end := time.Now()
		if w.phase.measuring() {
			times.Record(end.Sub(start))
		}
		start = end
	}
}

// sessions makes one session after the other on each of the job's slots.
func (w *work) sessions(ctx context.Context) (Result, error) {
	var d dialer
	if err := Probe(ctx, w.job.Addr); err != nil {
		return Result{}, err
	}
	var wg sync.WaitGroup
	for range w.job.Conns {
		wg.Go(func() { w.connectAll(ctx, &d) })
	}
	elapsed, err := w.window(ctx)
	wg.Wait()
	return w.result(elapsed), err
}

func (w *work) connectAll(ctx context.Context, d *dialer) {
	var times measure.Histogram
	defer w.merge(&times)
	buf := make([]byte, message)
	for !w.phase.over() && ctx.Err() == nil {
		took, err := w.session(ctx, d, buf)
		switch {
		case err != nil:
			w.fail(err)
		case w.phase.measuring():
			times.Record(took)
		}
	}
}

// session connects, exchanges one message and closes. The set-up time that it
// returns is up to the response: connecting alone ends at the chain's first
// kernel. Closing counts for the rate only.
func (w *work) session(ctx context.Context, d *dialer, buf []byte) (setUp time.Duration, err error) {
	start := time.Now()
	c, err := d.dial(ctx, w.job.Addr)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	if w.job.Reset {
		c.SetLinger(0)
	}
	_ = c.SetDeadline(start.Add(patience)) // it is not closed
	err = exchange(c, buf)
	return time.Since(start), err
}

// idle opens sessions and holds them until ctx ends.
func (w *work) idle(ctx context.Context) (Result, error) {
	conns, err := w.open(ctx, echoOnce)
	if err != nil {
		return Result{}, err
	}
	defer closeAll(conns)
	for _, c := range conns {
		_ = c.SetDeadline(time.Time{}) // it is not closed
	}
	w.mark()
	<-ctx.Done()
	return Result{Ops: uint64(len(conns))}, nil
}
