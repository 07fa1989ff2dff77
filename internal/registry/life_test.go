package registry_test

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/registry"
)

func TestIdle(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		b := w.mustBind("db:1", nil)
		wait(idle - 1)
		w.wantState(b.ID, ohrouter.BindingActive)
		w.mustBind("db:1", nil) // sets the clock anew
		wait(idle - 1)
		w.wantState(b.ID, ohrouter.BindingActive)
		w.listeners.session(b.ID, 1)
		wait(24 * time.Hour) // a silent session keeps it
		w.wantState(b.ID, ohrouter.BindingActive)
		if got, _ := w.Binding(b.ID); !got.LastUsedAt.Equal(time.Now()) || got.Sessions != 1 {
			t.Errorf("used at %v with %d sessions, want now with 1", got.LastUsedAt, got.Sessions)
		}
		w.listeners.session(b.ID, -1)
		end := time.Now()
		wait(idle - 1)
		w.wantState(b.ID, ohrouter.BindingActive)
		if got, _ := w.Binding(b.ID); !got.LastUsedAt.Equal(end) {
			t.Errorf("used at %v, want %v", got.LastUsedAt, end)
		}
		wait(1)
		w.wantState(b.ID, "")
		if w.listeners.listens(b.Port) {
			t.Error("an idle binding's port still listens")
		}
		if rec := w.store.record(b.Port); rec.Binding != nil || !rec.RestsUntil.Equal(time.Now().Add(quarantine)) {
			t.Errorf("record %+v, want one that rests for the quarantine", rec)
		}
	})
}

func TestIdleNever(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		b := w.mustBind("db:1", func(s *ohrouter.BindingSpec) { s.IdleTimeout = new(ohrouter.Duration(0)) })
		wait(1000 * time.Hour)
		w.wantState(b.ID, ohrouter.BindingActive)
	})
}

func TestTTL(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		b := w.mustBind("db:1", func(s *ohrouter.BindingSpec) { s.TTL = ohrouter.Duration(time.Hour) })
		w.listeners.session(b.ID, 1)
		wait(time.Hour - 1)
		w.wantState(b.ID, ohrouter.BindingActive)
		wait(1)
		w.wantState(b.ID, "")
		if w.listeners.Usage(b.ID).Sessions != 0 || w.listeners.listens(b.Port) {
			t.Error("the ttl's end left a session or the listener")
		}
		if rec := w.store.record(b.Port); rec.Binding != nil {
			t.Errorf("record %+v, want one that rests", rec)
		}
	})
}

// TestIdleWhileBinding has a check and then a disk that take longer than a
// binding may be idle: it is idle from the answer on.
func TestIdleWhileBinding(t *testing.T) {
	idles := func(t *testing.T, w *world, b ohrouter.Binding) {
		t.Helper()
		if !b.LastUsedAt.Equal(time.Now()) {
			t.Errorf("bound at %v, last used at %v", time.Now(), b.LastUsedAt)
		}
		wait(idle - 1)
		w.wantState(b.ID, ohrouter.BindingActive)
		wait(1)
		w.wantState(b.ID, "")
	}
	inBubble(t, nil, func(t *testing.T, w *world) {
		b := w.mustBind("db:1", unchecked)
		w.listeners.check = func(context.Context, ohrouter.Binding) error {
			time.Sleep(idle + time.Minute)
			return nil
		}
		again := w.mustBind("db:1", nil)
		if again.ID != b.ID {
			t.Errorf("bound as %s, want %s, which was being checked when it was idle", again.ID, b.ID)
		}
		idles(t, w, again)
	})
	inBubble(t, nil, func(t *testing.T, w *world) {
		b := w.mustBind("db:1", unchecked)
		w.listeners.check = func(context.Context, ohrouter.Binding) error {
			time.Sleep(2*idle - 1)
			return ohrouter.Errorf(ohrouter.TargetTimeout, "nobody answers")
		}
		_, _, err := w.bind("db:1", nil)
		w.wantCode(err, ohrouter.TargetTimeout)
		b, _ = w.Binding(b.ID)
		idles(t, w, b)
	})
	inBubble(t, nil, func(t *testing.T, w *world) {
		w.store.slowdown(idle + time.Minute)
		idles(t, w, w.mustBind("db:1", unchecked))
	})
}

