package router_test

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/router"
)

func TestCheckIsTheFirstClientsSession(t *testing.T) {
	f, x := start(t, 64, &direct{}), newTarget(t)
	b := ohrouter.Binding{ID: "b-1", Target: x.Target, Proxy: "near", Pinned: true}
	begin := time.Now()
	proxy, check, err := f.Check(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	if proxy != "near" || !check.OK || string(check.Resolved) != x.String() || check.At.Before(begin) || check.Duration <= 0 {
		t.Errorf("Check = %q, %+v, want near and %v", proxy, check, x)
	}
	checked := x.next(t)
	if f.linker.link(0).acked.Load() {
		t.Error("the link is acknowledged, and no client has come")
	}
	if u := f.Usage("b-1"); u != (ohrouter.Usage{}) {
		t.Errorf("Usage = %+v, want none", u)
	}
	addr := f.open(b)
	first := connect(t, addr)
	say(t, first, checked, "first")
	if !f.linker.link(0).acked.Load() {
		t.Error("the link is not acknowledged, and its session runs")
	}
	second := connect(t, addr)
	say(t, second, x.next(t), "second")
	calls := f.linker.calls()
	if len(calls) != 2 || !calls[0].Park || calls[1].Park || calls[0].Proxy != "near" || !calls[0].Pinned {
		t.Errorf("the Linker was asked for %+v, want one link that is parked and one that is not", calls)
	}
	if s := f.Sessions("b-1"); len(s) != 2 || string(s[0].Resolved) != x.String() {
		t.Errorf("Sessions = %+v, want two", s)
	}
}

func TestParkedLinkThatCannotBeUsed(t *testing.T) {
	for _, tt := range []struct {
		name string
		do   func(l *directLink, server *net.TCPConn)
	}{
		{"the target has hung up", func(_ *directLink, server *net.TCPConn) { server.Close() }},
		{"its acknowledgement fails", func(l *directLink, _ *net.TCPConn) { l.deaf = true }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, x := start(t, 64, &direct{}), newTarget(t)
			b := ohrouter.Binding{ID: "b-1", Target: x.Target}
			f.check(b)
			l := f.linker.link(0)
			tt.do(l, x.next(t))
			until(t, "the link notices", func() bool { return l.deaf || !l.Alive() })
			say(t, connect(t, f.open(b)), x.next(t), "on a fresh link")
			if !l.closed.Load() {
				t.Error("the parked link is not closed")
			}
		})
	}
}

func TestParkedLinkIsReplacedByTheNextCheck(t *testing.T) {
	f, x := start(t, 64, &direct{}), newTarget(t)
	b := ohrouter.Binding{ID: "b-1", Target: x.Target}
	f.check(b)
	former := x.next(t)
	f.check(b)
	wantGone(t, "the former link's target", former)
	say(t, connect(t, f.open(b)), x.next(t), "on the later one")
	if n := len(f.linker.calls()); n != 2 {
		t.Errorf("%d links, want the 2 of the checks", n)
	}
}

func TestParkedLinkExpires(t *testing.T) {
	f, x := start(t, 64, &direct{}), newTarget(t)
	b := ohrouter.Binding{ID: "b-1", Target: x.Target}
	f.SetPark(time.Millisecond)
	f.check(b)
	wantGone(t, "target", x.next(t))
	say(t, connect(t, f.open(b)), x.next(t), "on a fresh link")

	f.SetPark(0)
	f.check(ohrouter.Binding{ID: "b-2", Target: x.Target})
	wantGone(t, "target", x.next(t))
}

func TestParkedLinkGoesWithItsBinding(t *testing.T) {
	for name, end := range map[string]func(f *fixture){
		"Stop":      func(f *fixture) { f.Stop("b-1") },
		"Close":     func(f *fixture) { f.Close(context.Background(), "b-1") },
		"CloseIdle": func(f *fixture) { f.CloseIdle("b-1") },
		"Shutdown":  func(f *fixture) { f.Shutdown(context.Background()) },
	} {
		for _, opened := range []bool{true, false} {
			t.Run(name, func(t *testing.T) {
				f, x := start(t, 64, &direct{}), newTarget(t)
				b := ohrouter.Binding{ID: "b-1", Target: x.Target}
				f.check(b)
				if opened {
					f.open(b)
				}
				end(f)
				if !f.linker.link(0).closed.Load() {
					t.Errorf("the link is still parked after %s", name)
				}
			})
		}
	}
}

func TestNothingIsParkedInAClosedRouter(t *testing.T) {
	f, x := start(t, 64, &direct{}), newTarget(t)
	f.Shutdown(t.Context())
	f.check(ohrouter.Binding{ID: "b-1", Target: x.Target})
	wantGone(t, "target", x.next(t))
}

func TestCheckOfATargetThatCannotBeReached(t *testing.T) {
	f := start(t, 64, &direct{before: func(context.Context, router.Want) error {
		return ohrouter.Errorf(ohrouter.TargetRefused, "nothing listens there")
	}})
	begin := time.Now()
	_, check, err := f.Check(t.Context(), ohrouter.Binding{ID: "b-1"})
	if code := ohrouter.CodeOf(err); code != ohrouter.TargetRefused {
		t.Errorf("Check fails with %q, want %q", code, ohrouter.TargetRefused)
	}
	if check.OK || check.Resolved != "" || check.At.Before(begin) || check.Duration <= 0 {
		t.Errorf("Check = %+v, want its time and duration", check)
	}
}

func TestSessionsComeBeforeParkedLinks(t *testing.T) {
	f, x := start(t, 3, &direct{}), newTarget(t)
	b := ohrouter.Binding{ID: "b-1", Target: x.Target}
	client := connect(t, f.open(b))
	say(t, client, x.next(t), "takes what there is")
	f.check(b)
	wantGone(t, "the check's target", x.next(t))
}

// stub makes links without connections.
type stub struct{ made []*stubLink }

type stubLink struct {
	directLink
	closes int
}

// stubHandshake has no call.
type stubHandshake struct {
	router.Handshake
	*stub
}

func (s *stub) Begin(router.Want) router.Handshake { return stubHandshake{stub: s} }

func (s stubHandshake) Dial(context.Context) (router.Link, error) {
	l := &stubLink{}
	s.made = append(s.made, l)
	return l, nil
}

func (s *stub) Up(context.Context, string) bool               { return true }
func (l *stubLink) Peer() (proxy string, addr netip.AddrPort) { return "near", addr }
func (l *stubLink) Close()                                    { l.closes++ }

func TestOldestParkedLinkGoesFirst(t *testing.T) {
	links := &stub{}
	f := start(t, router.MaxParked+10, links)
	for i := range router.MaxParked + 2 {
		f.check(ohrouter.Binding{ID: string(rune('a' + i))})
	}
	for i, l := range links.made {
		want := 0
		if i < 2 {
			want = 1
		}
		if l.closes != want {
			t.Fatalf("link %d of %d is closed %d times, want %d", i, len(links.made), l.closes, want)
		}
	}
}
