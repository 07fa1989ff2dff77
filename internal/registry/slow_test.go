package registry_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/registry"
)

// aWhile is what the store takes in the tests below.
const aWhile = 5 * time.Second

// TestRevokedWhileStoring revokes an owner whose new binding listens already and
// is being stored.
func TestRevokedWhileStoring(t *testing.T) {
	owned(t, ohrouter.Grant{}, func(t *testing.T, w *world, o *fakeOwners) {
		w.store.slowdown(aWhile)
		bound := make(chan error, 1)
		go func() {
			_, _, err := w.bind("db:1", as("t-a"))
			bound <- err
		}()
		wait(time.Second)
		if n := w.listeners.listening(); n != 1 {
			t.Fatalf("%d ports listen, want the one that is being stored", n)
		}
		var id string
		w.listeners.set(func() { id = w.listeners.ports[20000] })
		w.listeners.session(id, 1)
		if err := o.revoke(w.Registry, "t-a"); err != nil {
			t.Fatal(err)
		}
		if w.listeners.listening() != 0 {
			t.Error("the port of a revoked owner listens")
		}
		w.wantCode(<-bound, ohrouter.Unauthorized)
		wait(time.Minute)
		w.store.slowdown(0)
		_, _, err := w.bind("db:2", func(s *ohrouter.BindingSpec) { s.Owner, s.Port = "t-b", 20000 })
		w.wantCode(err, ohrouter.Conflict) // it rests
		for port, rec := range w.store.copied().records {
			if rec.Binding != nil {
				t.Errorf("port %d is stored as that of %s", port, rec.Binding.ID)
			}
		}
	})
}

// TestRevocationWaitsForNoDisk has many bindings, none of which may be in use
// until the others are stored.
func TestRevocationWaitsForNoDisk(t *testing.T) {
	const many = 200
	o := &fakeOwners{}
	inBubble(t, func(c *registry.Config) { c.Owners, c.PortHigh = o, c.PortLow+many }, func(t *testing.T, w *world) {
		for i := range many {
			w.mustBind(fmt.Sprintf("db:%d", 1+i), as("t-a"))
		}
		w.store.slowdown(aWhile)
		go o.revoke(w.Registry, "t-a")
		wait(1)
		if n := w.listeners.listening(); n > 0 {
			t.Errorf("%d ports of a revoked owner listen while the store writes", n)
		}
		wait(time.Minute)
	})
}

// TestRevokedWhileChanging revokes an owner whose binding is being changed. Who
// waits for a mutex stops a bubble's clock: it has no bubble.
func TestRevokedWhileChanging(t *testing.T) {
	o := &fakeOwners{}
	w := newWorld(t, func(c *registry.Config) { c.Owners = o })
	b := w.mustBind("db:1", as("t-a"))
	w.listeners.session(b.ID, 1)
	gate := make(chan struct{})
	w.store.mu.Lock()
	w.store.gate = gate
	w.store.mu.Unlock()
	changed, revoked := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := w.Patch(context.Background(), b.ID, ohrouter.BindingPatch{MaxSessions: new(1)})
		changed <- err
	}()
	gate <- struct{}{}
	go func() { revoked <- o.revoke(w.Registry, "t-a") }()
	for end := time.Now().Add(20 * time.Second); w.listeners.listens(b.Port) || w.listeners.Usage(b.ID).Sessions > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Error("the port of a revoked owner listens, or its session stands, while a change of it is stored")
			break
		}
	}
	close(gate)
	w.wantCode(<-changed, ohrouter.NotFound)
	if err := <-revoked; err != nil || w.listeners.listens(b.Port) {
		t.Errorf("ReleaseOwned() = %v, and the port listens: %v", err, w.listeners.listens(b.Port))
	}
	w.wantState(b.ID, "")
}

// TestReleasedWhileStopping has a release that is being stored when Run is told
// to end.
func TestReleasedWhileStopping(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		b, kept := w.mustBind("db:1", nil), w.mustBind("db:2", nil)
		w.store.slowdown(aWhile)
		released := make(chan error, 1)
		go func() { released <- w.Release(context.Background(), b.ID, 0) }()
		wait(time.Second)
		w.stop()
		if err := w.store.Close(); err != nil {
			t.Fatal(err)
		}
		if err := <-released; err != nil {
			t.Errorf("Release() = %v", err)
		}
		if rec := w.store.record(b.Port); rec.Binding != nil {
			t.Errorf("a restart finds binding %s, which was released", rec.Binding.ID)
		}
		w.wantCode(w.Release(context.Background(), kept.ID, 0), ohrouter.Draining)
		_, err := w.Patch(context.Background(), kept.ID, ohrouter.BindingPatch{MaxSessions: new(1)})
		w.wantCode(err, ohrouter.Draining)
		if !w.listeners.listens(kept.Port) {
			t.Error("a binding that stays does not listen")
		}
	})
}

// TestNewestIsRestored has a release that the store did not take, another binding
// of the target, and a crash.
func TestNewestIsRestored(t *testing.T) {
	for _, ports := range [][2]uint16{{20001, 20002}, {20002, 20001}} {
		inBubble(t, nil, func(t *testing.T, w *world) {
			old := w.mustBind("db:1", port(ports[0]))
			wait(time.Minute)
			w.store.failing(true)
			if err := w.Release(t.Context(), old.ID, 0); err != nil {
				t.Fatal(err)
			}
			w.store.failing(false)
			b := w.mustBind("db:1", port(ports[1]))
			crashed := w.store.copied()
			w.stop()
			w.store = crashed
			w.config.Store = crashed
			w.restart()
			if got := w.Bindings(); len(got) != 1 || got[0].ID != b.ID {
				t.Errorf("restored %+v, want %s at port %d, which was answered", got, b.ID, b.Port)
			}
		})
	}
}

// TestFailedBindRests has a port that somebody connected to before its bind
// failed.
func TestFailedBindRests(t *testing.T) {
	for name, used := range map[string]bool{"used": true, "unused": false} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, nil, func(t *testing.T, w *world) {
				w.store.slowdown(aWhile)
				w.store.failing(true)
				bound := make(chan error, 1)
				go func() {
					_, _, err := w.bind("db:1", port(20001))
					bound <- err
				}()
				wait(time.Second)
				var id string
				w.listeners.set(func() { id = w.listeners.ports[20001] })
				if used {
					w.listeners.session(id, 1)
				}
				w.wantCode(<-bound, ohrouter.Internal)
				w.store.failing(false)
				wait(time.Minute)
				if _, _, err := w.bind("db:2", port(20001)); (err != nil) != used {
					t.Errorf("binding another target at the port: %v, want an error: %v", err, used)
				}
				wait(time.Minute)
				w.mustBind("db:1", nil)
				wait(time.Minute)
			})
		})
	}
}