// TestTTLWhileChanging has a ttl end while the binding is told its new proxy.
func TestTTLWhileChanging(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		b := w.mustBind("db:1", func(s *ohrouter.BindingSpec) {
			s.TTL, s.IdleTimeout = ohrouter.Duration(time.Hour), new(ohrouter.Duration(0))
		})
		wait(time.Hour - time.Second)
		w.listeners.set(func() { w.listeners.serves, w.listeners.slow = "west", 10*time.Second })
		if again := w.mustBind("db:1", nil); again.ID != b.ID || again.Proxy != "west" {
			t.Errorf("bound as %s by proxy %s, want %s by west", again.ID, again.Proxy, b.ID)
		}
		wait(2 * time.Second)
		w.wantState(b.ID, "")
	})
}

func TestSamePortAfterRecycling(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		first := w.mustBind("db:1", nil)
		wait(idle)
		w.wantState(first.ID, "")
		w.mustBind("db:2", nil)
		if b := w.mustBind("db:1", nil); b.Port != first.Port || b.ID == first.ID {
			t.Errorf("bound again as %s at port %d, want another id at %d", b.ID, b.Port, first.Port)
		}
		wait(idle + quarantine + time.Hour) // rested, but no reason to give it away
		w.restart()
		w.mustBind("db:3", nil)
		if b := w.mustBind("db:1", nil); b.Port != first.Port {
			t.Errorf("bound after a restart at port %d, want %d", b.Port, first.Port)
		}
	})
}

func TestRestingPort(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		b := w.mustBind("db:1", port(20003))
		if err := w.Release(t.Context(), b.ID, 0); err != nil {
			t.Fatal(err)
		}
		wait(quarantine - 1)
		w.restart()
		_, _, err := w.bind("db:2", port(20003))
		w.wantCode(err, ohrouter.Conflict)
		wait(1)
		w.mustBind("db:2", port(20003))
		if b := w.mustBind("db:1", nil); b.Port == 20003 {
			t.Error("two targets at one port")
		}
	})
}

func TestNoQuarantine(t *testing.T) {
	inBubble(t, func(c *registry.Config) { c.Quarantine, c.PortHigh = 0, c.PortLow }, func(t *testing.T, w *world) {
		for i := range 5 {
			b := w.mustBind(fmt.Sprintf("db:%d", i+1), nil)
			if err := w.Release(t.Context(), b.ID, 0); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestPortsExhausted(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		w.listeners.foreign[20004] = true
		var last ohrouter.Binding
		for i := range 9 {
			last = w.mustBind(fmt.Sprintf("db:%d", i+1), nil)
			if last.Port == 20004 {
				t.Fatal("bound a port of another program")
			}
		}
		if err := w.Release(t.Context(), last.ID, 0); err != nil {
			t.Fatal(err)
		}
		_, _, err := w.bind("db:10", nil)
		w.wantCode(err, ohrouter.PortsExhausted)
		want := "no port of 20000-20009 is left: 8 bound, 1 resting (the first until " +
			time.Now().Add(quarantine).UTC().Format(time.RFC3339) +
			"), 1 in use by other programs; widen --ports, or shorten --quarantine: so long a port rests that is unbound"
		if got := ohrouter.Message(err); got != want {
			t.Errorf("message\n%s, want\n%s", got, want)
		}
		_, _, err = w.bind("db:10", port(20004))
		w.wantCode(err, ohrouter.Conflict)
		_, _, err = w.bind("db:10", port(20000))
		w.wantCode(err, ohrouter.Conflict)
		w.mustBind("db:9", nil) // its own port, though it rests
	})
}

func TestOldPortTaken(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		first := w.mustBind("db:1", port(20001))
		if err := w.Release(t.Context(), first.ID, 0); err != nil {
			t.Fatal(err)
		}
		wait(time.Second)
		second := w.mustBind("db:1", port(20002))
		if err := w.Release(t.Context(), second.ID, 0); err != nil {
			t.Fatal(err)
		}
		w.listeners.set(func() { w.listeners.foreign[20002] = true })
		if b := w.mustBind("db:1", nil); b.Port != 20001 {
			t.Errorf("bound at %d, want the older port 20001 since 20002 is taken", b.Port)
		}
	})
}

