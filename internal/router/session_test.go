package router_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/router"
	"github.com/ohrouter/oh-router/internal/socket"
)

func TestSessionIsListedAndCountedLive(t *testing.T) {
	f, x := start(t, 64, &direct{}), newTarget(t)
	begin := time.Now()
	addr := f.open(ohrouter.Binding{ID: "b-1", Target: x.Target, Proxy: "near", Pinned: true})
	other := f.open(ohrouter.Binding{ID: "b-2", Target: x.Target})
	client := connect(t, addr)
	server := x.next(t)
	second := connect(t, other)
	x.next(t)
	say(t, client, server, "hello")
	say(t, server, client, "hi")
	until(t, "7 bytes are counted", func() bool { u := f.Usage("b-1"); return u.BytesUp+u.BytesDown == 7 })

	list := f.Sessions("b-1")
	if len(list) != 1 {
		t.Fatalf("Sessions = %+v, want one", list)
	}
	got := list[0]
	want := ohrouter.Session{
		ID: got.ID, BindingID: "b-1", Target: x.Target, Resolved: ohrouter.Optional(x.String()), Proxy: "near",
		Client: client.LocalAddr().(*net.TCPAddr).AddrPort(), StartedAt: got.StartedAt, BytesUp: 5, BytesDown: 2,
	}
	if got != want {
		t.Errorf("session is\n%+v, want\n%+v", got, want)
	}
	if named, err := f.Session(got.ID); err != nil || named != want {
		t.Errorf("Session(%q) = %+v, %v, want it", got.ID, named, err)
	}
	prefix, number, _ := strings.Cut(strings.TrimPrefix(got.ID, "s-"), "-")
	for _, name := range []string{"", number, "s-" + prefix, "s-" + prefix + "-", "s-" + prefix + "-0" + number, "S-" + prefix + "-" + number, "s-other1-" + number} {
		if _, err := f.Session(name); ohrouter.CodeOf(err) != ohrouter.NotFound {
			t.Errorf("Session(%q) = %v, want none", name, err)
		}
	}
	if got.StartedAt.Before(begin) || got.StartedAt.Location() != time.UTC {
		t.Errorf("StartedAt = %v, want after %v, in UTC", got.StartedAt, begin)
	}
	if others := f.Sessions("b-2"); len(others) != 1 || others[0].BindingID != "b-2" {
		t.Errorf("Sessions of b-2 = %+v, want one", others)
	}
	w := f.linker.calls()[0]
	if w.Session != got.ID || w.Target != x.Target || w.Proxy != "near" || !w.Pinned || w.Park {
		t.Errorf("the Linker was asked for %+v", w)
	}
	u := f.Usage("b-1")
	if u.Sessions != 1 || u.Standing != 1 || u.SessionsTotal != 1 || u.BytesUp != 5 || u.BytesDown != 2 || u.LastOK == u.LastOK.Round(0) || !u.LastEnd.IsZero() || u.LastError != nil {
		t.Errorf("Usage = %+v, want one session of 5 and 2 bytes", u)
	}
	if up, open := f.count("ohrouter_bytes_total", "up"), f.count("ohrouter_sessions", ""); up != 5 || open != 2 {
		t.Errorf("metrics count %v bytes up and %v sessions, want 5 and 2", up, open)
	}
	second.Close()
}

