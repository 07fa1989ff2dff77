// Package storetest holds the test that every [registry.Store] passes.
package storetest

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/registry"
)

// Store is one that can be closed, more than once.
type Store interface {
	registry.Store
	Close() error
}

// Run tests a store. Each call of fresh returns a function that opens one
// store of its own, empty at first; calling that function again, after a Close,
// opens the same store again.
func Run(t *testing.T, fresh func(t testing.TB) (open func() Store)) {
	for _, test := range []struct {
		name string
		run  func(t *testing.T, open func() Store)
	}{
		{"Empty", empty},
		{"PutAndLoad", putAndLoad},
		{"Overwrite", overwrite},
		{"Delete", remove},
		{"Reopen", reopen},
		{"BigLabels", bigLabels},
		{"Concurrent", concurrent},
		{"Close", closing},
		{"Cancelled", cancelled},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, fresh(t)) })
	}
}

// Bound returns a record of a port with a binding that uses every field.
func Bound(port uint16) registry.Record {
	created := time.Date(2026, 3, 1, 12, 0, 0, 123456789, time.UTC)
	return registry.Record{
		Port:   port,
		Owner:  "t-7q2mzk4hjw3n",
		Target: ohrouter.Target{Host: "db.internal", Port: 3306},
		Binding: &registry.Stored{
			ID:          fmt.Sprintf("b-%010d", port),
			Proxy:       "east",
			Pinned:      true,
			CreatedAt:   created,
			IdleTimeout: ohrouter.Duration(5 * time.Minute),
			TTL:         ohrouter.Duration(time.Hour),
			ExpiresAt:   created.Add(time.Hour),
			Allow:       []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")},
			MaxSessions: 7,
			Labels:      map[string]string{"team": "blue", "unicode ✓": "ä\x00\n\""},

			ProxyProtocol: ohrouter.ProxyProtocolV2,
		},
	}
}

// Resting returns a record of a port whose binding has ended.
func Resting(port uint16) registry.Record {
	ended := time.Date(2026, 3, 1, 12, 0, 0, 5, time.UTC)
	return registry.Record{
		Port:       port,
		Owner:      "t-of-before",
		Target:     ohrouter.Target{Host: "2001:db8::1", Port: 22},
		EndedAt:    ended,
		RestsUntil: ended.Add(10 * time.Minute),
	}
}

func empty(t *testing.T, open func() Store) {
	s := opened(t, open)
	want(t, s)
}

func putAndLoad(t *testing.T, open func() Store) {
	s := opened(t, open)
	put(t, s, Resting(65535), Bound(20000), Bound(1))
	want(t, s, Bound(1), Bound(20000), Resting(65535))
}

func overwrite(t *testing.T, open func() Store) {
	s := opened(t, open)
	put(t, s, Bound(20000), Resting(20001), Resting(20000), Bound(20001))
	want(t, s, Resting(20000), Bound(20001))
}

func remove(t *testing.T, open func() Store) {
	s := opened(t, open)
	put(t, s, Bound(20000), Bound(20001))
	for range 2 { // the second time, nothing is there
		if err := s.Delete(t.Context(), 20000); err != nil {
			t.Fatalf("Delete(20000) = %v", err)
		}
	}
	want(t, s, Bound(20001))
}

func reopen(t *testing.T, open func() Store) {
	s := opened(t, open)
	put(t, s, Bound(20000), Resting(20001), Bound(20002))
	if err := s.Delete(t.Context(), 20002); err != nil {
		t.Fatalf("Delete(20002) = %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatalf("Close() = %v", err)
	}
	s = opened(t, open)
	want(t, s, Bound(20000), Resting(20001))
	put(t, s, Resting(20000))
	want(t, s, Resting(20000), Resting(20001))
}

func bigLabels(t *testing.T, open func() Store) {
	s := opened(t, open)
	r := Bound(20000)
	r.Binding.Labels = make(map[string]string)
	for i := range 64 {
		r.Binding.Labels[fmt.Sprint("label", i)] = strings.Repeat("x", 4096)
	}
	put(t, s, Bound(19999), r, Bound(20001))
	want(t, s, Bound(19999), r, Bound(20001))
}

func concurrent(t *testing.T, open func() Store) {
	s := opened(t, open)
	const writers, rounds = 16, 20
	var wg sync.WaitGroup
	for w := range uint16(writers) {
		wg.Go(func() {
			for range rounds {
				put(t, s, Bound(20000+w), Resting(20000+w))
				if _, err := s.Load(t.Context()); err != nil {
					t.Errorf("Load() = %v", err)
				}
			}
			if w%2 == 1 {
				if err := s.Delete(t.Context(), 20000+w); err != nil {
					t.Errorf("Delete(%d) = %v", 20000+w, err)
				}
			}
		})
	}
	wg.Wait()
	var left []registry.Record
	for w := uint16(0); w < writers; w += 2 {
		left = append(left, Resting(20000+w))
	}
	want(t, s, left...)
}

func closing(t *testing.T, open func() Store) {
	s := opened(t, open)
	put(t, s, Bound(20000))
	for range 2 {
		if err := s.Close(); err != nil {
			t.Fatalf("Close() = %v", err)
		}
	}
	if err := s.Put(t.Context(), Bound(20001)); err == nil {
		t.Error("Put after Close = nil, want an error")
	}
	if err := s.Delete(t.Context(), 20000); err == nil {
		t.Error("Delete after Close = nil, want an error")
	}
	if _, err := s.Load(t.Context()); err == nil {
		t.Error("Load after Close = nil, want an error")
	}
}

func cancelled(t *testing.T, open func() Store) {
	s := opened(t, open)
	put(t, s, Bound(20000))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Put(ctx, Bound(20001)); err == nil {
		t.Error("Put with a cancelled context = nil, want an error")
	}
	if _, err := s.Load(ctx); err == nil {
		t.Error("Load with a cancelled context = nil, want an error")
	}
}

// opened opens a store and closes it when the test ends.
func opened(t testing.TB, open func() Store) Store {
	t.Helper()
	s := open()
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close() = %v", err)
		}
	})
	return s
}

func put(t testing.TB, s Store, records ...registry.Record) {
	t.Helper()
	for _, r := range records {
		if err := s.Put(t.Context(), r); err != nil {
			t.Errorf("Put(%d) = %v", r.Port, err)
		}
	}
}

// want fails unless the store holds exactly the records, which are given in the
// order of their ports.
func want(t testing.TB, s Store, records ...registry.Record) {
	t.Helper()
	got, err := s.Load(t.Context())
	if err != nil {
		t.Fatalf("Load() = %v", err)
	}
	slices.SortFunc(got, func(a, b registry.Record) int { return int(a.Port) - int(b.Port) })
	if diff := cmp.Diff(records, got, cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
}
