package registry_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/registry"
)

// fakeOwners gives every owner the same grant until it is revoked.
type fakeOwners struct {
	mu      sync.Mutex
	grant   ohrouter.Grant
	ends    *time.Time
	revoked map[string]bool
	counted []ohrouter.Target
	full    error // answers NewTarget
}

func (o *fakeOwners) Token(id string) (ohrouter.Token, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return ohrouter.Token{ID: id, Role: ohrouter.User, Grant: o.grant, ExpiresAt: o.ends}, !o.revoked[id]
}

func (o *fakeOwners) NewTarget(_ string, t ohrouter.Target) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.full == nil {
		o.counted = append(o.counted, t)
	}
	return o.full
}

func (o *fakeOwners) gone(id string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.revoked[id]
}

// revoke does what the API does.
func (o *fakeOwners) revoke(r *registry.Registry, id string) error {
	o.mu.Lock()
	if o.revoked == nil {
		o.revoked = map[string]bool{}
	}
	o.revoked[id] = true
	o.mu.Unlock()
	return r.ReleaseOwned(context.Background(), id)
}

// as makes a spec one of an owner.
func as(owner string) func(*ohrouter.BindingSpec) {
	return func(s *ohrouter.BindingSpec) { s.Owner = owner }
}

// owned starts a registry whose owners have a grant.
func owned(t *testing.T, grant ohrouter.Grant, test func(t *testing.T, w *world, o *fakeOwners)) {
	t.Helper()
	o := &fakeOwners{grant: grant}
	inBubble(t, func(c *registry.Config) { c.Owners = o }, func(t *testing.T, w *world) { test(t, w, o) })
}

// TestOneBindingForEachOwner has two users of one target, and nobody's.
func TestOneBindingForEachOwner(t *testing.T) {
	owned(t, ohrouter.Grant{}, func(t *testing.T, w *world, _ *fakeOwners) {
		ports := map[uint16]string{}
		for _, owner := range []string{"", "t-a", "t-b"} {
			b := w.mustBind("db:1", as(owner))
			if again := w.mustBind("db:1", as(owner)); again.ID != b.ID || string(again.Owner) != owner {
				t.Errorf("bind again of %q = %s of %q, want %s", owner, again.ID, again.Owner, b.ID)
			}
			if other, ok := ports[b.Port]; ok {
				t.Errorf("%q and %q have one port", owner, other)
			}
			ports[b.Port] = owner
		}
		w.restart()
		for port, owner := range ports {
			if b := w.mustBind("db:1", as(owner)); b.Port != port {
				t.Errorf("after a restart %q has port %d, want %d", owner, b.Port, port)
			}
		}
	})
}

// TestPortRestsForItsOwner ends a binding: its clients must not reach the
// target by another owner's rights.
func TestPortRestsForItsOwner(t *testing.T) {
	owned(t, ohrouter.Grant{}, func(t *testing.T, w *world, _ *fakeOwners) {
		b := w.mustBind("db:1", as("t-a"))
		if err := w.Release(t.Context(), b.ID, 0); err != nil {
			t.Fatal(err)
		}
		for range 2 { // also as the store has it
			if other := w.mustBind("db:1", as("t-b")); other.Port == b.Port {
				t.Errorf("t-b has port %d, which rests for t-a", b.Port)
			}
			_, _, err := w.bind("db:2", func(s *ohrouter.BindingSpec) { s.Owner, s.Port = "t-b", b.Port })
			w.wantCode(err, ohrouter.Conflict)
			w.restart()
		}
		if again := w.mustBind("db:1", as("t-a")); again.Port != b.Port {
			t.Errorf("t-a has port %d again, want %d", again.Port, b.Port)
		}
	})
}

func TestRevokedOwner(t *testing.T) {
	owned(t, ohrouter.Grant{}, func(t *testing.T, w *world, o *fakeOwners) {
		first, second := w.mustBind("db:1", as("t-a")), w.mustBind("db:2", as("t-a"))
		other := w.mustBind("db:1", as("t-b"))
		w.listeners.session(first.ID, 1)
		if err := o.revoke(w.Registry, "t-a"); err != nil {
			t.Fatalf("ReleaseOwned() = %v", err)
		}
		for _, b := range []ohrouter.Binding{first, second} {
			if w.listeners.listens(b.Port) {
				t.Errorf("port %d of a revoked owner listens", b.Port)
			}
			if n := w.listeners.Usage(b.ID).Sessions; n != 0 {
				t.Errorf("%d sessions of a revoked owner are open", n)
			}
		}
		wait(time.Second)
		w.wantState(first.ID, "")
		w.wantState(second.ID, "")
		w.wantState(other.ID, ohrouter.BindingActive)
		_, _, err := w.bind("db:1", as("t-a"))
		w.wantCode(err, ohrouter.Unauthorized)
		if err := w.ReleaseOwned(t.Context(), "t-nobody"); err != nil {
			t.Errorf("ReleaseOwned of nobody = %v", err)
		}
	})
}

