package link

import (
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/socket"
)

func TestSession(t *testing.T) {
	for _, park := range []bool{false, true} {
		router, proxies := newStates(), newStates()
		p := proxyAt(t, "dc1", proxies, echo)
		d := NewDialer([]Proxy{p}, router.States)
		l, err := d.Dial(t.Context(), Want{Session: "s-1", Target: database, Park: park})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if l.Proxy() != "dc1" || l.Resolved != resolved {
			t.Errorf("link by %q to %v, want dc1 and %v", l.Proxy(), l.Resolved, resolved)
		}
		if n := d.Proxies()[0].Links; n != 1 {
			t.Errorf("%d links open, want 1", n)
		}
		if park {
			router.want(t, 0, 1, 0)
			if err := l.Ack(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
		}
		router.want(t, 0, 0, 1)
		if err := l.Ack(t.Context(), nil); err == nil {
			t.Error("a second AckCommand was sent into the payload")
		}
		exchange(t, l.Conn())
		proxies.gone(t)
		l.Close()
		l.Close() // idempotent
		router.want(t, 0, 0, 0)
		if n := d.Proxies()[0].Links; n != 0 {
			t.Errorf("%d links open after Close, want 0", n)
		}
		if err := l.Ack(t.Context(), nil); err == nil {
			t.Error("Ack of a closed link succeeds")
		}
	}
}

// exchange sends a megabyte and a FIN to an echo and wants all of it back.
func exchange(t *testing.T, conn net.Conn) {
	t.Helper()
	sent := make([]byte, 1<<20)
	rand.Read(sent)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		socket.Orderly(conn)
		if _, err := conn.Write(sent); err != nil {
			t.Errorf("send: %v", err)
		}
		conn.(*net.TCPConn).CloseWrite()
	})
	got, err := io.ReadAll(conn)
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("got %d bytes back, %v; want the %d that were sent", len(got), err, len(sent))
	}
}

