//go:build linux

package load

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"
)

func target(t *testing.T) *Target {
	t.Helper()
	target, err := Listen()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(target.Close)
	return target
}

// Each kind of job straight to the target.
func TestDo(t *testing.T) {
	target := target(t)
	echo, greet := target.Addrs()
	tests := []struct {
		job  Job
		want func(Result, Stats) bool
	}{
		{Job{Kind: Up, Conns: 2}, func(_ Result, s Stats) bool { return s.Sunk > 0 }},
		{Job{Kind: Down, Conns: 2}, func(r Result, _ Stats) bool { return r.Bytes > 0 && r.Elapsed >= 30*time.Millisecond }},
		{Job{Kind: RR, Conns: 3}, func(r Result, _ Stats) bool { return r.Ops > 0 && r.P50 > 0 && r.P50 <= r.P99 }},
		{Job{Kind: RR, Conns: 3, Rate: 150}, func(r Result, _ Stats) bool { return r.Ops > 0 }},
		{Job{Kind: CRR, Conns: 3}, func(r Result, _ Stats) bool { return r.Ops > 0 && r.P50 > 0 }},
		{Job{Kind: CRR, Conns: 3, Reset: true}, func(r Result, _ Stats) bool { return r.Ops > 0 }},
		{Job{Kind: ClientFirst, Count: 4}, func(r Result, _ Stats) bool { return len(r.Samples) == 4 && r.Samples[0] > 0 }},
		{Job{Kind: ServerFirst, Count: 4, Addr: greet}, func(r Result, _ Stats) bool { return len(r.Samples) == 4 }},
	}
	for _, tt := range tests {
		t.Run(string(tt.job.Kind), func(t *testing.T) {
			tt.job.Warmup, tt.job.Window = time.Millisecond, 30*time.Millisecond
			if tt.job.Rate > 0 {
				tt.job.Window *= 10
			}
			if !tt.job.Addr.IsValid() {
				tt.job.Addr = echo
			}
			want := 2
			if tt.job.Count > 0 {
				want = 1
			}
			marks, began := 0, time.Now()
			r, err := Do(t.Context(), tt.job, func() { marks++ })
			for tries := 5; tries > 0 && err == nil && r.Elapsed > 2*tt.job.Window; tries-- { // the machine stood still
				marks, began = 0, time.Now()
				r, err = Do(t.Context(), tt.job, func() { marks++ })
			}
			took := time.Since(began)
			if err != nil || r.Failed != 0 || marks != want {
				t.Fatalf("Do = %+v, %v, %d marks, want success and %d", r, err, marks, want)
			}
			if s := target.Stats(); !tt.want(r, s) {
				t.Errorf("Do = %+v, target %+v", r, s)
			}
			// Who was held up catches up.
			if most := float64(tt.job.Rate)*took.Seconds() + float64(tt.job.Conns); tt.job.Rate > 0 && float64(r.Ops) > most {
				t.Errorf("Do = %+v, want at most %.0f exchanges in %v", r, most, took)
			}
		})
	}
}

func TestDoFails(t *testing.T) {
	target := target(t)
	echo, _ := target.Addrs()
	target.Close()
	for _, kind := range []Kind{Up, Down, RR, CRR, Idle, ClientFirst, ServerFirst, Bind, "nonsense"} {
		job := Job{Kind: kind, Addr: echo, Target: echo, Conns: 2, Count: 2, Window: time.Millisecond}
		if r, err := Do(t.Context(), job, func() {}); err == nil {
			t.Errorf("Do(%s) without a target = %+v, want an error", kind, r)
		}
	}
}

// What breaks within the window is counted.
func TestDoCountsFailures(t *testing.T) {
	target := target(t)
	echo, _ := target.Addrs()
	r, err := Do(t.Context(), Job{Kind: RR, Addr: echo, Conns: 2, Window: time.Second}, sync.OnceFunc(target.Close))
	if err != nil || r.Failed != 2 || r.LastError == "" {
		t.Errorf("Do = %+v, %v, want 2 failed", r, err)
	}
}

func TestIdle(t *testing.T) {
	target := target(t)
	echo, _ := target.Addrs()
	ctx, cancel := context.WithCancel(t.Context())
	r, err := Do(ctx, Job{Kind: Idle, Addr: echo, Conns: 40}, func() {
		if open := target.Stats().Open; open != 40 {
			t.Errorf("%d connections are open, want 40", open)
		}
		cancel()
	})
	if err != nil || r.Ops != 40 {
		t.Errorf("Do = %+v, %v, want 40 sessions", r, err)
	}
}

func TestBind(t *testing.T) {
	target := target(t)
	echo, _ := target.Addrs()
	var calls []string
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls = append(calls, r.Method+" "+r.URL.Path)
		var spec struct {
			Target netip.AddrPort `json:"target"`
			Check  bool           `json:"check"`
		}
		if r.Method == http.MethodPost {
			if err := json.NewDecoder(r.Body).Decode(&spec); err != nil || spec.Target != echo || !spec.Check {
				t.Errorf("the bind call is for %+v, %v, want %v checked", spec, err, echo)
			}
			w.WriteHeader(http.StatusCreated)
			io.WriteString(w, `{"id":"b1","address":"127.0.0.1:20000","state":"active"}`)
		}
	}))
	defer api.Close()
	r, err := Do(t.Context(), Job{Kind: Bind, API: api.URL, Target: echo, Count: 2}, func() {})
	if err != nil || len(r.Samples) != 2 || len(r.Connects) != 2 {
		t.Errorf("Do = %+v, %v, want 2 of each", r, err)
	}
	want := strings.Repeat("POST /v1/bindings DELETE /v1/bindings/b1 ", 3)
	if got := strings.Join(calls, " ") + " "; got != want {
		t.Errorf("calls = %s, want %s", got, want)
	}
}

// The process's protocol: two marks, result, and no end before stdin's.
func TestServeJob(t *testing.T) {
	target := target(t)
	echo, _ := target.Addrs()
	in, feed := io.Pipe()
	out, lines := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- ServeJob(t.Context(), in, lines) }()
	if err := json.NewEncoder(feed).Encode(Job{Kind: CRR, Addr: echo, Conns: 1, Window: time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	events := json.NewDecoder(out)
	for range 2 {
		var mark event
		if err := events.Decode(&mark); err != nil || !mark.Mark {
			t.Errorf("event = %+v, %v, want a mark", mark, err)
		}
	}
	var end event
	if err := events.Decode(&end); err != nil || end.Result == nil || end.Error != "" {
		t.Errorf("last event = %+v, %v, want a result", end, err)
	}
	select {
	case err := <-done:
		t.Errorf("ServeJob = %v before the end of its input", err)
	default:
	}
	feed.Close()
	if err := <-done; err != nil {
		t.Errorf("ServeJob = %v", err)
	}
}

func TestServeTarget(t *testing.T) {
	var out bytes.Buffer
	if err := ServeTarget(t.Context(), strings.NewReader("\n\n"), &out); err != nil {
		t.Fatal(err)
	}
	decode := json.NewDecoder(&out)
	var a addresses
	if err := decode.Decode(&a); err != nil || !a.Echo.IsValid() || !a.Greet.IsValid() {
		t.Errorf("addresses = %+v, %v", a, err)
	}
	for range 2 {
		if err := decode.Decode(&Stats{}); err != nil {
			t.Errorf("stats: %v", err)
		}
	}
}
