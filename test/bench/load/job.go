//go:build linux

// Package load is both ends of what the benchmark sends through a chain: the
// target, and the generator that connects to it. Each runs as a process of its
// own, so that the CPU time of the chain's processes is the chain's alone.
package load

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/ohrouter/oh-router/test/bench/measure"
)

// Kind is what a job does.
type Kind string

// The kinds of jobs.
const (
	Up          Kind = "up"           // streams, client → target; the target counts what arrives
	Down        Kind = "down"         // streams, target → client
	RR          Kind = "rr"           // request and response of 64 bytes on open connections
	CRR         Kind = "crr"          // connect, one exchange, close
	Idle        Kind = "idle"         // sessions that have exchanged one message and rest
	ClientFirst Kind = "client-first" // time from connecting to the first byte of a reply
	ServerFirst Kind = "server-first" // time from connecting to the first byte of a greeting
	Bind        Kind = "bind"         // time of a bind call, and of a plain connect to its target
)

// message is the size of a request and of a response, in bytes.
const message = 64

// patience bounds what is not the measurement: connecting, ending, and the
// answer that never comes.
const patience = 10 * time.Second

// Job is what a generator is asked to do.
type Job struct {
	Kind   Kind           `json:"kind"`
	Addr   netip.AddrPort `json:"addr"`             // where the chain begins
	Conns  int            `json:"conns,omitempty"`  // at once
	Rate   int            `json:"rate,omitempty"`   // RR: per second on all of them, evenly spread; 0 as many as there can be
	Warmup time.Duration  `json:"warmup,omitempty"` // before the window
	Window time.Duration  `json:"window,omitempty"`
	Count  int            `json:"count,omitempty"` // ClientFirst, ServerFirst, Bind: how often
	Reset  bool           `json:"reset,omitempty"` // CRR: close with RST, not FIN
	API    string         `json:"api,omitempty"`   // Bind: URL of the router
	Target netip.AddrPort `json:"target"`          // Bind: what to bind
}

// Result is what a job found.
type Result struct {
	Ops       uint64          `json:"ops"`             // exchanges or sessions in the window
	Bytes     uint64          `json:"bytes"`           // received in the window
	Elapsed   time.Duration   `json:"elapsed"`         // the window's real length
	P50       time.Duration   `json:"p50"`             // of an exchange, or of a session's set-up
	P99       time.Duration   `json:"p99"`             //
	P999      time.Duration   `json:"p999"`            //
	Samples   []time.Duration `json:"samples"`         // ClientFirst, ServerFirst, Bind: one each, in order
	Connects  []time.Duration `json:"connects"`        // Bind: plain connects to the target
	Failed    uint64          `json:"failed"`          // exchanges, sessions or streams
	LastError string          `json:"error,omitempty"` // of the last that failed
}

// Do runs a job and calls mark when its window begins and when it ends; for a
// job without a window, at its begin (Idle: when all sessions are open). An
// error means that there is no result; what fails within the window is counted
// in the result.
func Do(ctx context.Context, job Job, mark func()) (Result, error) {
	w := &work{job: job, mark: mark}
	switch job.Kind {
	case Up, Down:
		return w.stream(ctx)
	case RR:
		return w.exchanges(ctx)
	case CRR:
		return w.sessions(ctx)
	case Idle:
		return w.idle(ctx)
	case ClientFirst, ServerFirst:
		return w.firstBytes(ctx)
	case Bind:
		return w.binds(ctx)
	}
	return Result{}, fmt.Errorf("unknown kind of job %q", job.Kind)
}

// work is a job being done.
type work struct {
	job   Job
	mark  func()
	phase phase

	mu      sync.Mutex // guards what follows
	times   measure.Histogram
	failed  uint64
	lastErr error
}

// merge takes over what one goroutine has recorded.
func (w *work) merge(h *measure.Histogram) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.times.Merge(h)
}

// fail counts a failure within the measurement. After it everything fails,
// because the connections are cut.
func (w *work) fail(err error) {
	if w.phase.over() {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failed++
	w.lastErr = err
}

// result returns what has been recorded.
func (w *work) result(elapsed time.Duration) Result {
	w.mu.Lock()
	defer w.mu.Unlock()
	r := Result{
		Ops: w.times.Count(), Elapsed: elapsed, Failed: w.failed,
		P50: w.times.Quantile(0.5), P99: w.times.Quantile(0.99), P999: w.times.Quantile(0.999),
	}
	if w.lastErr != nil {
		r.LastError = w.lastErr.Error()
	}
	return r
}

// window waits for the warm-up and then for the window to pass. It returns
// the window's real length.
func (w *work) window(ctx context.Context) (time.Duration, error) {
	if err := sleep(ctx, w.job.Warmup); err != nil {
		return 0, err
	}
	w.mark()
	start := time.Now()
	w.phase.set(measuring)
	err := sleep(ctx, w.job.Window)
	w.phase.set(over)
	elapsed := time.Since(start)
	w.mark()
	return elapsed, err
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return errors.New("the job was stopped")
	case <-time.After(d):
		return nil
	}
}
