package router_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/audit"
)

func TestAudit(t *testing.T) {
	f, x := start(t, 64, &direct{}), newTarget(t)
	b := ohrouter.Binding{ID: "b-1", Owner: "t-1", OwnerName: "ci", Target: x.Target, MaxSessions: 1}
	addr := f.open(b)
	client := connect(t, addr)
	server := x.next(t)
	say(t, client, server, "up")
	say(t, server, client, "down")
	wantTurnedAway(t, addr)
	b.Allow = []netip.Prefix{netip.MustParsePrefix("127.0.0.2/32")}
	f.open(b)
	wantTurnedAway(t, addr)
	if err := f.Kill(f.Sessions("b-1")[0].ID); err != nil {
		t.Fatal(err)
	}
	wantReset(t, "client", client)
	refusing := f.open(ohrouter.Binding{ID: "b-2", Target: ohrouter.Target{Host: "127.0.0.1", Port: 1}})
	wantTurnedAway(t, refusing)
	until(t, "all ends are counted", func() bool { return f.count("ohrouter_sessions_total", "") == 4 })
	f.Shutdown(ended())

	got := f.audited.Lines(t, "owner", "owner_name", "binding", "target", "proxy", "resolved", "bytes_up", "bytes_down", "outcome")
	mine := " owner=t-1 owner_name=ci binding=b-1 target=" + x.String()
	want := []string{
		"session_opened" + mine + " proxy=near resolved=" + x.String() + " bytes_up= bytes_down= outcome=",
		"session_refused" + mine + " proxy= resolved= bytes_up= bytes_down= outcome=session_limit",
		"session_refused" + mine + " proxy= resolved= bytes_up= bytes_down= outcome=source_denied",
		"session_closed" + mine + " proxy=near resolved=" + x.String() + " bytes_up=2 bytes_down=4 outcome=killed",
		"session_refused owner= owner_name= binding=b-2 target=127.0.0.1:1 proxy= resolved= bytes_up= bytes_down= outcome=target_refused",
	}
	if !slices.Equal(got, want) {
		t.Errorf("the audit log has\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for _, name := range []string{"session", "client", "duration"} {
		if fields := f.audited.Fields(t, audit.SessionClosed); !slices.Contains(fields, name) {
			t.Errorf("session_closed has %v, want %s among them", fields, name)
		}
	}
}

// TestAuditOfStrangers: who may not connect, and does again and again, has two
// lines, in which each time counts.
func TestAuditOfStrangers(t *testing.T) {
	const n = 200
	f := start(t, 64, &direct{})
	addr := f.open(ohrouter.Binding{ID: "b-1", Target: ohrouter.Target{Host: "db", Port: 1}, Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.2/32")}})
	for range n {
		wantTurnedAway(t, addr)
	}
	until(t, "all are counted", func() bool { return f.count("ohrouter_sessions_total", "source_denied") == n })
	f.Shutdown(ended())
	want := []string{"session_refused outcome=source_denied count=", fmt.Sprintf("session_refused outcome=source_denied count=%d", n-1)}
	if got := f.audited.Lines(t, "outcome", "count"); !slices.Equal(got, want) {
		t.Errorf("the audit log has %q, want %q", got, want)
	}
}