// TestRevokedWhileBinding revokes an owner while its bind checks the target,
// and while the store writes.
func TestRevokedWhileBinding(t *testing.T) {
	owned(t, ohrouter.Grant{}, func(t *testing.T, w *world, o *fakeOwners) {
		w.listeners.set(func() {
			w.listeners.check = func(context.Context, ohrouter.Binding) error { return o.revoke(w.Registry, "t-a") }
		})
		_, _, err := w.bind("db:1", as("t-a"))
		w.wantCode(err, ohrouter.Unauthorized)
		if n := len(w.Bindings()); n != 0 || len(w.listeners.open) != 0 {
			t.Errorf("a revoked owner has %d bindings and %d listeners, want none", n, len(w.listeners.open))
		}
		wait(time.Minute)
		w.listeners.set(func() { w.listeners.check = nil })
		w.restart()
		if n := len(w.Bindings()); n != 0 {
			t.Errorf("after a restart a revoked owner has %d bindings", n)
		}
		w.mustBind("db:1", as("t-b"))
	})
}

// TestRevokedWhileStopped is a crash between a revocation and its bindings' end.
func TestRevokedWhileStopped(t *testing.T) {
	owned(t, ohrouter.Grant{}, func(t *testing.T, w *world, o *fakeOwners) {
		b := w.mustBind("db:1", as("t-a"))
		kept := w.mustBind("db:1", as("t-b"))
		w.stop()
		o.mu.Lock()
		o.revoked = map[string]bool{"t-a": true}
		o.mu.Unlock()
		w.restart()
		w.wantState(b.ID, "")
		w.wantState(kept.ID, ohrouter.BindingActive)
		if w.listeners.listens(b.Port) {
			t.Errorf("port %d of a revoked owner listens again", b.Port)
		}
	})
}

func TestQuotaOfBindings(t *testing.T) {
	owned(t, ohrouter.Grant{MaxBindings: 2}, func(t *testing.T, w *world, o *fakeOwners) {
		first := w.mustBind("db:1", as("t-a"))
		w.mustBind("db:2", as("t-a"))
		_, _, err := w.bind("db:3", as("t-a"))
		w.wantCode(err, ohrouter.QuotaExceeded)
		w.mustBind("db:1", as("t-a")) // has it already
		w.mustBind("db:3", as("t-b"))
		if err := w.Release(t.Context(), first.ID, 0); err != nil {
			t.Fatal(err)
		}
		wait(time.Second)
		w.mustBind("db:3", as("t-a"))
		if n := len(o.counted); n != 4 {
			t.Errorf("%d targets were new (%v), want 4", n, o.counted)
		}
	})
}

// TestQuotaHasNoRace asks for many bindings at once, with checks that take time.
func TestQuotaHasNoRace(t *testing.T) {
	owned(t, ohrouter.Grant{MaxBindings: 3}, func(t *testing.T, w *world, _ *fakeOwners) {
		w.listeners.set(func() {
			w.listeners.check = func(context.Context, ohrouter.Binding) error { time.Sleep(time.Second); return nil }
		})
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() { _, _, _ = w.bind(fmt.Sprintf("db:%d", 1+i), as("t-a")) })
		}
		wg.Wait()
		if n := len(w.Bindings()); n != 3 {
			t.Errorf("the owner has %d bindings, want 3", n)
		}
	})
}

// TestNewTargetsAreCounted refuses before anything is connected to.
func TestNewTargetsAreCounted(t *testing.T) {
	owned(t, ohrouter.Grant{}, func(t *testing.T, w *world, o *fakeOwners) {
		w.listeners.set(func() {
			w.listeners.check = func(context.Context, ohrouter.Binding) error {
				return ohrouter.Errorf(ohrouter.TargetRefused, "no")
			}
		})
		_, _, err := w.bind("db:1", as("t-a"))
		w.wantCode(err, ohrouter.TargetRefused)
		o.full = ohrouter.Errorf(ohrouter.QuotaExceeded, "enough")
		checks := w.listeners.count()
		_, _, err = w.bind("db:2", as("t-a"))
		w.wantCode(err, ohrouter.QuotaExceeded)
		if n := w.listeners.count(); n != checks {
			t.Errorf("a refused bind was checked")
		}
		w.listeners.set(func() { w.listeners.check = nil })
		w.mustBind("db:2", nil) // nobody is not counted
		if len(o.counted) != 1 {
			t.Errorf("%v were counted, want db:1", o.counted)
		}
	})
}

