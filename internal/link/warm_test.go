package link

import (
	"context"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/socket"
)

func TestWarmLinksServeSessions(t *testing.T) {
	plainAndTLS(t, func(t *testing.T, c *certs) {
		f := newFar(t, c)
		n := newNear(t, c, Pool{Min: 3, Max: 8}, f.Proxy)
		n.put(t, 3)
		n.wantWarm(t, 3)
		if got := f.states.now(t)["warm"]; got != 3 {
			t.Errorf("the proxy has %v warm links, want 3", got)
		}
		for i, early := range []func() []byte{nil, ahead(""), ahead("SELECT")} {
			l, err := n.Dial(t.Context(), Want{Session: "s-1", Target: database, Early: early})
			if err != nil {
				t.Fatal(err)
			}
			n.wantWarm(t, 2-i)
			n.states.want(t, 0, 0, 1)
			if l.Resolved != resolved || n.Proxies()[0].Links != 3-i {
				t.Errorf("link to %v, %d links; want %v, %d", l.Resolved, n.Proxies()[0].Links, resolved, 3-i)
			}
			if early == nil || len(early()) == 0 {
				f.carry(t, l, "SELECT 1", "SELECT 1")
			} else {
				f.carry(t, l, " 1", "SELECT 1")
			}
		}
		if got := f.accepted.Load(); got != 3 {
			t.Errorf("the proxy has accepted %d connections, want the 3 that were warm", got)
		}
		l, err := n.Dial(t.Context(), Want{Session: "s-1", Target: database})
		if err != nil {
			t.Fatal(err)
		}
		f.carry(t, l, "", "")
		if got := f.accepted.Load(); got != 4 {
			t.Errorf("the proxy has accepted %d connections, want a fresh one in the end", got)
		}
	})
}

