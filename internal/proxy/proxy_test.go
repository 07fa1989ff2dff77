package proxy_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/link"
	"github.com/ohrouter/oh-router/internal/proxy"
	"github.com/ohrouter/oh-router/internal/relay"
	"github.com/ohrouter/oh-router/internal/socket"
)

func TestSession(t *testing.T) {
	f, x := start(t, patient, "127.0.0.1:*"), listen(t, "127.0.0.1", 0)
	l, server := f.link(x, false)
	if l.Proxy() != "p" || l.Resolved.String() != x.String() {
		t.Errorf("link by %q to %v, want p and %v", l.Proxy(), l.Resolved, x)
	}
	client := l.Conn().(*net.TCPConn)
	say(t, client, server, "up")
	client.CloseWrite()
	wantClosed(t, "target", server)
	say(t, server, client, "down, after the half-close")
	server.Close()
	wantClosed(t, "router", client)
	until(t, "it is logged", func() bool {
		return len(f.log.lines("session ended", "session=s-1", "target="+x.String(), "router=127.0.0.1:", "up=2", "down=26")) == 1
	})
}

func TestResetsCross(t *testing.T) {
	f, x := start(t, patient, "127.0.0.1:*"), listen(t, "127.0.0.1", 0)
	l, server := f.link(x, false)
	socket.Abort(server)
	wantReset(t, "router", l.Conn())
	l, server = f.link(x, false)
	socket.Abort(l.Conn())
	wantReset(t, "target", server)
}

func TestParkedLinkForwardsNothing(t *testing.T) {
	f, x := start(t, patient, "127.0.0.1:*"), listen(t, "127.0.0.1", 0)
	l, server := f.link(x, true)
	if _, err := io.WriteString(server, "hello"); err != nil {
		t.Fatal(err)
	}
	until(t, "the proxy's kernel has the greeting", func() bool {
		info, ok := socket.Stat(server)
		return ok && info.Unsent == 0
	})
	if !l.Alive() {
		t.Fatal("something comes over a link that is not acknowledged")
	}
	if err := l.Ack(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	greeting := make([]byte, 5)
	if _, err := io.ReadFull(l.Conn(), greeting); err != nil || string(greeting) != "hello" {
		t.Errorf("after the acknowledgement the router reads %q and %v, want hello", greeting, err)
	}
	say(t, l.Conn(), server, "and so on")
}

func TestParkedLinkEndsWithItsTarget(t *testing.T) {
	for name, end := range map[string]func(net.Conn){
		"closed": func(server net.Conn) { server.Close() },
		"reset":  socket.Abort,
		"closed behind a greeting": func(server net.Conn) {
			io.WriteString(server, "too many connections")
			server.Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			f, x := start(t, patient, "127.0.0.1:*"), listen(t, "127.0.0.1", 0)
			l, server := f.link(x, true)
			end(server)
			until(t, "the link ends", func() bool { return !l.Alive() })
			if n, _ := io.Copy(io.Discard, l.Conn()); n != 0 {
				t.Errorf("%d bytes come over a link that is not acknowledged", n)
			}
		})
	}
}

func TestParkedLinkThatTheRouterDrops(t *testing.T) {
	f, x := start(t, patient, "127.0.0.1:*"), listen(t, "127.0.0.1", 0)
	l, server := f.link(x, true)
	l.Close()
	wantClosed(t, "target", server)
}

func TestSlowTargetHoldsNobodyUp(t *testing.T) {
	f, x := start(t, patient, "127.0.0.1:*"), listen(t, "127.0.0.1", 0)
	asked, answer := make(chan struct{}), make(chan struct{})
	f.names.resolve = func(context.Context, string) ([]netip.Addr, error) {
		close(asked)
		<-answer
		return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
	}
	slow := make(chan error)
	go func() {
		l, err := f.ask(x.named("db").Target, false)
		slow <- err
		_ = l
	}()
	<-asked
	l, server := f.link(x, false)
	say(t, l.Conn(), server, "not held up")
	close(answer)
	if err := <-slow; err != nil {
		t.Errorf("slow link: %v", err)
	}
}

func TestPeersThatAreNoRouters(t *testing.T) {
	f := start(t, patient, "any")
	dial := func(send string) *net.TCPConn {
		c, err := net.Dial("tcp", f.addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		if _, err := io.WriteString(c, send); err != nil {
			t.Fatal(err)
		}
		return c.(*net.TCPConn)
	}
	c := dial("GET / HTTP/1.1\r\nHost: proxy\r\n\r\n")
	if b, err := io.ReadAll(c); len(b) != 0 || err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the proxy answers HTTP with %q and %v", b, err)
	}
	until(t, "garbage is logged", func() bool { return len(f.log.lines("link refused")) == 1 })
	if n := len(f.log.lines("level=WARN", "code=invalid_request", "HTTP")); n != 1 {
		t.Errorf("%d warnings, want one: %v", n, f.log.lines())
	}
	dial("").Close() // a health check
	socket.Abort(dial(""))
	until(t, "the others are logged", func() bool { return len(f.log.lines("level=DEBUG")) == 2 })
	if n := len(f.log.lines()); n != 3 {
		t.Errorf("%d lines, want one for each: %v", n, f.log.lines())
	}
}

