package router_test

import (
	"net/netip"
	"testing"

	ohrouter "github.com/ohrouter/oh-router"
)

func TestSessionsOfAnOwner(t *testing.T) {
	f, x := start(t, 64, &direct{}), newTarget(t)
	bind := func(id, owner string, limit int) string {
		return f.open(ohrouter.Binding{ID: id, Owner: ohrouter.Optional(owner), OwnerSessions: limit, Target: x.Target})
	}
	one, two := bind("b-1", "t-a", 2), bind("b-2", "t-a", 2)
	others, nobodys := bind("b-3", "t-b", 2), bind("b-4", "", 0)

	first := connect(t, one)
	first.SetLinger(0)
	say(t, first, x.next(t), "the first of two")
	second := connect(t, two)
	say(t, second, x.next(t), "the second, of another binding")
	wantTurnedAway(t, one)
	wantTurnedAway(t, two)
	say(t, connect(t, others), x.next(t), "another owner")
	say(t, connect(t, nobodys), x.next(t), "no owner")
	if n := f.count("ohrouter_sessions_total", string(ohrouter.SessionLimit)); n != 2 {
		t.Errorf("%v clients were turned away for %s, want 2", n, ohrouter.SessionLimit)
	}

	first.Close()
	until(t, "the first session ends", func() bool { return len(f.Sessions("b-1")) == 0 })
	say(t, connect(t, two), x.next(t), "in place of the first")
	wantTurnedAway(t, one)
}

func TestAllowAppliesToNewClients(t *testing.T) {
	f, x := start(t, 64, &direct{}), newTarget(t)
	b := ohrouter.Binding{ID: "b-1", Target: x.Target}
	addr := f.open(b)
	client := connect(t, addr)
	server := x.next(t)
	say(t, client, server, "allowed")

	b.Allow = []netip.Prefix{netip.MustParsePrefix("127.0.0.2/32")}
	f.open(b)
	wantTurnedAway(t, addr)
	say(t, client, server, "its session goes on")
}