func TestWarmLinkIsParked(t *testing.T) {
	plainAndTLS(t, func(t *testing.T, c *certs) {
		f := newFar(t, c)
		n := newNear(t, c, Pool{Max: 8}, f.Proxy)
		n.put(t, 1)
		l, err := n.Dial(t.Context(), Want{Session: "s-1", Target: database, Park: true})
		if err != nil {
			t.Fatal(err)
		}
		n.states.want(t, 0, 1, 0)
		f.states.want(t, 0, 1, 0)
		if !l.Alive() {
			t.Error("the parked link is not alive")
		}
		if err := l.Ack(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		f.carry(t, l, "SELECT 1", "SELECT 1")
		if got := f.accepted.Load(); got != 1 {
			t.Errorf("the proxy has accepted %d connections, want 1", got)
		}
	})
}

// TestProxyWithoutWarmLinks has a proxy that does not know WarmCommands.
func TestProxyWithoutWarmLinks(t *testing.T) {
	f := newFar(t, nil)
	var asked atomic.Int32
	address := listen(t, func(ctx context.Context, c *net.TCPConn) {
		var header [headerSize]byte
		if err := socket.WaitUntil(c, func() bool { return socket.Peek(c, header[:]) == headerSize || socket.Ended(c) }); err != nil {
			return
		}
		if frameType(header[1]) == typeWarm {
			asked.Add(1)
			return
		}
		f.serve(ctx, c)
	})
	n := newNear(t, nil, Pool{Min: 3, Max: 8}, Proxy{Name: "old", Address: address})
	begin := time.Now()
	n.keep()
	eventually(t, "asked for a warm link", func() bool { return asked.Load() > 0 })
	for range 20 {
		l, err := n.Dial(t.Context(), Want{Session: "s-1", Target: database, Early: ahead("SELECT")})
		if err != nil {
			t.Fatal(err)
		}
		f.carry(t, l, " 1", "SELECT 1")
	}
	// There is half of minPause between two attempts at least: a busy machine
	// may take its time for the sessions.
	if got, took := asked.Load(), time.Since(begin); got > max(2, 1+int32(took/(minPause/2))) {
		t.Errorf("asked for %d warm links in %v, want it to be left for a while", got, took)
	}
	if s := n.Proxies()[0]; s.State != ohrouter.ProxyUp || s.LastError != nil {
		t.Errorf("proxy %s, %v, because it has no warm links", s.State, s.LastError)
	}
}

func TestPoolFillsUp(t *testing.T) {
	plainAndTLS(t, func(t *testing.T, c *certs) {
		f := newFar(t, c)
		n := newNear(t, c, Pool{Min: 2, Max: 5}, f.Proxy)
		n.keep()
		n.wantWarm(t, 2)
		for range 10 { // as when a client opens all its connections
			n.wanted(n.known()[0])
		}
		n.wantWarm(t, 5)
		n.stop()
		n.wantWarm(t, 0)
	})
}

func TestOldWarmLinksGo(t *testing.T) {
	f := newFar(t, nil)
	n := newNear(t, nil, Pool{Max: 8}, f.Proxy)
	n.put(t, 4)
	p := n.known()[0]
	p.pool.tidy(n.Pool, time.Now().Add(maxWarm*2/3-time.Second))
	n.wantWarm(t, 4)
	(<-f.conns).Close()
	eventually(t, "the dead one is gone", func() bool { p.pool.tidy(n.Pool, time.Now()); return n.inPools() == 3 })
	p.pool.tidy(n.Pool, time.Now().Add(maxWarm+1))
	n.wantWarm(t, 0)
	n.put(t, 2)
	p.pool.least = time.Hour
	p.pool.tidy(n.Pool, time.Now())
	n.wantWarm(t, 0)
	f.states.gone(t)
}

func TestSetProxiesEndsThePool(t *testing.T) {
	f, other := newFar(t, nil), newFar(t, nil)
	other.Name = "other"
	n := newNear(t, nil, Pool{Min: 4, Max: 8}, f.Proxy, other.Proxy)
	n.keep()
	n.wantWarm(t, 8)
	l, err := n.Dial(t.Context(), Want{Session: "s-1", Target: database})
	if err != nil {
		t.Fatal(err)
	}
	n.wantWarm(t, 8)
	gone := n.known()[0]
	n.SetProxies([]Proxy{other.Proxy})
	n.wantWarm(t, 4)
	f.carry(t, l, "SELECT 1", "SELECT 1") // the session stands
	f.states.gone(t)
	if got := gone.links.Load(); got != 0 {
		t.Errorf("%d links to a proxy that is gone", got)
	}
	made, err := n.warm(t.Context(), gone) // as one that was being made
	if err != nil {
		t.Fatal(err)
	}
	if gone.pool.made(n.Pool, made, nil, time.Now()) {
		t.Error("a warm link to a proxy that is gone was taken")
	}
	made.Close()
}

func TestShutdownWhileLinksAreMade(t *testing.T) {
	asked := make(chan struct{}, 64)
	p := Proxy{Name: "dc1", Address: listen(t, func(ctx context.Context, c *net.TCPConn) { asked <- struct{}{}; silent(ctx, c) })}
	n := newNear(t, nil, Pool{Min: 4, Max: 8}, p)
	pool := &n.known()[0].pool
	pool.setUp, pool.proven = time.Second, true
	n.keep()
	for range 4 {
		<-asked
	}
	begin := time.Now()
	n.stop()
	if took := time.Since(begin); took > Timeout*4/5 {
		t.Errorf("the end took %v", took)
	}
	if s := n.Proxies()[0]; s.State == ohrouter.ProxyDown {
		t.Error("the proxy is down because the router has ended")
	}
}

// TestNoWarmLink says why, and what becomes of the proxy's state. The
// descriptors are checked in the end.
func TestNoWarmLink(t *testing.T) {
	hears := func(answer []byte) func(context.Context, *net.TCPConn) {
		return func(_ context.Context, c *net.TCPConn) {
			if frames.read(c, typeWarm, &warmCommand{}) == nil {
				c.Write(answer)
				endWrite(c)
				io.Copy(io.Discard, c)
			}
		}
	}
	refusal := func(code ohrouter.Code) func(context.Context, *net.TCPConn) {
		return hears(encode(t, typeReady, warmResponse{Code: code, Message: "why"}))
	}
	for _, tt := range []struct {
		name  string
		serve func(context.Context, *net.TCPConn) // nil: nobody listens
		text  string
		state ohrouter.ProxyState
	}{
		{"nobody listens", nil, "cannot be reached", ohrouter.ProxyDown},
		{"hangs up at the command", hears(nil), "EOF", ohrouter.ProxyUp},
		{"hangs up within the answer", hears([]byte{Version}), "EOF", ohrouter.ProxyUp},
		{"not a proxy", hears([]byte("HTTP/1.1 400 Bad Request\r\n")), "not as an oh-router proxy", ohrouter.ProxyDown},
		{"draining", refusal(ohrouter.Draining), "why", ohrouter.ProxyDraining},
		{"too many", refusal(ohrouter.QuotaExceeded), "why", ohrouter.ProxyUp},
		{"of a fault", refusal(ohrouter.Internal), "why", ohrouter.ProxyUp},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := Proxy{Name: "dc1", Address: unreachable(t)}
			if tt.serve != nil {
				p.Address = listen(t, tt.serve)
			}
			n := newNear(t, nil, Pool{Max: 8}, p)
			l, err := n.warm(t.Context(), n.known()[0])
			if l != nil || err == nil || !strings.Contains(err.Error()+ohrouter.Message(err), tt.text) {
				t.Errorf("warm = %v, %v; want an error with %q", l, err, tt.text)
			}
			if s := n.Proxies()[0]; s.State != tt.state || (s.LastError != nil) != (tt.state == ohrouter.ProxyDown) {
				t.Errorf("proxy is %s, %v; want %s", s.State, s.LastError, tt.state)
			}
		})
	}
}