func TestRelease(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		b := w.mustBind("db:1", nil)
		w.listeners.session(b.ID, 1)
		if err := w.Release(t.Context(), b.ID, 0); err != nil {
			t.Fatal(err)
		}
		if w.listeners.listens(b.Port) {
			t.Error("the port listens after Release has returned")
		}
		w.wantState(b.ID, "")
		w.wantCode(w.Release(t.Context(), b.ID, 0), ohrouter.NotFound)
		if got := w.mustBind("db:1", nil); got.Port != b.Port {
			t.Errorf("bound again at %d, want %d", got.Port, b.Port)
		}
	})
}

func TestReleaseWithDrain(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		old := w.mustBind("db:1", nil)
		w.listeners.session(old.ID, 1)
		start := time.Now()
		if err := w.Release(t.Context(), old.ID, time.Minute); err != nil {
			t.Fatal(err)
		}
		w.wantState(old.ID, ohrouter.BindingDraining)
		if w.listeners.listens(old.Port) {
			t.Error("a draining binding's port listens")
		}
		if rec := w.store.record(old.Port); rec.Binding != nil || !rec.RestsUntil.Equal(start.Add(time.Minute+quarantine)) {
			t.Errorf("record %+v, want rest for drain and quarantine", rec)
		}
		_, err := w.Patch(t.Context(), old.ID, ohrouter.BindingPatch{MaxSessions: new(1)})
		w.wantCode(err, ohrouter.Conflict)
		next := w.mustBind("db:1", nil)
		if next.Port == old.Port || next.ID == old.ID {
			t.Errorf("bound again as %s at %d while it drains", next.ID, next.Port)
		}
		_, _, err = w.bind("db:2", port(old.Port))
		w.wantCode(err, ohrouter.Conflict)
		if n := len(w.Bindings()); n != 2 {
			t.Errorf("%d bindings, want both", n)
		}

		wait(10 * time.Second)
		w.listeners.session(old.ID, -1)
		wait(0)
		w.wantState(old.ID, "")
		if rec := w.store.record(old.Port); !rec.RestsUntil.Equal(time.Now().Add(quarantine)) {
			t.Errorf("rests until %v, want the quarantine from the drain's end", rec.RestsUntil)
		}
	})
}

// A session that began beside a check of its binding drains as others do.
func TestReleaseDuringCheck(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		old := w.mustBind("db:1", nil)
		wait(time.Minute) // its check is old
		w.listeners.check = func(_ context.Context, b ohrouter.Binding) error {
			if b.ID != old.ID {
				return nil
			}
			w.listeners.session(old.ID, 1)
			return w.Release(t.Context(), old.ID, time.Minute)
		}
		if next := w.mustBind("db:1", nil); next.ID == old.ID {
			t.Error("a binding that drains is given to who binds")
		}
		wait(0)
		w.wantState(old.ID, ohrouter.BindingDraining)
		if n := w.listeners.Usage(old.ID).Sessions; n != 1 {
			t.Errorf("%d sessions, want the one that drains", n)
		}
		w.listeners.mu.Lock()
		defer w.listeners.mu.Unlock()
		if w.listeners.links[old.ID] {
			t.Error("the check's connection is kept")
		}
	})
}

func TestDrainIsCut(t *testing.T) {
	for name, test := range map[string]struct {
		ttl, drain time.Duration
		again      bool // released again, without a drain
		after      time.Duration
	}{
		"at its end":   {drain: time.Minute, after: time.Minute},
		"by a release": {drain: time.Hour, again: true},
		"by the ttl":   {drain: time.Hour, ttl: 10 * time.Minute, after: 10 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, nil, func(t *testing.T, w *world) {
				b := w.mustBind("db:1", func(s *ohrouter.BindingSpec) { s.TTL = ohrouter.Duration(test.ttl) })
				w.listeners.session(b.ID, 1)
				for range 2 { // with a drain, the second changes nothing
					if err := w.Release(t.Context(), b.ID, test.drain); err != nil {
						t.Fatal(err)
					}
				}
				if test.again {
					if err := w.Release(t.Context(), b.ID, 0); err != nil {
						t.Fatal(err)
					}
				} else {
					wait(test.after - 1)
					w.wantState(b.ID, ohrouter.BindingDraining)
				}
				wait(1)
				w.wantState(b.ID, "")
				if w.listeners.Usage(b.ID).Sessions != 0 {
					t.Error("the session was not cut")
				}
			})
		})
	}
}