func TestSessionEnds(t *testing.T) {
	for _, tt := range []struct {
		want ohrouter.Outcome
		end  func(t *testing.T, f *fixture, client, server *net.TCPConn)
	}{
		{ohrouter.ClientClosed, func(t *testing.T, _ *fixture, client, server *net.TCPConn) {
			client.CloseWrite()
			wantClosed(t, "target", server)
			say(t, server, client, "after the half-close")
			server.Close()
			wantClosed(t, "client", client)
		}},
		{ohrouter.TargetClosed, func(t *testing.T, _ *fixture, client, server *net.TCPConn) {
			server.CloseWrite()
			wantClosed(t, "client", client)
			client.Close()
		}},
		{ohrouter.ClientReset, func(t *testing.T, _ *fixture, client, server *net.TCPConn) {
			socket.Abort(client)
			wantReset(t, "target", server)
		}},
		{ohrouter.TargetReset, func(t *testing.T, _ *fixture, client, server *net.TCPConn) {
			socket.Abort(server)
			wantReset(t, "client", client)
		}},
		{ohrouter.LinkLost, func(t *testing.T, f *fixture, client, server *net.TCPConn) {
			f.linker.down.Store(true) // the proxy has died: its kernel resets the link
			socket.Abort(server)
			wantReset(t, "client", client)
		}},
		{ohrouter.Killed, func(t *testing.T, f *fixture, client, server *net.TCPConn) {
			if err := f.Kill(f.Sessions("b-1")[0].ID); err != nil {
				t.Error(err)
			}
			wantReset(t, "client", client)
			wantReset(t, "target", server)
		}},
		{ohrouter.BindingClosed, func(t *testing.T, f *fixture, client, server *net.TCPConn) {
			f.Close(ended(), "b-1")
			if n := len(f.Sessions("b-1")); n != 0 {
				t.Errorf("%d sessions after Close, want none", n)
			}
			wantReset(t, "client", client)
			wantReset(t, "target", server)
		}},
		{ohrouter.Drained, func(t *testing.T, f *fixture, client, server *net.TCPConn) {
			f.Shutdown(ended())
			wantReset(t, "client", client)
			wantReset(t, "target", server)
		}},
	} {
		for name, dials := range map[string]bool{"called": false, "dialled": true} {
			t.Run(name+"/"+string(tt.want), func(t *testing.T) {
				f, x := start(t, 64, &direct{dials: dials}), newTarget(t)
				client := connect(t, f.open(ohrouter.Binding{ID: "b-1", Target: x.Target}))
				server := x.next(t)
				say(t, client, server, "it stands")
				tt.end(t, f, client, server)
				f.wantOutcome(tt.want)
				until(t, "the session leaves the list", func() bool { return len(f.Sessions("b-1")) == 0 })
			})
		}
	}
}

func TestKillOfAnUnknownSession(t *testing.T) {
	f := start(t, 64, &direct{})
	if code := ohrouter.CodeOf(f.Kill("s-none")); code != ohrouter.NotFound {
		t.Errorf("Kill has code %q, want %q", code, ohrouter.NotFound)
	}
}