func TestPayloadInTheSameSegment(t *testing.T) {
	states := newStates()
	p := proxyAt(t, "dc1", states, echo)
	for _, park := range []bool{false, true} {
		conn, err := net.Dial("tcp", p.Address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.Write(append(append(connectFrame(t, park), encode(t, typeAck, ackCommand{})...), "SELECT 1"...))
		conn.(*net.TCPConn).CloseWrite()
		var m connectResponse
		if err := frames.read(conn, typeResponse, &m); err != nil || m.Resolved != resolved.String() || m.Patience != 3000 {
			t.Fatalf("answer %+v, %v", m, err)
		}
		if got, err := io.ReadAll(conn); err != nil || string(got) != "SELECT 1" {
			t.Errorf("park %v: %q came back, %v; want all of the payload", park, got, err)
		}
	}
	states.gone(t)
}

func TestEarlyPayload(t *testing.T) {
	router, proxies := newStates(), newStates()
	p := proxyAt(t, "dc1", proxies, echo)
	asked := 0
	early := func() []byte {
		asked++
		return []byte("SELECT 1")
	}
	d := NewDialer([]Proxy{p}, router.States)
	for _, park := range []bool{false, true} {
		l, err := d.Dial(t.Context(), Want{Target: database, Park: park, Early: early})
		if err != nil {
			t.Fatal(err)
		}
		if !park {
			got := make([]byte, len("SELECT 1"))
			if _, err := io.ReadFull(l.Conn(), got); err != nil || string(got) != "SELECT 1" {
				t.Errorf("%q came back, %v; want the early payload", got, err)
			}
		}
		l.Close()
	}
	if asked != 1 {
		t.Errorf("asked %d times for early payload, want once, and not for the link to park", asked)
	}
}

func TestRefusalIsNotOvertakenByReset(t *testing.T) {
	states := newStates()
	p := proxyAt(t, "dc1", states, refuse(ohrouter.TargetRefused, "nothing listens there"))
	conn, err := net.Dial("tcp", p.Address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.Write(append(append(connectFrame(t, false), encode(t, typeAck, ackCommand{})...), make([]byte, 100_000)...))
	var m connectResponse
	if err := frames.read(conn, typeResponse, &m); err != nil || m.Code != ohrouter.TargetRefused {
		t.Fatalf("answer %+v, %v", m, err)
	}
	if b, err := io.ReadAll(conn); err != nil || len(b) > 0 {
		t.Errorf("after the answer %d bytes and %v, want an orderly end", len(b), err)
	}
	conn.Close()
	states.gone(t)
}

func TestParkedLinkAlive(t *testing.T) {
	router, proxies := newStates(), newStates()
	hangUp := make(chan func())
	p := proxyAt(t, "dc1", proxies, func(ctx context.Context, r *Request) {
		hangUp <- r.Close
		echo(ctx, r)
	})
	d := NewDialer([]Proxy{p}, router.States)
	type end struct {
		name string
		how  func(l *Link, proxyEnd func())
	}
	for _, e := range []end{
		{"the proxy hangs up", func(_ *Link, proxyEnd func()) { proxyEnd() }},
		{"something else closed it", func(l *Link, _ func()) { socket.Abort(l.Conn()) }},
		{"it was closed", func(l *Link, _ func()) { l.Close() }},
	} {
		var proxyEnd func()
		var wg sync.WaitGroup
		wg.Go(func() { proxyEnd = <-hangUp })
		l, err := d.Dial(t.Context(), Want{Session: "s-1", Target: database, Park: true})
		if err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		if !l.Alive() {
			t.Errorf("%s: not alive before", e.name)
		}
		e.how(l, proxyEnd)
		eventually(t, e.name+": not alive", func() bool { return !l.Alive() })
		l.Close()
		router.want(t, 0, 0, 0)
		proxies.gone(t)
	}
}

func TestParkedLinkGivenUp(t *testing.T) {
	router, proxies := newStates(), newStates()
	gaveUp := make(chan error, 1)
	p := proxyAt(t, "dc1", proxies, func(ctx context.Context, r *Request) {
		_, err := r.Accept(ctx, resolved)
		gaveUp <- err
	})
	l, err := NewDialer([]Proxy{p}, router.States).Dial(t.Context(), Want{Target: database, Park: true})
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := <-gaveUp; err != io.EOF {
		t.Errorf("Accept of a link that the router gave up = %v, want %v", err, io.EOF)
	}
}

func TestAckCrossesTheProxysHangUp(t *testing.T) {
	router, proxies := newStates(), newStates()
	hangUp := make(chan func())
	p := proxyAt(t, "dc1", proxies, func(ctx context.Context, r *Request) {
		hangUp <- r.Close
		r.Accept(ctx, resolved)
	})
	d := NewDialer([]Proxy{p}, router.States)
	for range 50 {
		var proxyEnd func()
		var wg sync.WaitGroup
		wg.Go(func() { proxyEnd = <-hangUp })
		l, err := d.Dial(t.Context(), Want{Target: database, Park: true})
		if err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		proxyEnd() // the news of it is on its way
		if err := l.Ack(t.Context(), nil); err == nil {
			t.Fatal("Ack of a link that the proxy had given up succeeded")
		}
		l.Close()
	}
}

func TestAckHearsOfTheEndBehindIt(t *testing.T) {
	router, proxies := newStates(), newStates()
	p := proxyAt(t, "dc1", proxies, func(ctx context.Context, r *Request) {
		if conn, err := r.Accept(ctx, resolved); err == nil {
			socket.Abort(conn) // as if it had crossed the AckCommand
		}
	})
	d := NewDialer([]Proxy{p}, router.States)
	heard := 0
	for range 50 { // a busy machine may bring the news too late, but not every time
		l, err := d.Dial(t.Context(), Want{Target: database, Park: true})
		if err != nil {
			t.Fatal(err)
		}
		if l.Ack(t.Context(), nil) != nil {
			heard++
		}
		l.Close()
	}
	if heard == 0 {
		t.Error("Ack never noticed that the proxy had given the link up")
	}
}

func TestNothingForwardedUnacknowledged(t *testing.T) {
	router, proxies := newStates(), newStates()
	stands := make(chan struct{})
	p := proxyAt(t, "dc1", proxies, func(ctx context.Context, r *Request) {
		if conn, err := r.Accept(ctx, resolved); err == nil {
			close(stands)
			io.Copy(io.Discard, conn)
		}
	})
	l, err := NewDialer([]Proxy{p}, router.States).Dial(t.Context(), Want{Target: database, Park: true})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	proxies.want(t, 0, 1, 0)
	select {
	case <-stands:
		t.Fatal("the session stands without an AckCommand")
	default:
	}
	if err := l.Ack(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	<-stands
}

func TestParkedCap(t *testing.T) {
	router, states := newStates(), newStates()
	a := &Acceptor{States: states.States}
	address := listen(t, func(ctx context.Context, conn *net.TCPConn) {
		if req, err := a.Accept(ctx, conn); err == nil {
			req.Accept(ctx, resolved)
			req.Close()
		}
	})
	var release func()
	for range maxPerSource { // as if that many were parked
		var err error
		if release, err = a.park(netip.MustParseAddr("127.0.0.1")); err != nil {
			t.Fatal(err)
		}
	}
	d := NewDialer([]Proxy{{Name: "dc1", Address: address}}, router.States)
	_, err := d.Dial(t.Context(), Want{Target: database, Park: true})
	if got := ohrouter.CodeOf(err); got != ohrouter.QuotaExceeded {
		t.Errorf("Dial above the cap = %v (%s), want %s", err, got, ohrouter.QuotaExceeded)
	}
	if _, err := a.park(netip.MustParseAddr("127.0.0.2")); err != nil {
		t.Errorf("another source: %v", err)
	}
	if l, err := d.Dial(t.Context(), Want{Target: database}); err != nil {
		t.Errorf("a link that is not parked, above the cap: %v", err)
	} else {
		l.Close()
	}
	release()
	l, err := d.Dial(t.Context(), Want{Target: database, Park: true})
	if err != nil {
		t.Fatalf("below the cap again: %v", err)
	}
	l.Close()
	states.gone(t)
}

func TestLengthBombTakesNoMemory(t *testing.T) {
	states := newStates()
	bomb := []byte{Version, byte(typeConnect), 0xff, 0xff}
	allocs := testing.Benchmark(func(b *testing.B) {
		for b.Loop() {
			a := Acceptor{States: states.States}
			a.Accept(context.Background(), &script{rest: bomb})
		}
	}).AllocedBytesPerOp()
	if allocs > 4096 {
		t.Errorf("%d bytes taken for a frame that claims 65,535, want at most 4,096", allocs)
	}
}

func TestRefusalsCrossIntact(t *testing.T) {
	for _, code := range ohrouter.Codes() {
		router, proxies := newStates(), newStates()
		d := NewDialer([]Proxy{proxyAt(t, "dc1", proxies, refuse(code, "why: “so”"))}, router.States)
		start := time.Now()
		_, err := d.Dial(t.Context(), Want{Session: "s-1", Target: database})
		want := code
		if code == ohrouter.Draining {
			want = ohrouter.NoProxy
		} else if got := ohrouter.Message(err); got != "why: “so”" {
			t.Errorf("%s: message %q, want %q", code, got, "why: “so”")
		}
		if got := ohrouter.CodeOf(err); got != want {
			t.Errorf("Dial = %v (%s), want %s", err, got, want)
		}
		if took := time.Since(start); took > Timeout*4/5 {
			t.Errorf("%s took %v", code, took)
		}
		state := ohrouter.ProxyUp
		if code == ohrouter.Draining {
			state = ohrouter.ProxyDraining
		}
		if p := d.Proxies()[0]; p.State != state || p.SeenAt == nil || p.LastError != nil {
			t.Errorf("%s: proxy %+v, want %s and seen", code, p, state)
		}
		router.want(t, 0, 0, 0)
		proxies.gone(t)
	}
}

func TestRejectCutsMessageAtACharacter(t *testing.T) {
	states := newStates()
	conn := &script{rest: connectFrame(t, true)}
	req, err := (&Acceptor{States: states.States}).Accept(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("m", maxMessage-1)
	if err := req.Reject(ohrouter.TargetRefused, long+strings.Repeat("é", MaxBody)); err != nil {
		t.Fatal(err)
	}
	var m connectResponse
	if err := frames.read(&conn.sent, typeResponse, &m); err != nil || m.Code != ohrouter.TargetRefused || m.Message != long {
		t.Errorf("answer %+v, %v; want the message up to its last whole character", m, err)
	}
}

func TestResetBeforeCommand(t *testing.T) {
	states := newStates()
	a := &Acceptor{States: states.States}
	accepted := make(chan error, 1)
	address := listen(t, func(ctx context.Context, conn *net.TCPConn) {
		_, err := a.Accept(ctx, conn)
		accepted <- err
	})
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	socket.Abort(conn) // as health checks do
	if err := <-accepted; err != io.EOF {
		t.Errorf("Accept of what is reset at once = %v, want %v", err, io.EOF)
	}
	states.want(t, 0, 0, 0)
}
