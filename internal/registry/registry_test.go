package registry_test

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/registry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestBindNew(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		b, created, err := w.bind("db:1", func(s *ohrouter.BindingSpec) {
			s.TTL = ohrouter.Duration(time.Hour)
			s.Allow = []netip.Prefix{netip.MustParsePrefix("10.1.2.3/8"), netip.MustParsePrefix("::ffff:10.0.0.0/104")}
			s.MaxSessions = 3
			s.Labels = map[string]string{"a": "b"}
		})
		if err != nil || !created {
			t.Fatalf("Bind() = %v, %v, want a new binding", created, err)
		}
		if b.State != ohrouter.BindingActive || !w.listeners.listens(b.Port) || b.Proxy != "east" || b.Pinned {
			t.Errorf("binding is %+v, want it active, open and served by east", b)
		}
		if !strings.HasPrefix(b.ID, "b-") || len(b.ID) != 12 {
			t.Errorf("id %q, want b- and ten characters", b.ID)
		}
		if want := time.Now().Add(time.Hour); b.ExpiresAt == nil || !b.ExpiresAt.Equal(want) {
			t.Errorf("expires at %v, want %v", b.ExpiresAt, want)
		}
		for what, at := range map[string]time.Time{"created": b.CreatedAt, "last used": b.LastUsedAt, "expires": *b.ExpiresAt} {
			if at.Location() != time.UTC {
				t.Errorf("%s at %v, want it in UTC", what, at)
			}
		}
		if len(b.Allow) != 1 || b.Allow[0] != netip.MustParsePrefix("10.0.0.0/8") {
			t.Errorf("allow %v, want one 10.0.0.0/8", b.Allow)
		}
		if b.LastCheck == nil || !b.LastCheck.OK || b.LastError != nil {
			t.Errorf("last check %v, last error %v, want a good one and none", b.LastCheck, b.LastError)
		}
		if rec := w.store.record(b.Port); rec.Binding == nil || rec.Binding.ID != b.ID || rec.Target != b.Target {
			t.Errorf("record %+v, want one with binding %s", rec, b.ID)
		}
	})
}

func TestBindInvalid(t *testing.T) {
	for name, change := range map[string]func(*ohrouter.BindingSpec){
		"no version":   func(s *ohrouter.BindingSpec) { s.ProxyProtocol = "v1" },
		"no target":    func(s *ohrouter.BindingSpec) { s.Target = ohrouter.Target{} },
		"port below":   port(19999),
		"port above":   port(20010),
		"idle timeout": func(s *ohrouter.BindingSpec) { s.IdleTimeout = new(ohrouter.Duration(-1)) },
		"ttl":          func(s *ohrouter.BindingSpec) { s.TTL = -1 },
		"max sessions": func(s *ohrouter.BindingSpec) { s.MaxSessions = -1 },
		"allow":        func(s *ohrouter.BindingSpec) { s.Allow = []netip.Prefix{{}} },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			_, _, err := w.bind("db:1", change)
			w.wantCode(err, ohrouter.InvalidRequest)
			if w.listeners.count() != 0 {
				t.Error("a bind that cannot succeed was checked")
			}
		})
	}
}

func TestBindUnknownProxy(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		nobody := func(s *ohrouter.BindingSpec) { s.Proxy = "nobody" }
		_, _, err := w.bind("db:1", nobody)
		w.wantCode(err, ohrouter.NoProxy)
		w.mustBind("db:1", nil)
		_, _, err = w.bind("db:1", nobody)
		w.wantCode(err, ohrouter.Conflict)
	})
}