func TestClientsThatAreNotTaken(t *testing.T) {
	for _, tt := range []struct {
		want ohrouter.Outcome
		spec ohrouter.Binding
	}{
		{ohrouter.SourceDenied, ohrouter.Binding{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.2/32"), netip.MustParsePrefix("::/0")}}},
		{ohrouter.SessionLimit, ohrouter.Binding{MaxSessions: 1}},
	} {
		t.Run(string(tt.want), func(t *testing.T) {
			f, x := start(t, 64, &direct{}), newTarget(t)
			b := ohrouter.Binding{ID: "b-1", Target: x.Target, MaxSessions: 1}
			addr := f.open(b)
			client := connectFrom(t, "127.0.0.2", addr) // which both specs allow
			server := x.next(t)
			tt.spec.ID, tt.spec.Target = b.ID, b.Target
			f.open(tt.spec) // applies to the next client
			asked := len(f.linker.calls())

			wantTurnedAway(t, addr)
			f.wantOutcome(tt.want)
			if n := len(f.linker.calls()); n != asked {
				t.Errorf("the Linker was asked %d times more, want never", n-asked)
			}
			say(t, client, server, "the others go on")
			if u := f.Usage("b-1"); u.SessionsTotal != 1 {
				t.Errorf("SessionsTotal = %d, want 1", u.SessionsTotal)
			}
			f.open(b)
			client.Close()
			server.Close()
			until(t, "the session ends", func() bool { return f.Usage("b-1").Sessions == 0 })
			say(t, connect(t, addr), x.next(t), "allowed again")
		})
	}
}

func TestTargetThatCannotBeReached(t *testing.T) {
	linker := &direct{before: func(context.Context, router.Want) error {
		return ohrouter.Errorf(ohrouter.TargetTimeout, "no answer")
	}}
	f := start(t, 64, linker)
	begin := time.Now()
	wantTurnedAway(t, f.open(ohrouter.Binding{ID: "b-1", Target: ohrouter.Target{Host: "db", Port: 1}}))
	until(t, "it is counted", func() bool { return f.count("ohrouter_sessions_total", "target_timeout") == 1 })
	u := f.Usage("b-1")
	if e := u.LastError; e == nil || e.Code != ohrouter.TargetTimeout || e.Message != "no answer" || e.At.Before(begin) {
		t.Errorf("LastError = %+v, want target_timeout, no answer", e)
	}
	if !u.LastOK.IsZero() || u.LastEnd == u.LastEnd.Round(0) || u.Sessions != 0 || u.SessionsTotal != 1 {
		t.Errorf("Usage = %+v, want one session that ended", u)
	}
}

func TestSlowLinkHoldsNobodyUpAndCanBeKilled(t *testing.T) {
	var others atomic.Bool
	slow := make(chan string, 1)
	linker := &direct{before: func(ctx context.Context, want router.Want) error {
		if others.Swap(true) {
			return nil
		}
		slow <- want.Session
		<-ctx.Done()
		return ctx.Err()
	}}
	f, x := start(t, 64, linker), newTarget(t)
	addr := f.open(ohrouter.Binding{ID: "b-1", Target: x.Target})
	waiting := connect(t, addr)
	id := <-slow
	say(t, connect(t, addr), x.next(t), "not held up")
	if s := f.Sessions("b-1"); len(s) != 2 || s[0].ID != id || s[0].Resolved != "" {
		t.Errorf("Sessions = %+v, want %s first, not connected yet", s, id)
	}
	if err := f.Kill(id); err != nil {
		t.Error(err)
	}
	wantReset(t, "client", waiting)
	f.wantOutcome(ohrouter.Killed)
	if e := f.Usage("b-1").LastError; e != nil {
		t.Errorf("LastError = %+v, want none: nothing failed", e)
	}
}

func TestFirstBytesGoWithTheLink(t *testing.T) {
	sent := make(chan struct{})
	linker := &direct{before: func(_ context.Context, want router.Want) error {
		<-sent
		want.Early() // a proxy that drains had them first
		return nil
	}}
	f, x := start(t, 64, linker), newTarget(t)
	client := connect(t, f.open(ohrouter.Binding{ID: "b-1", Target: x.Target}))
	first, second := bytes.Repeat([]byte("first"), 4<<10), []byte("second")
	if _, err := client.Write(first); err != nil {
		t.Fatal(err)
	}
	close(sent)
	server := x.next(t)
	got := make([]byte, len(first)+len(second))
	if _, err := io.ReadFull(server, got[:len(first)]); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Write(second); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(server, got[len(first):]); err != nil {
		t.Fatal(err)
	}
	if want := slices.Concat(first, second); !bytes.Equal(got, want) {
		t.Error("the target received other bytes than the client sent")
	}
	until(t, "all bytes are counted", func() bool { return f.Usage("b-1").BytesUp == uint64(len(got)) })
	client.Close()
	server.Close()
	f.wantOutcome(ohrouter.ClientClosed)
}

func TestClientLostWhileItsLinkIsMade(t *testing.T) {
	sent := make(chan struct{})
	var client *net.TCPConn
	linker := &direct{before: func(_ context.Context, want router.Want) error {
		<-sent
		until(t, "the client's bytes are there", func() bool { return len(want.Early()) == 5 })
		return nil
	}, after: func() { socket.Abort(client) }}
	f, x := start(t, 64, linker), newTarget(t)
	addr := f.open(ohrouter.Binding{ID: "b-1", Target: x.Target})
	client = connect(t, addr)
	if _, err := client.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	close(sent)
	wantReset(t, "target", x.next(t))
	f.wantOutcome(ohrouter.ClientReset)
	if u := f.Usage("b-1"); u.LastError != nil {
		t.Errorf("LastError = %+v for a client that went, want none", u.LastError)
	}
}

func TestLinkThatComesAfterTheKill(t *testing.T) {
	asked, answer := make(chan string), make(chan struct{})
	linker := &direct{before: func(_ context.Context, want router.Want) error {
		asked <- want.Session
		<-answer
		return nil
	}}
	f, x := start(t, 64, linker), newTarget(t)
	client := connect(t, f.open(ohrouter.Binding{ID: "b-1", Target: x.Target}))
	if err := f.Kill(<-asked); err != nil {
		t.Error(err)
	}
	close(answer)
	wantReset(t, "client", client)
	wantReset(t, "target", x.next(t))
	f.wantOutcome(ohrouter.Killed)
	if u := f.Usage("b-1"); !u.LastOK.IsZero() || u.LastError != nil {
		t.Errorf("Usage = %+v, want neither success nor failure", u)
	}
}

func TestCutDoesNotWaitForATargetThatDoesNotRead(t *testing.T) {
	f, x := start(t, 64, &direct{}), newTarget(t)
	client := connect(t, f.open(ohrouter.Binding{ID: "b-1", Target: x.Target}))
	server := x.next(t)
	var writing sync.WaitGroup
	writing.Go(func() {
		if _, err := client.Write(make([]byte, 64<<20)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the client's write ends with %v, want a reset", err)
		}
	})
	var before uint64
	until(t, "nothing flows any more", func() bool {
		info, _ := socket.Stat(client)
		now := f.Usage("b-1").BytesUp
		stuck := info.Unsent > 0 && now == before
		before = now
		return stuck
	})
	begin := time.Now()
	f.Close(ended(), "b-1")
	if d := time.Since(begin); d > 5*time.Second {
		t.Errorf("Close took %v to cut the session", d)
	}
	wantReset(t, "target", server)
	writing.Wait()
}

func TestCountersAreExact(t *testing.T) {
	echo := serve(t, func(c *net.TCPConn) {
		go func() {
			defer c.Close()
			io.Copy(c, c)
		}()
	})
	f := start(t, 64, &direct{})
	b := ohrouter.Binding{ID: "b-1", Target: echo}
	addr := f.open(b)
	const clients, each = 8, 40
	stop := make(chan struct{})
	var watch, wg sync.WaitGroup
	watch.Go(func() { // meanwhile everybody looks and patches
		for last := 0.0; ; {
			select {
			case <-stop:
				return
			default:
			}
			now := f.count("ohrouter_bytes_total", "up")
			if now < last {
				t.Errorf("bytes went back from %v to %v", last, now)
			}
			last = now
			f.Sessions("b-1")
			f.Usage("b-1")
			f.Open(b)
		}
	})
	var mu sync.Mutex
	var bytesSent uint64
	for range clients {
		wg.Go(func() {
			for range each {
				message := bytes.Repeat([]byte("x"), 1+rand.IntN(100_000))
				c := connect(t, addr)
				go func() {
					c.Write(message)
					c.CloseWrite()
				}()
				got, err := io.ReadAll(c)
				c.Close()
				if err != nil || !bytes.Equal(got, message) {
					t.Errorf("%d bytes came back, and %v; want %d", len(got), err, len(message))
				}
				mu.Lock()
				bytesSent += uint64(len(message))
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	until(t, "all have ended", func() bool { return f.Usage("b-1").Sessions == 0 })
	close(stop)
	watch.Wait()
	u := f.Usage("b-1")
	if u.SessionsTotal != clients*each || u.BytesUp != bytesSent || u.BytesDown != bytesSent {
		t.Errorf("Usage = %+v, want %d sessions of %d bytes each way", u, clients*each, bytesSent)
	}
	if n := f.count("ohrouter_sessions_total", "client_closed"); n != clients*each {
		t.Errorf("%v sessions counted, want %d", n, clients*each)
	}
	for _, way := range []string{"up", "down"} {
		if n := f.count("ohrouter_bytes_total", way); n != float64(bytesSent) {
			t.Errorf("%v bytes %s, want %d", n, way, bytesSent)
		}
	}
	if n := f.count("ohrouter_sessions", ""); n != 0 {
		t.Errorf("%v sessions open, want none", n)
	}
}
