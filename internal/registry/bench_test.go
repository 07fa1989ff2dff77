package registry_test

import (
	"fmt"
	"runtime"
	"testing"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/registry"
)

const many = 10_000

// crowded returns a registry with 10,000 bindings and room for one more, and
// the targets.
func crowded(b *testing.B, room int) (*world, []ohrouter.Target) {
	b.Helper()
	w := newWorld(b, func(c *registry.Config) {
		c.PortHigh = c.PortLow + uint16(many+room-1)
		c.Quarantine = 0
		c.Store = nil
	})
	targets := make([]ohrouter.Target, many)
	for i := range targets {
		targets[i] = ohrouter.Target{Host: fmt.Sprintf("host-%d.internal", i), Port: 3306}
		if _, _, err := w.Bind(b.Context(), ohrouter.BindingSpec{Target: targets[i]}); err != nil {
			b.Fatal(err)
		}
	}
	return w, targets
}

// BenchmarkBindWarm binds again what is bound, beside 10,000 bindings.
func BenchmarkBindWarm(b *testing.B) {
	w, targets := crowded(b, 0)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, _, err := w.Bind(b.Context(), ohrouter.BindingSpec{Target: targets[i%many]}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkBindWarmParallel does the same from all cores.
func BenchmarkBindWarmParallel(b *testing.B) {
	w, targets := crowded(b, 0)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			if _, _, err := w.Bind(b.Context(), ohrouter.BindingSpec{Target: targets[i%many]}); err != nil {
				b.Error(err)
			}
		}
	})
}

// BenchmarkBindNew binds and releases a target beside 10,000 others, with one
// port left for it.
func BenchmarkBindNew(b *testing.B) {
	w, _ := crowded(b, 1)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		target := ohrouter.Target{Host: "new", Port: uint16(1 + i%1000)}
		got, _, err := w.Bind(b.Context(), ohrouter.BindingSpec{Target: target})
		if err != nil {
			b.Fatal(err)
		}
		if err := w.Release(b.Context(), got.ID, 0); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkMemory reports what a binding costs, the fake listeners included.
func BenchmarkMemory(b *testing.B) {
	var before, after runtime.MemStats
	for b.Loop() {
		runtime.GC()
		runtime.ReadMemStats(&before)
		w, targets := crowded(b, 0)
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/many, "B/binding")
		runtime.KeepAlive(targets)
		w.stop()
	}
}