func TestWarmLinksTakeNoDescriptorOfASession(t *testing.T) {
	f := newFar(t, nil)
	n := newNear(t, nil, Pool{Min: 3, Max: 8}, f.Proxy)
	if !n.Pool.Descriptors.TryAcquire(descriptors - 1) {
		t.Fatal("the budget is not as large as it should be")
	}
	n.put(t, 1)
	if _, err := n.warm(t.Context(), n.known()[0]); err == nil || f.accepted.Load() != 1 {
		t.Errorf("warm = %v with no descriptor left, %d connections", err, f.accepted.Load())
	}
	l, err := n.Dial(t.Context(), Want{Session: "s-1", Target: database})
	if err != nil {
		t.Fatal(err)
	}
	n.put(t, 1) // the session has descriptors of its own
	f.carry(t, l, "", "")
	n.Pool.Descriptors.Release(descriptors - 1)
}

// TestTakeAndTidy has sessions and the pool's keeper reach for the same links.
func TestTakeAndTidy(t *testing.T) {
	f := newFar(t, nil)
	n := newNear(t, nil, Pool{Min: 4, Max: 16}, f.Proxy)
	n.keep()
	p := n.known()[0]
	done := make(chan struct{})
	var tidying, sessions sync.WaitGroup
	tidying.Go(func() {
		for age := time.Duration(0); ; age = (age + time.Second) % maxWarm {
			select {
			case <-done:
				return
			default:
				p.pool.tidy(n.Pool, time.Now().Add(age))
			}
		}
	})
	for range 4 {
		sessions.Go(func() {
			for range 50 {
				l, err := n.Dial(t.Context(), Want{Session: "s-1", Target: database, Early: ahead("SELECT 1")})
				if err != nil {
					t.Error(err)
					return
				}
				endWrite(l.Conn())
				if b, err := io.ReadAll(l.Conn()); err != nil || string(b) != "done" {
					t.Errorf("the session ends with %q, %v", b, err)
				}
				l.Close()
			}
		})
	}
	sessions.Wait()
	close(done)
	tidying.Wait()
	for range 200 {
		if got := <-f.payload; got != "SELECT 1" {
			t.Errorf("a target got %q", got)
		}
	}
	f.wantPayload(t)
}