func TestRunCutsDrains(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		b := w.mustBind("db:1", nil)
		w.listeners.session(b.ID, 1)
		if err := w.Release(t.Context(), b.ID, time.Hour); err != nil {
			t.Fatal(err)
		}
		w.stop()
		w.wantState(b.ID, "")
		if rec := w.store.record(b.Port); !rec.RestsUntil.Equal(time.Now().Add(quarantine)) {
			t.Errorf("rests until %v, want the quarantine from now", rec.RestsUntil)
		}
	})
}

func TestPatch(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		b := w.mustBind("db:1", nil)
		patch := ohrouter.BindingPatch{
			IdleTimeout: new(ohrouter.Duration(time.Hour)),
			TTL:         new(ohrouter.Duration(2 * time.Hour)),
			MaxSessions: new(4),
			Labels:      new(map[string]string{"x": "y"}),
		}
		got, err := w.Patch(t.Context(), b.ID, patch)
		if err != nil || got.MaxSessions != 4 || got.Labels["x"] != "y" || got.ExpiresAt == nil {
			t.Fatalf("Patch() = %+v, %v, want it applied", got, err)
		}
		w.listeners.set(func() {
			if n := w.listeners.open[b.ID].MaxSessions; n != 4 {
				t.Errorf("the listener allows %d sessions, want 4", n)
			}
		})
		w.restart()
		wait(time.Hour - 1)
		w.wantState(b.ID, ohrouter.BindingActive)
		w.mustBind("db:1", func(s *ohrouter.BindingSpec) { s.TTL = ohrouter.Duration(2 * time.Hour) })

		_, err = w.Patch(t.Context(), b.ID, ohrouter.BindingPatch{TTL: new(ohrouter.Duration(0)), IdleTimeout: new(ohrouter.Duration(time.Minute))})
		if err != nil {
			t.Fatal(err)
		}
		wait(time.Minute - 1)
		w.wantState(b.ID, ohrouter.BindingActive)
		wait(1)
		w.wantState(b.ID, "")
		_, err = w.Patch(t.Context(), b.ID, patch)
		w.wantCode(err, ohrouter.NotFound)
	})
}

func TestPatchFails(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		b := w.mustBind("db:1", nil)
		_, err := w.Patch(t.Context(), b.ID, ohrouter.BindingPatch{MaxSessions: new(-1)})
		w.wantCode(err, ohrouter.InvalidRequest)
		w.store.failing(true)
		_, err = w.Patch(t.Context(), b.ID, ohrouter.BindingPatch{MaxSessions: new(9)})
		w.wantCode(err, ohrouter.Internal)
		if got, _ := w.Binding(b.ID); got.MaxSessions != 0 {
			t.Errorf("max sessions %d after a failed patch, want 0", got.MaxSessions)
		}
	})
}

// A conflict says what the binding has, in words where it has nothing.
func TestConflictSaysWhatThereIs(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		w.mustBind("db:1", nil)
		w.mustBind("db:2", func(s *ohrouter.BindingSpec) { s.TTL, s.MaxSessions = ohrouter.Duration(time.Hour), 3 })
		ttl := func(s *ohrouter.BindingSpec) { s.TTL = ohrouter.Duration(time.Minute) }
		most := func(s *ohrouter.BindingSpec) { s.MaxSessions = 2 }
		for _, tt := range []struct {
			target string
			ask    func(*ohrouter.BindingSpec)
			want   string
		}{
			{"db:1", ttl, ", without ttl;"},
			{"db:2", ttl, ", with ttl 1h0m0s;"},
			{"db:1", most, ", without max_sessions;"},
			{"db:1", func(s *ohrouter.BindingSpec) { s.ProxyProtocol = ohrouter.ProxyProtocolV2 }, ", without proxy_protocol;"},
			{"db:2", func(s *ohrouter.BindingSpec) { most(s); s.TTL = 0 }, ", with max_sessions 3;"},
		} {
			_, _, err := w.bind(tt.target, tt.ask)
			if w.wantCode(err, ohrouter.Conflict); !strings.Contains(ohrouter.Message(err), tt.want) {
				t.Errorf("conflict %q, want it to say %q", ohrouter.Message(err), tt.want)
			}
		}
	})
}