func TestBindCheckFails(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		w.listeners.check = func(context.Context, ohrouter.Binding) error {
			return ohrouter.Errorf(ohrouter.TargetRefused, "nothing listens at db:1")
		}
		_, _, err := w.bind("db:1", nil)
		w.wantCode(err, ohrouter.TargetRefused)
		if n := len(w.Bindings()); n != 0 {
			t.Errorf("%d bindings after a failed check, want 0", n)
		}
		b := w.mustBind("db:1", unchecked)
		if b.LastCheck != nil {
			t.Errorf("last check %v without a check", b.LastCheck)
		}
		_, _, err = w.bind("db:1", nil)
		w.wantCode(err, ohrouter.TargetRefused)
		b, err = w.Binding(b.ID)
		if err != nil || b.LastError == nil || b.LastError.Code != ohrouter.TargetRefused || b.LastCheck.OK {
			t.Errorf("binding after a failed check: %+v, %v, want it there with its last error", b, err)
		}
		w.listeners.set(func() { w.listeners.check = nil })
		if b = w.mustBind("db:1", nil); !b.LastCheck.OK {
			t.Errorf("last check %+v, want ok", b.LastCheck)
		}
	})
}

func TestBindRepeated(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		first := w.mustBind("db:1", nil)
		again := func(wantChecks int) {
			t.Helper()
			b, created, err := w.bind("db:1", nil)
			if err != nil || created || b.ID != first.ID || b.Port != first.Port {
				t.Errorf("repeated bind = %s:%d, %v, %v, want %s:%d, false, nil", b.ID, b.Port, created, err, first.ID, first.Port)
			}
			if n := w.listeners.count(); n != wantChecks {
				t.Errorf("%d checks, want %d", n, wantChecks)
			}
		}
		wait(30*time.Second - 1)
		again(1) // fresh
		wait(1)
		again(2)
		wait(time.Minute)
		w.listeners.session(first.ID, 1)
		again(2) // a session is open
		wait(time.Minute)
		again(2)
		w.listeners.session(first.ID, -1)
		again(3) // its set-up is a minute ago
		wait(time.Minute)
		w.listeners.set(func() { w.listeners.usage[first.ID] = ohrouter.Usage{Sessions: 1} })
		again(4) // one that has no target yet says nothing of it
	})
}

func TestConflicts(t *testing.T) {
	full := func(s *ohrouter.BindingSpec) {
		s.Proxy, s.Port = "east", 20005
		s.IdleTimeout, s.TTL = new(ohrouter.Duration(time.Minute)), ohrouter.Duration(time.Hour)
		s.Allow = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("192.0.2.0/24")}
		s.MaxSessions, s.Labels, s.ProxyProtocol = 5, map[string]string{"a": "b"}, ohrouter.ProxyProtocolV2
	}
	for _, test := range []struct {
		name   string
		change func(*ohrouter.BindingSpec)
		want   ohrouter.Code
		field  string
	}{
		{"same values", full, "", ""},
		{"nothing given", nil, "", ""},
		{"zero idle timeout", func(s *ohrouter.BindingSpec) { s.IdleTimeout = new(ohrouter.Duration(0)) }, "", ""},
		{"other labels", func(s *ohrouter.BindingSpec) { s.Labels = map[string]string{"c": "d"} }, "", ""},
		{"allow in another order", func(s *ohrouter.BindingSpec) {
			s.Allow = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("10.0.0.0/8")}
		}, "", ""},
		{"proxy", func(s *ohrouter.BindingSpec) { s.Proxy = "west" }, ohrouter.Conflict, "proxy"},
		{"port", port(20006), ohrouter.Conflict, "port"},
		{"idle timeout", func(s *ohrouter.BindingSpec) { s.IdleTimeout = new(ohrouter.Duration(1)) }, ohrouter.Conflict, "idle_timeout"},
		{"ttl", func(s *ohrouter.BindingSpec) { s.TTL = 1 }, ohrouter.Conflict, "ttl"},
		{"allow", func(s *ohrouter.BindingSpec) {
			s.Allow = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
		}, ohrouter.Conflict, "allow"},
		{"max sessions", func(s *ohrouter.BindingSpec) { s.MaxSessions = 6 }, ohrouter.Conflict, "max_sessions"},
	} {
		t.Run(test.name, func(t *testing.T) {
			inBubble(t, nil, func(t *testing.T, w *world) {
				b := w.mustBind("db:1", full)
				again := func() {
					t.Helper()
					got, created, err := w.bind("db:1", test.change)
					w.wantCode(err, test.want)
					if err == nil && (created || got.ID != b.ID || !maps.Equal(got.Labels, b.Labels)) {
						t.Errorf("Bind() = %+v, %v, want the binding as it was", got, created)
					}
					if err != nil && !strings.Contains(err.Error(), test.field) {
						t.Errorf("message %q does not name %s", err, test.field)
					}
				}
				again()
				w.restart()
				again()
			})
		})
	}
}

