package main

import (
	"io"
	"math"
	"testing"
	"time"

	"github.com/ohrouter/oh-router/test/bench/load"
	"github.com/ohrouter/oh-router/test/bench/measure"
)

func TestParse(t *testing.T) {
	o, err := parse([]string{"-chains", "direct,haproxy", "-only", "crr", "-rounds", "2", "-close", "rst"}, io.Discard)
	if err != nil || len(o.chains) != 2 || len(o.only) != 1 || o.rounds != 2 || !o.reset {
		t.Errorf("parse = %+v, %v", o, err)
	}
	if o, err = parse([]string{"-smoke"}, io.Discard); err != nil || o.rounds != 1 || o.retries != 0 || o.idle != 200 {
		t.Errorf("parse -smoke = %+v, %v", o, err)
	}
	for _, bad := range [][]string{{"x"}, {"-rounds", "0"}, {"-close", "maybe"}, {"-window", "-1s"}, {"-nonsense"}} {
		if _, err := parse(bad, io.Discard); err == nil {
			t.Errorf("parse(%v) succeeds", bad)
		}
	}
}

func TestChoose(t *testing.T) {
	tests := []struct {
		names []string
		smoke bool
		want  int // workloads
	}{
		{nil, false, 17},
		{nil, true, 7},
		{[]string{"rr"}, false, 3},
		{[]string{"stream-up"}, false, 3},
		{[]string{"paced"}, false, 3},
		{[]string{"crr-16", "idle"}, false, 2},
	}
	for _, tt := range tests {
		groups, err := choose(nearGroups(), tt.names, tt.smoke)
		n := 0
		for _, g := range groups {
			n += len(g.workloads)
			if len(g.workloads) != len(g.Workloads) {
				t.Errorf("choose(%v): the table of %s has %d columns, want %d", tt.names, g.ID, len(g.Workloads), len(g.workloads))
			}
		}
		if err != nil || n != tt.want {
			t.Errorf("choose(%v, %v) = %d workloads, %v, want %d", tt.names, tt.smoke, n, err, tt.want)
		}
	}
	if _, err := choose(nearGroups(), []string{"rr", "typo"}, false); err == nil {
		t.Error("choose of an unknown workload succeeds")
	}
}

// Cells are found by the id of their workload alone.
func TestIDs(t *testing.T) {
	for _, groups := range [][]group{nearGroups(), farGroups()} {
		seen := map[string]bool{}
		for _, g := range groups {
			for _, w := range g.workloads {
				if seen[w.id] {
					t.Errorf("two workloads are called %s", w.id)
				}
				seen[w.id] = true
			}
		}
	}
}

func TestSample(t *testing.T) {
	window := measure.Window{Wall: 2 * time.Second, Cores: 2}
	tests := []struct {
		kind load.Kind
		o    observed
		want map[string]float64
	}{
		{load.Up, observed{sunk: 1e9, chain: time.Second, window: window}, map[string]float64{"gbps": 1, "cpu_s_per_gb": 0.5}},
		{
			load.Down,
			observed{result: load.Result{Bytes: 4e9, Elapsed: 2 * time.Second}, chain: 3 * time.Second, window: window},
			map[string]float64{"gbps": 2, "cpu_s_per_gb": 0.75},
		},
		{
			load.CRR,
			observed{result: load.Result{Ops: 1000, Elapsed: 2 * time.Second, P50: time.Millisecond}, chain: time.Second, window: window},
			map[string]float64{"rate": 500, "p50_us": 1000, "cpu_us_per_op": 1000},
		},
	}
	for _, tt := range tests {
		got, err := tt.o.sample(tt.kind)
		if err != nil {
			t.Errorf("sample of %s: %v", tt.kind, err)
		}
		for key, want := range tt.want {
			if math.Abs(got[key]-want) > 1e-9 {
				t.Errorf("sample of %s: %s = %v, want %v", tt.kind, key, got[key], want)
			}
		}
	}
	for _, kind := range []load.Kind{load.Up, load.Down, load.RR} {
		if got, err := (observed{}).sample(kind); err == nil {
			t.Errorf("sample of %s that brought nothing = %v", kind, got)
		}
	}
}
