package router_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"

	ohrouter "github.com/ohrouter/oh-router"
)

func TestOpenOfATakenPort(t *testing.T) {
	f, x := start(t, 64, &direct{}), newTarget(t)
	err := f.Open(ohrouter.Binding{ID: "b-1", Target: x.Target, Port: x.Port})
	if !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("Open of a port that is taken = %v, want EADDRINUSE", err)
	}
}

func TestOpenWithoutDescriptors(t *testing.T) {
	f := start(t, 1, &direct{})
	f.open(ohrouter.Binding{ID: "b-1"})
	if code := ohrouter.CodeOf(f.Open(ohrouter.Binding{ID: "b-2"})); code != ohrouter.PortsExhausted {
		t.Errorf("Open has code %q, want %q", code, ohrouter.PortsExhausted)
	}
	f.Close(t.Context(), "b-1")
	f.open(ohrouter.Binding{ID: "b-2"})
}

func TestOpenAfterShutdown(t *testing.T) {
	f := start(t, 64, &direct{})
	f.Shutdown(t.Context())
	f.Shutdown(t.Context()) // once more is no harm
	if code := ohrouter.CodeOf(f.Open(ohrouter.Binding{ID: "b-1"})); code != ohrouter.Draining {
		t.Errorf("Open has code %q, want %q", code, ohrouter.Draining)
	}
}

// TestMapped: a port that has been closed is another program's.
func TestMapped(t *testing.T) {
	f := start(t, 64, &direct{})
	for name, end := range map[string]func(id string){
		"stopped": f.Stop, "idle": func(id string) { f.CloseIdle(id) }, "closed": func(id string) { f.Close(ended(), id) },
	} {
		at := netip.MustParseAddrPort(f.open(ohrouter.Binding{ID: name, Target: ohrouter.Target{Host: "db", Port: 1}}))
		if got := f.Mapped(at.Port()); got != at {
			t.Errorf("Mapped(%d) = %v, want %v", at.Port(), got, at)
		}
		end(name)
		if got := f.Mapped(at.Port()); got.IsValid() {
			t.Errorf("Mapped(%d) = %v, want none: it is %s", at.Port(), got, name)
		}
	}
}

func TestStopLetsSessionsGoOn(t *testing.T) {
	f, x := start(t, 64, &direct{}), newTarget(t)
	addr := f.open(ohrouter.Binding{ID: "b-1", Target: x.Target})
	client := connect(t, addr)
	server := x.next(t)
	f.Stop("b-1")
	wantRefused(t, addr)
	say(t, server, client, "goes on")
	if u := f.Usage("b-1"); u.Sessions != 1 {
		t.Errorf("Usage = %+v, want one session", u)
	}
	if f.CloseIdle("b-1") {
		t.Error("CloseIdle closed a binding that has a session")
	}
}

func TestCloseWaitsForSessions(t *testing.T) {
	f, x := start(t, 3, &direct{}), newTarget(t)
	addr := f.open(ohrouter.Binding{ID: "b-1", Target: x.Target})
	client := connect(t, addr)
	server := x.next(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		f.Close(ctx, "b-1")
	}()
	until(t, "the port gives its descriptor back", func() bool { return f.budget.TryAcquire(1) })
	f.budget.Release(1)
	wantRefused(t, addr)
	say(t, server, client, "goes on")
	select {
	case <-closed:
		t.Fatal("Close has returned, and a session is open")
	default:
	}
	client.Close()
	wantClosed(t, "target", server)
	server.Close()
	<-closed
	f.wantOutcome(ohrouter.ClientClosed)
	if u := f.Usage("b-1"); u != (ohrouter.Usage{}) {
		t.Errorf("Usage = %+v after Close, want none", u)
	}
	f.Close(t.Context(), "b-1") // is no error
	if !f.CloseIdle("b-1") {
		t.Error("CloseIdle of a closed binding = false")
	}
}

func TestShutdownWaitsForSessions(t *testing.T) {
	f, x := start(t, 3, &direct{}), newTarget(t)
	addr := f.open(ohrouter.Binding{ID: "b-1", Target: x.Target})
	client := connect(t, addr)
	server := x.next(t)
	down := make(chan struct{})
	go func() {
		defer close(down)
		f.Shutdown(context.Background())
	}()
	until(t, "the port gives its descriptor back", func() bool { return f.budget.TryAcquire(1) })
	f.budget.Release(1)
	wantRefused(t, addr)
	say(t, server, client, "goes on")
	server.Close()
	wantClosed(t, "client", client)
	client.Close()
	<-down
	f.wantOutcome(ohrouter.TargetClosed)
}

// Either the client came first and its session goes on, or CloseIdle did and
// the client is turned away.
func TestCloseIdleAgainstAClient(t *testing.T) {
	f, x := start(t, 64, &direct{}), newTarget(t)
	for range 200 {
		addr := f.open(ohrouter.Binding{ID: "b-1", Target: x.Target})
		var wg sync.WaitGroup
		var conn net.Conn
		wg.Go(func() { conn, _ = net.Dial("tcp", addr) })
		closed := f.CloseIdle("b-1")
		wg.Wait()
		switch {
		case !closed:
			say(t, conn, x.next(t), "goes on")
			f.Close(ended(), "b-1")
		case conn != nil:
			// Linux may forget a connection whose listener closes meanwhile: the
			// client hears of it when it says something.
			_, werr := conn.Write([]byte("x"))
			_, rerr := io.Copy(io.Discard, conn)
			if !errors.Is(errors.Join(werr, rerr), syscall.ECONNRESET) {
				t.Errorf("client that was too late writes and reads %v, %v, want a reset", werr, rerr)
			}
		}
		if conn != nil {
			conn.Close()
		}
	}
	if n := len(x.conns); n != 0 {
		t.Errorf("%d connections to the target of clients that were turned away", n)
	}
}

func TestClientWaitsForDescriptors(t *testing.T) {
	f, x := start(t, 3, &direct{}), newTarget(t) // one port and one session
	addr := f.open(ohrouter.Binding{ID: "b-1", Target: x.Target})
	first := connect(t, addr)
	server := x.next(t)
	second := connect(t, addr)
	until(t, "the second client waits", func() bool { return !f.budget.TryAcquire(0) })
	first.Close()
	server.Close()
	say(t, second, x.next(t), "its turn")

	third := connect(t, addr)
	until(t, "the third client waits", func() bool { return !f.budget.TryAcquire(0) })
	f.Stop("b-1")
	wantReset(t, "client that waited", third)
	if n := f.count("ohrouter_sessions_total", string(ohrouter.BindingClosed)); n != 1 {
		t.Errorf("%v clients counted as %s, want 1", n, ohrouter.BindingClosed)
	}
}

func wantRefused(t testing.TB, addr string) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err == nil {
		c.Close()
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("connect to %s: %v, want it refused", addr, err)
	}
}