func TestStoreFailsAtTheEnd(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		b := w.mustBind("db:1", nil)
		w.store.failing(true)
		wait(idle)
		w.wantState(b.ID, "")
		_, _, err := w.bind("db:2", port(b.Port))
		w.wantCode(err, ohrouter.Conflict)
		if w.store.record(b.Port).Binding == nil {
			t.Fatal("a failing store took a record")
		}
		w.store.failing(false)
		wait(time.Minute)
		if rec := w.store.record(b.Port); rec.Binding != nil {
			t.Errorf("record %+v, want it corrected once the store works again", rec)
		}
	})
}

func TestRestart(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		b := w.mustBind("db:1", func(s *ohrouter.BindingSpec) { s.Proxy = "west"; s.Labels = map[string]string{"k": "v"} })
		mortal := w.mustBind("db:2", func(s *ohrouter.BindingSpec) { s.TTL = ohrouter.Duration(time.Minute) })
		taken := w.mustBind("db:3", nil)
		w.stop()
		wait(idle - 1)
		w.listeners = newFakeListeners()
		w.listeners.foreign[taken.Port] = true
		w.start()
		wait(0)

		got, err := w.Binding(b.ID)
		if err != nil || got.Port != b.Port || got.Proxy != "west" || !got.Pinned || got.Labels["k"] != "v" || !got.CreatedAt.Equal(b.CreatedAt) {
			t.Errorf("restored %+v (%v), want %+v", got, err, b)
		}
		if !w.listeners.listens(b.Port) {
			t.Error("a restored binding does not listen")
		}
		w.wantState(mortal.ID, "")
		w.wantState(taken.ID, "")
		for _, p := range []uint16{mortal.Port, taken.Port} {
			_, _, err := w.bind("db:9", port(p))
			w.wantCode(err, ohrouter.Conflict)
		}
		if rec := w.store.record(mortal.Port); rec.Binding != nil || !rec.EndedAt.Equal(*mortal.ExpiresAt) {
			t.Errorf("record %+v, want it to have ended at %v", rec, mortal.ExpiresAt)
		}
		wait(idle - 1) // the idle clock began anew
		w.wantState(b.ID, ohrouter.BindingActive)
		wait(1)
		w.wantState(b.ID, "")
	})
}

func TestRestartWithOtherRange(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		b := w.mustBind("db:1", port(20001))
		w.stop()
		w.config.PortLow, w.config.PortHigh = 20002, 20009
		w.restart()
		wait(0)
		w.wantState(b.ID, "")
		w.stop()
		w.config.PortLow = 20000
		w.restart()
		if got := w.mustBind("db:1", nil); got.Port != b.Port {
			t.Errorf("bound at %d once the range is as it was, want %d", got.Port, b.Port)
		}
	})
}

func TestRestartAfterClockSetBack(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		future := time.Now().Add(1000 * time.Hour)
		to, _ := ohrouter.ParseTarget("db:1")
		rec := registry.Record{Port: 20001, Target: to, EndedAt: future, RestsUntil: future.Add(time.Minute)}
		if err := w.store.Put(t.Context(), rec); err != nil {
			t.Fatal(err)
		}
		w.restart()
		wait(time.Minute - 1)
		_, _, err := w.bind("db:2", port(20001))
		w.wantCode(err, ohrouter.Conflict)
		wait(1)
		w.mustBind("db:2", port(20001))
	})
}

func TestManyBindingsExpire(t *testing.T) {
	many := func(c *registry.Config) { c.PortHigh = c.PortLow + 999 }
	inBubble(t, many, func(t *testing.T, w *world) {
		for i := range 1000 {
			w.mustBind(fmt.Sprintf("db:%d", i+1), func(s *ohrouter.BindingSpec) {
				s.IdleTimeout = new(ohrouter.Duration(time.Duration(i%100+1) * time.Second))
			})
		}
		for left := 990; left >= 0; left -= 10 {
			wait(time.Second)
			if n := len(w.Bindings()); n != left {
				t.Fatalf("%d bindings are left, want %d", n, left)
			}
		}
	})
}

// What was bound while only this machine reached the ports must not be open to
// everybody when others do.
func TestRestoreWhereOthersReachThePorts(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		w.mustBind("a:1", nil)
		b := w.mustBind("b:1", func(s *ohrouter.BindingSpec) { s.Allow = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")} })
		w.config.NeedAllow = true
		w.restart()
		if got := w.Bindings(); len(got) != 1 || got[0].ID != b.ID {
			t.Errorf("restored %v, want the one with an allow list alone", got)
		}
	})
}
