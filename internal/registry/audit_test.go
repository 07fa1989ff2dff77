package registry_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/audit"
	"github.com/ohrouter/oh-router/internal/audit/audittest"
	"github.com/ohrouter/oh-router/internal/registry"
)

func TestAudit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := audittest.New(t)
		owners := &fakeOwners{}
		w := newWorld(t, func(c *registry.Config) { c.Audit, c.Owners = log.Log, owners })
		ctx := audit.With(t.Context(), audit.Caller{Token: "t-admin", Name: "root"})
		bind := func(target string, change func(*ohrouter.BindingSpec)) ohrouter.Binding {
			t.Helper()
			spec := ohrouter.BindingSpec{}
			spec.Target, _ = ohrouter.ParseTarget(target)
			if change != nil {
				change(&spec)
			}
			b, _, err := w.Bind(ctx, spec)
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
		released := bind("a:1", func(s *ohrouter.BindingSpec) { s.Allow = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")} })
		bind("a:1", nil) // it exists
		if _, err := w.Patch(ctx, released.ID, ohrouter.BindingPatch{Allow: new([]netip.Prefix{})}); err != nil {
			t.Fatal(err)
		}
		if err := w.Release(ctx, released.ID, 0); err != nil {
			t.Fatal(err)
		}
		bind("b:1", as("t-1"))
		if err := owners.revoke(w.Registry, "t-1"); err != nil {
			t.Fatal(err)
		}
		bind("c:1", func(s *ohrouter.BindingSpec) { s.TTL = ohrouter.Duration(time.Minute) })
		wait(time.Minute)
		bind("d:1", nil)
		wait(idle)
		bind("e:1", func(s *ohrouter.BindingSpec) { s.TTL = ohrouter.Duration(time.Hour) })
		w.stop()
		time.Sleep(2 * time.Hour)
		w.restart()

		got := log.Lines(t, "by", "owner", "target", "port", "allow", "reason")
		const mine = " by=t-admin owner= "
		want := []string{
			"binding_created" + mine + "target=a:1 port=20000 allow=[10.0.0.0/8] reason=",
			"binding_changed" + mine + "target=a:1 port=20000 allow= reason=",
			"binding_ended" + mine + "target=a:1 port=20000 allow= reason=released",
			"binding_created by=t-admin owner=t-1 target=b:1 port=20001 allow= reason=",
			"binding_ended by= owner=t-1 target=b:1 port=20001 allow= reason=revoked",
			"binding_created" + mine + "target=c:1 port=20002 allow= reason=",
			"binding_ended by= owner= target=c:1 port=20002 allow= reason=ttl",
			"binding_created" + mine + "target=d:1 port=20003 allow= reason=",
			"binding_ended by= owner= target=d:1 port=20003 allow= reason=idle",
			"binding_created" + mine + "target=e:1 port=20004 allow= reason=",
			"binding_ended by= owner= target=e:1 port=20004 allow= reason=its ttl has ended",
		}
		if !slices.Equal(got, want) {
			t.Errorf("the audit log has\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	})
}