// TestGrantFillsIn has what a grant says where a bind says nothing.
func TestGrantFillsIn(t *testing.T) {
	grant := ohrouter.Grant{
		Proxies: []string{"west", "east"}, Ports: &ohrouter.PortRange{Low: 20004, High: 20005},
		MaxTTL: ohrouter.Duration(time.Hour), MaxSessions: 7,
	}
	requester := []netip.Prefix{netip.MustParsePrefix("10.1.2.3/32")}
	owned(t, grant, func(t *testing.T, w *world, o *fakeOwners) {
		mine := func(s *ohrouter.BindingSpec) { s.Owner, s.DefaultAllow = "t-a", requester }
		b := w.mustBind("db:1", mine)
		if b.Proxy != "west" || !b.Pinned || b.Port != 20004 || b.ExpiresAt == nil || time.Until(*b.ExpiresAt) != time.Hour || b.Allow[0] != requester[0] {
			t.Errorf("binding = %+v, want what the grant says", b)
		}
		if opened := w.listeners.open[b.ID]; opened.OwnerSessions != 7 || opened.Owner != "t-a" {
			t.Errorf("the listener is told of %d sessions of %q, want 7 of t-a", opened.OwnerSessions, opened.Owner)
		}
		// What is left out means "as it is" for a binding that exists.
		if _, err := w.Patch(t.Context(), b.ID, ohrouter.BindingPatch{
			TTL: new(ohrouter.Duration(time.Minute)), Allow: &[]netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
		}); err != nil {
			t.Fatal(err)
		}
		if again := w.mustBind("db:1", mine); again.ID != b.ID {
			t.Errorf("bind again = %s, want %s", again.ID, b.ID)
		}
		w.mustBind("db:2", mine)
		_, _, err := w.bind("db:3", mine)
		w.wantCode(err, ohrouter.PortsExhausted)
		w.restart()
		if opened := w.listeners.open[b.ID]; opened.OwnerSessions != 7 {
			t.Errorf("after a restart the listener is told of %d sessions, want 7", opened.OwnerSessions)
		}
		explicit := w.mustBind("db:4", func(s *ohrouter.BindingSpec) {
			s.Allow, s.DefaultAllow = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}, requester
		})
		if explicit.Allow[0].Bits() != 0 || explicit.ExpiresAt != nil {
			t.Errorf("nobody's binding = %+v, want what it asked for", explicit)
		}
		o.full = errors.New("not asked about nobody")
		w.mustBind("db:5", nil)
	})
}

// TestEndsWithItsToken is a binding whose owner's token has an end.
func TestEndsWithItsToken(t *testing.T) {
	owned(t, ohrouter.Grant{}, func(t *testing.T, w *world, o *fakeOwners) {
		ends := time.Now().Add(time.Hour)
		o.ends = &ends
		never := func(s *ohrouter.BindingSpec) { s.Owner, s.IdleTimeout = "t-a", new(ohrouter.Duration(0)) }
		b := w.mustBind("db:1", never)
		short := w.mustBind("db:2", func(s *ohrouter.BindingSpec) { never(s); s.TTL = ohrouter.Duration(time.Minute) })
		if !b.ExpiresAt.Equal(ends) || !short.ExpiresAt.Equal(time.Now().Add(time.Minute)) {
			t.Errorf("bindings end at %v and %v, want %v and in a minute", b.ExpiresAt, short.ExpiresAt, ends)
		}
		for _, ttl := range []time.Duration{0, 24 * time.Hour} {
			got, err := w.Patch(t.Context(), b.ID, ohrouter.BindingPatch{TTL: new(ohrouter.Duration(ttl))})
			if err != nil || got.ExpiresAt == nil || !got.ExpiresAt.Equal(ends) {
				t.Errorf("with a ttl of %v it ends at %v (%v), want %v", ttl, got.ExpiresAt, err, ends)
			}
		}
		wait(time.Hour)
		w.wantState(b.ID, "")
	})
}