func TestConflictOfProxyProtocol(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		if b := w.mustBind("db:1", nil); b.ProxyProtocol != "" {
			t.Errorf("proxy_protocol %q of a binding that asks for none", b.ProxyProtocol)
		}
		_, _, err := w.bind("db:1", func(s *ohrouter.BindingSpec) { s.ProxyProtocol = ohrouter.ProxyProtocolV2 })
		w.wantCode(err, ohrouter.Conflict)
	})
}

func TestFlightIsShared(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		w.listeners.check = func(context.Context, ohrouter.Binding) error {
			time.Sleep(time.Second)
			return nil
		}
		var (
			wg      sync.WaitGroup
			created atomic.Int32
			ports   sync.Map
		)
		for range 50 {
			wg.Go(func() {
				b, isNew, err := w.bind("db:1", nil)
				if err != nil {
					t.Errorf("Bind() = %v", err)
				}
				if isNew {
					created.Add(1)
				}
				ports.Store(b.Port, true)
			})
		}
		wg.Wait()
		n := 0
		ports.Range(func(any, any) bool { n++; return true })
		if n != 1 || created.Load() != 1 || w.listeners.count() != 1 {
			t.Errorf("50 binds made %d ports, %d bindings and %d checks, want one of each", n, created.Load(), w.listeners.count())
		}
	})
}

func TestFlightSharesFailedCheck(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		w.listeners.check = func(_ context.Context, b ohrouter.Binding) error {
			time.Sleep(time.Second)
			if b.Proxy == "west" {
				return nil
			}
			return ohrouter.Errorf(ohrouter.TargetTimeout, "db:1 does not answer")
		}
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				_, _, err := w.bind("db:1", nil)
				w.wantCode(err, ohrouter.TargetTimeout)
			})
		}
		synctest.Wait()
		// Those who asked for something else do not share the failure.
		wg.Go(func() {
			if b, created, err := w.bind("db:1", func(s *ohrouter.BindingSpec) { s.Proxy = "west" }); err != nil || !created || !b.Pinned {
				t.Errorf("Bind through west = %+v, %v, %v, want a new, pinned binding", b, created, err)
			}
		})
		wg.Wait()
		if n := w.listeners.count(); n != 2 {
			t.Errorf("%d checks, want 2", n)
		}
	})
}

func TestFlightOutlivesItsCaller(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		w.listeners.check = func(ctx context.Context, _ ohrouter.Binding) error {
			select {
			case <-time.After(time.Second):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		target := ohrouter.Target{Host: "db", Port: 1}
		call := func(patience time.Duration, want ohrouter.Code) func() {
			return func() {
				ctx, cancel := context.WithTimeout(context.Background(), patience)
				defer cancel()
				_, _, err := w.Bind(ctx, ohrouter.BindingSpec{Target: target})
				w.wantCode(err, want)
			}
		}
		var wg sync.WaitGroup
		wg.Go(call(100*time.Millisecond, ohrouter.TargetTimeout))
		synctest.Wait()
		wg.Go(call(time.Minute, ""))
		wg.Wait()
		if n := w.listeners.count(); n != 1 {
			t.Errorf("%d checks, want 1: the first caller's end cancelled it", n)
		}

		// When all have left, the flight is cancelled, and the next begins anew.
		target.Port = 2
		wg.Go(call(100*time.Millisecond, ohrouter.TargetTimeout))
		wg.Go(call(200*time.Millisecond, ohrouter.TargetTimeout))
		wg.Wait()
		time.Sleep(2 * time.Second) // longer than the check would take
		if n := len(w.Bindings()); n != 1 {
			t.Errorf("%d bindings after all callers left, want 1", n)
		}
		call(time.Minute, "")()
	})
}

