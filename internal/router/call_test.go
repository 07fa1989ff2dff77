package router_test

import (
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/socket"
)

// silent is a gate that takes calls and leaves them without an answer.
func silent(t testing.TB) (at netip.AddrPort, calls chan *net.TCPConn) {
	x := newTarget(t)
	return netip.MustParseAddrPort(x.String()), x.conns
}

// called returns the next call, after its hello.
func called(t testing.TB, calls chan *net.TCPConn, hello string) *net.TCPConn {
	t.Helper()
	select {
	case c := <-calls:
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(deadline))
		got := make([]byte, len(hello))
		if _, err := io.ReadFull(c, got); err != nil || string(got) != hello {
			t.Fatalf("the call begins with %q and %v, want %q", got, err, hello)
		}
		return c
	case <-time.After(deadline):
		t.Fatal("nobody calls")
		return nil
	}
}

func TestCallThatIsRefused(t *testing.T) {
	f := start(t, 64, &direct{})
	gone := serve(t, func(c *net.TCPConn) { c.Close() })
	gone.Port = 1 // nothing listens there
	begin := time.Now()
	wantTurnedAway(t, f.open(ohrouter.Binding{ID: "b-1", Target: gone}))
	f.wantOutcome(ohrouter.Outcome(ohrouter.TargetRefused))
	if e := f.Usage("b-1").LastError; e == nil || e.Code != ohrouter.TargetRefused || e.Message != "refused" || e.At.Before(begin) {
		t.Errorf("LastError = %+v, want target_refused, refused", e)
	}
	f.linker.mu.Lock()
	defer f.linker.mu.Unlock()
	if f.linker.acked == 0 {
		t.Error("nobody was told that the other side has taken the call's hello")
	}
}

func TestDialAfterACallThatFailed(t *testing.T) {
	f, x := start(t, 64, &direct{}), newTarget(t)
	f.linker.gate = netip.MustParseAddrPort("127.0.0.1:1") // nothing listens there
	client := connect(t, f.open(ohrouter.Binding{ID: "b-1", Target: x.Target, Proxy: elsewhere}))
	server := x.next(t)
	say(t, client, server, "these bytes may have been taken from the client by the call")
	say(t, server, client, "and back")
	client.Close()
	wantClosed(t, "target", server)
}

func TestAnswerAndPayloadInPieces(t *testing.T) {
	f, x := start(t, 64, &direct{}), newTarget(t)
	at, calls := silent(t)
	f.linker.gate = at
	client := connect(t, f.open(ohrouter.Binding{ID: "b-1", Target: x.Target}))
	hello := x.String() + "\n"
	gate := called(t, calls, hello)
	say(t, client, gate, "does not wait for the answer")
	for _, piece := range []string{"conn", "ected", "\nhi"} {
		if _, err := io.WriteString(gate, piece); err != nil {
			t.Fatal(err)
		}
	}
	got := make([]byte, 2)
	if _, err := io.ReadFull(client, got); err != nil || string(got) != "hi" {
		t.Errorf("the client reads %q and %v, want hi", got, err)
	}
	if u := f.Usage("b-1"); u.BytesUp != 28 {
		t.Errorf("%d bytes up, want 28", u.BytesUp)
	}
}

func TestClientThatSaysMuchBeforeTheAnswer(t *testing.T) {
	f, x := start(t, 64, &direct{}), newTarget(t)
	at, calls := silent(t)
	f.linker.gate = at
	client := connect(t, f.open(ohrouter.Binding{ID: "b-1", Target: x.Target}))
	gate := called(t, calls, x.String()+"\n")
	const much = 1 << 20
	go client.Write(make([]byte, much))
	if _, err := io.CopyN(io.Discard, gate, 4<<10); err != nil {
		t.Fatal(err)
	}
	io.WriteString(gate, "connected\n")
	if n, err := io.CopyN(io.Discard, gate, much-4<<10); err != nil {
		t.Errorf("%d bytes arrive behind the first, then %v", n, err)
	}
}

func TestEndsBeforeTheAnswer(t *testing.T) {
	for _, tt := range []struct {
		name string
		want ohrouter.Outcome
		end  func(f *fixture, client, gate *net.TCPConn)
	}{
		{"the client is lost", ohrouter.ClientReset, func(_ *fixture, client, _ *net.TCPConn) { socket.Abort(client) }},
		{"killed", ohrouter.Killed, func(f *fixture, _, _ *net.TCPConn) {
			if err := f.Kill(f.Sessions("b-1")[0].ID); err != nil {
				f.t.Error(err)
			}
		}},
		{"the router shuts down", ohrouter.Drained, func(f *fixture, _, _ *net.TCPConn) { f.Shutdown(ended()) }},
		{"the proxy is lost", ohrouter.Outcome(ohrouter.Internal), func(_ *fixture, _, gate *net.TCPConn) { socket.Abort(gate) }},
		{"the proxy hangs up", ohrouter.Outcome(ohrouter.Internal), func(_ *fixture, _, gate *net.TCPConn) { gate.Close() }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, x := start(t, 64, &direct{}), newTarget(t)
			at, calls := silent(t)
			f.linker.gate = at
			client := connect(t, f.open(ohrouter.Binding{ID: "b-1", Target: x.Target}))
			gate := called(t, calls, x.String()+"\n")
			if s := f.Sessions("b-1"); len(s) != 1 || s[0].Resolved != "" {
				t.Errorf("Sessions = %+v, want one that is not connected yet", s)
			}
			tt.end(f, client, gate)
			wantGone(t, "client", client)
			wantGone(t, "proxy", gate)
			until(t, "a session ends", func() bool { return f.count("ohrouter_sessions_total", "") == 1 })
			if n := f.count("ohrouter_sessions_total", string(tt.want)); n != 1 {
				t.Errorf("it did not end as %s", tt.want)
			}
		})
	}
}