func TestDrain(t *testing.T) {
	f, x := start(t, patient, "127.0.0.1:*"), listen(t, "127.0.0.1", 0)
	l, server := f.link(x, false)
	parked, waiting := f.link(x, true)
	down := make(chan struct{})
	go func() {
		defer close(down)
		f.Shutdown(context.Background())
	}()
	wantClosed(t, "the parked link's target", waiting)
	until(t, "the parked link ends", func() bool { return !parked.Alive() })
	if !f.Draining() {
		t.Error("Draining = false")
	}
	f.wantCode(x.Target, ohrouter.NoProxy)
	if p := f.Proxies()[0]; p.State != ohrouter.ProxyDraining {
		t.Errorf("the router takes the proxy to be %s, want draining", p.State)
	}
	say(t, l.Conn(), server, "goes on")
	select {
	case <-down:
		t.Fatal("Shutdown has returned, and a session is open")
	default:
	}
	server.Close()
	wantClosed(t, "router", l.Conn())
	l.Close()
	<-down
	f.wantCode(x.Target, ohrouter.ProxyUnreachable)
}

// TestWhoComesLateIsToldOfTheDrain has a router that does not know of a shutdown
// until there is nothing to wait for any more.
func TestWhoComesLateIsToldOfTheDrain(t *testing.T) {
	for rounds, slow := 0, 0; rounds < 10; rounds++ {
		f := start(t, patient, "127.0.0.1:*")
		over, began := make(chan struct{}), time.Now()
		go func() { f.Shutdown(context.Background()); close(over) }()
		for !f.Draining() {
			runtime.Gosched()
		}
		_, err := f.ask(ohrouter.Target{Host: "127.0.0.1", Port: 1}, false)
		switch took := time.Since(began); {
		case took > 50*time.Millisecond && slow < 100: // it came too late
			rounds, slow = rounds-1, slow+1
		case ohrouter.CodeOf(err) != ohrouter.NoProxy:
			t.Errorf("link: %v (%s), want to be told of the drain", err, ohrouter.CodeOf(err))
		}
		<-over
	}
}

// TestDrainEndsALookUp has a target that is still being looked up when time is up:
// that says nothing of the target.
func TestDrainEndsALookUp(t *testing.T) {
	f := start(t, patient, "db:*")
	asked := make(chan struct{})
	f.names.resolve = func(ctx context.Context, _ string) ([]netip.Addr, error) {
		close(asked)
		<-ctx.Done()
		return nil, ctx.Err()
	}
	answer := make(chan error)
	go func() {
		_, err := f.ask(ohrouter.Target{Host: "db", Port: 1}, false)
		answer <- err
	}()
	<-asked
	f.Shutdown(ended())
	<-answer
	if lines := f.log.lines("target not connected"); len(lines) != 1 || !strings.Contains(lines[0], "code=draining") {
		t.Errorf("the log says %q", lines)
	}
}

func TestShutdownCuts(t *testing.T) {
	f, x := start(t, patient, "127.0.0.1:*"), listen(t, "127.0.0.1", 0)
	mute, err := net.Dial("tcp", f.addr) // is in its handshake
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	l, server := f.link(x, false)
	asked := make(chan struct{})
	f.names.resolve = func(ctx context.Context, _ string) ([]netip.Addr, error) {
		close(asked)
		<-ctx.Done()
		return nil, ctx.Err()
	}
	underWay := make(chan error)
	go func() {
		_, err := f.ask(x.named("db").Target, false)
		underWay <- err
	}()
	<-asked
	begin := time.Now()
	f.Shutdown(ended())
	f.Shutdown(ended()) // once more is no harm
	if d := time.Since(begin); d > link.Timeout/2 {
		t.Errorf("Shutdown took %v to cut", d)
	}
	wantReset(t, "router", l.Conn())
	wantReset(t, "target", server)
	if err := <-underWay; err == nil {
		t.Error("a link came up during a shutdown")
	}
}

func TestServe(t *testing.T) {
	for _, tt := range []struct {
		name   string
		before func(*proxy.Proxy, net.Listener)
		want   error
	}{
		{"after a shutdown", func(p *proxy.Proxy, _ net.Listener) { p.Shutdown(ended()) }, nil},
		{"on a closed listener", func(_ *proxy.Proxy, ln net.Listener) { ln.Close() }, net.ErrClosed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			reg := prometheus.NewRegistry()
			engine, err := relay.NewEngine(2, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer engine.Close()
			p := proxy.New(proxy.Config{States: link.NewStates(reg), Metrics: reg, Relay: engine, Log: slog.New(slog.DiscardHandler)})
			ln, err := socket.Options{}.Listen(t.Context(), "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			tt.before(p, ln)
			if err := p.Serve(ln); !errors.Is(err, tt.want) {
				t.Errorf("Serve = %v, want %v", err, tt.want)
			}
			if c, err := net.Dial("tcp", ln.Addr().String()); err == nil {
				c.Close()
				t.Error("the listener is open after Serve")
			}
		})
	}
}