func TestBindStoreFails(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		w.store.failing(true)
		_, _, err := w.bind("db:1", nil)
		w.wantCode(err, ohrouter.Internal)
		if !strings.Contains(ohrouter.Message(err), "state store") {
			t.Errorf("message %q does not name the state store", ohrouter.Message(err))
		}
		w.listeners.set(func() {
			if len(w.listeners.open)+len(w.listeners.ports)+len(w.listeners.links) != 0 {
				t.Error("the listener is open after the store failed")
			}
		})
		w.store.failing(false)
		wait(time.Minute)
		if b, created, err := w.bind("db:1", nil); err != nil || !created || w.store.record(b.Port).Binding == nil {
			t.Errorf("Bind() = %v, %v, want a new and stored binding", created, err)
		}
	})
}

func TestBindListenFails(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		w.listeners.openErr = &wrapped{syscall.EMFILE}
		_, _, err := w.bind("db:1", nil)
		w.wantCode(err, ohrouter.Internal)
		if !errors.Is(err, syscall.EMFILE) {
			t.Errorf("error %v hides its cause from the log", err)
		}
		w.listeners.set(func() { w.listeners.openErr = ohrouter.Errorf(ohrouter.PortsExhausted, "no descriptors") })
		_, _, err = w.bind("db:1", nil)
		w.wantCode(err, ohrouter.PortsExhausted)
		w.listeners.set(func() {
			w.listeners.openErr = nil
			if len(w.listeners.links) != 0 {
				t.Error("the link of the check was not dropped")
			}
		})
		w.mustBind("db:1", nil)
	})
}

func TestDrainRefusesBinds(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		b := w.mustBind("db:1", nil)
		w.Drain()
		_, _, err := w.bind("db:1", nil)
		w.wantCode(err, ohrouter.Draining)
		if !w.Draining() {
			t.Error("Draining() = false after Drain")
		}
		w.wantState(b.ID, ohrouter.BindingActive)
	})
}

func TestRunEndsFlights(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		w.listeners.check = func(ctx context.Context, _ ohrouter.Binding) error {
			<-ctx.Done()
			return ctx.Err()
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			_, _, err := w.bind("db:1", nil)
			w.wantCode(err, ohrouter.Draining)
		})
		synctest.Wait()
		w.stop()
		wg.Wait()
	})
}

func TestProxyFollowsCheck(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		b := w.mustBind("db:1", unchecked)
		if b.Proxy != "" {
			t.Errorf("proxy %q before the first check, want none", b.Proxy)
		}
		if b = w.mustBind("db:1", nil); b.Proxy != "east" || b.Pinned {
			t.Errorf("proxy %q, pinned %v, want east and not pinned", b.Proxy, b.Pinned)
		}
		w.listeners.set(func() {
			if p := w.listeners.open[b.ID].Proxy; p != "east" {
				t.Errorf("the listener uses proxy %q, want east", p)
			}
		})
	})
}

func TestMetrics(t *testing.T) {
	metrics := prometheus.NewRegistry()
	inBubble(t, func(c *registry.Config) { c.Metrics = metrics }, func(t *testing.T, w *world) {
		b := w.mustBind("db:1", nil)
		w.mustBind("db:2", nil)
		if err := w.Release(t.Context(), b.ID, 0); err != nil {
			t.Fatal(err)
		}
		want := `
# HELP ohrouter_bindings Bindings, draining ones included.
# TYPE ohrouter_bindings gauge
ohrouter_bindings 1
# HELP ohrouter_ports_free Ports that are neither bound nor resting.
# TYPE ohrouter_ports_free gauge
ohrouter_ports_free 8
`
		if err := testutil.GatherAndCompare(metrics, strings.NewReader(want)); err != nil {
			t.Error(err)
		}
	})
}
