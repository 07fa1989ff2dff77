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
		if err := l.Ack(); err != nil {
			t.Fatal(err)
		}
		f.carry(t, l, "SELECT 1", "SELECT 1")
		if got := f.accepted.Load(); got != 1 {
			t.Errorf("the proxy has accepted %d connections, want 1", got)
		}
	})
}

// TestWarmLinkDied has a session want a link when the one in the pool has died,
// or dies just then. It gets a fresh one, and the target gets all of its payload
// once.
func TestWarmLinkDied(t *testing.T) {
	closes := func(c *net.TCPConn) { socket.Orderly(c); c.Close() }
	for _, tt := range []struct {
		name string
		end  func(*net.TCPConn)
	}{
		{"reset", func(c *net.TCPConn) { c.Close() }},
		{"closed", closes},
		{"half-closed, then closed", func(c *net.TCPConn) { c.CloseWrite(); closes(c) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			plainAndTLS(t, func(t *testing.T, c *certs) {
				for _, early := range []string{"", "SELECT 1"} {
					f := newFar(t, c)
					n := newNear(t, c, Pool{Max: 8}, f.Proxy)
					links := n.put(t, 2)
					tt.end(<-f.conns)
					eventually(t, "not alive", func() bool { return !links[0].Alive() })
					// The other one dies when the session has looked at it.
					at := <-f.conns
					links[1].conn = &dies{Conn: links[1].conn, end: func() {
						tt.end(at)
						eventually(t, "not alive", func() bool { return !links[1].Alive() })
					}}
					l, err := n.Dial(t.Context(), Want{Session: "s-1", Target: database, Early: ahead(early)})
					if err != nil {
						t.Fatal(err)
					}
					f.carry(t, l, ";", early+";")
					if got := f.accepted.Load(); got != 3 {
						t.Errorf("the proxy has accepted %d connections, want 3", got)
					}
					if s := n.Proxies()[0]; s.State != ohrouter.ProxyUp || s.LastError != nil {
						t.Errorf("proxy %s, %v, because a warm link has died", s.State, s.LastError)
					}
				}
			})
		})
	}
}

// dies is a connection whose peer ends it just before the first write.
type dies struct {
	net.Conn
	end func()
}

func (d *dies) NetConn() net.Conn { return d.Conn }

func (d *dies) Write(b []byte) (int, error) {
	if d.end != nil {
		d.end()
		d.end = nil
	}
	return d.Conn.Write(b)
}

// TestWarmLinkDiesWithPayload has a proxy end a warm link when it has got the
// commands. Nobody knows what has become of payload behind them.
func TestWarmLinkDiesWithPayload(t *testing.T) {
	for _, early := range []string{"", "SELECT 1"} {
		f := newFar(t, nil)
		var once sync.Once
		address := listen(t, func(ctx context.Context, c *net.TCPConn) {
			first := false
			once.Do(func() { first = true })
			if !first {
				f.serve(ctx, c)
				return
			}
			if frames.read(c, typeWarm, &warmCommand{}) == nil {
				c.Write(encode(t, typeReady, warmResponse{}))
				io.ReadFull(c, make([]byte, len(connectFrame(t, false))+len(frames.ack)+len(early)))
				c.Write([]byte{Version}) // and an acknowledgement
			}
		})
		n := newNear(t, nil, Pool{Max: 8}, Proxy{Name: "far", Address: address})
		warmed := n.put(t, 1)[0]
		l, err := n.Dial(t.Context(), Want{Session: "s-1", Target: database, Early: ahead(early)})
		switch {
		case !warmed.heard():
			t.Error("it is not known that the proxy has got the commands")
		case early == "" && err != nil:
			t.Errorf("Dial = %v, want a fresh link: nothing was lost", err)
		case early == "":
			f.carry(t, l, "SELECT 1", "SELECT 1")
		case ohrouter.CodeOf(err) != ohrouter.ProxyUnreachable:
			t.Errorf("Dial = %v, want %s: the target may have got the payload", err, ohrouter.ProxyUnreachable)
		default:
			f.wantPayload(t)
		}
	}
}

// TestDrainedWarmLink has a proxy drain while a router has warm links to it.
func TestDrainedWarmLink(t *testing.T) {
	plainAndTLS(t, func(t *testing.T, c *certs) {
		f := newFar(t, c)
		n := newNear(t, c, Pool{Max: 8}, f.Proxy)
		links := n.put(t, 3)
		f.drain()
		for _, l := range links {
			eventually(t, "not alive", func() bool { return !l.Alive() })
		}
		if f.accepted.Load() != 3 {
			t.Error("somebody has connected")
		}
		_, err := n.Dial(t.Context(), Want{Session: "s-1", Target: database})
		if ohrouter.CodeOf(err) != ohrouter.NoProxy || n.Proxies()[0].State != ohrouter.ProxyDraining {
			t.Errorf("Dial = %v, proxy %s; want %s and draining", err, n.Proxies()[0].State, ohrouter.NoProxy)
		}
		begin := n.Proxies()[0].SeenAt
		if _, err := n.warm(t.Context(), n.known()[0]); ohrouter.CodeOf(err) != ohrouter.Draining {
			t.Errorf("a warm link of a draining proxy: %v, want %s", err, ohrouter.Draining)
		}
		if s := n.Proxies()[0]; s.State != ohrouter.ProxyDraining || !s.SeenAt.After(*begin) || s.LastError != nil {
			t.Errorf("proxy %+v, want it draining and seen", s)
		}
	})
}

// TestDrainCrossesTheConnectCommand has a session say what it wants when the
// news that the proxy drains is under way. Whoever listens there now serves it.
func TestDrainCrossesTheConnectCommand(t *testing.T) {
	plainAndTLS(t, func(t *testing.T, c *certs) {
		for _, early := range []string{"", "SELECT 1"} {
			old, f := newFar(t, c), newFar(t, c)
			n := newNear(t, c, Pool{Max: 8}, f.Proxy)
			p := n.known()[0]
			at := p.Address
			p.Address = old.Address
			l := n.put(t, 1)[0]
			p.Address = at
			l.conn = &dies{Conn: l.conn, end: func() {
				old.drain()
				eventually(t, "not alive", func() bool { return !l.Alive() })
			}}
			made, err := n.Dial(t.Context(), Want{Session: "s-1", Target: database, Early: ahead(early)})
			if err != nil {
				t.Fatal(err)
			}
			f.carry(t, made, ";", early+";")
			old.wantPayload(t)
			if s := n.Proxies()[0].State; s != ohrouter.ProxyUp {
				t.Errorf("proxy is %s, want it up", s)
			}
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
	n.keep()
	eventually(t, "asked for a warm link", func() bool { return asked.Load() > 0 })
	for range 20 {
		l, err := n.Dial(t.Context(), Want{Session: "s-1", Target: database, Early: ahead("SELECT")})
		if err != nil {
			t.Fatal(err)
		}
		f.carry(t, l, " 1", "SELECT 1")
	}
	if got := asked.Load(); got > 2 {
		t.Errorf("asked for %d warm links, want it to be left for a while", got)
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
	n.known()[0].pool.setUp = time.Second
	n.keep()
	for range 4 {
		<-asked
	}
	begin := time.Now()
	n.stop()
	if took := time.Since(begin); took > Timeout/2 {
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
		{"hangs up at the command", hears(nil), "EOF", ohrouter.ProxyUnknown},
		{"hangs up within the answer", hears([]byte{Version}), "EOF", ohrouter.ProxyUnknown},
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

// TestLost says when a session on a warm link may begin again on a fresh one.
func TestLost(t *testing.T) {
	f := newFar(t, nil)
	n := newNear(t, nil, Pool{Max: 8}, f.Proxy)
	l := n.put(t, 1)[0]
	timeout := context.DeadlineExceeded
	draining, refused := ohrouter.Errorf(ohrouter.Draining, "why"), ohrouter.Errorf(ohrouter.TargetRefused, "why")
	foreign := protocolError("HTTP")
	acked := l.acked
	for _, tt := range []struct {
		name                   string
		err                    error
		said, gave             bool
		heard, unheard, nobody bool // what is right when the commands were acknowledged, when not, and when nobody knows
	}{
		{"draining", draining, true, false, true, true, true},
		{"draining, payload", draining, true, true, true, true, true},
		{"refused", refused, true, false, false, false, false},
		{"end", io.EOF, false, false, true, true, true},
		{"end, payload", io.EOF, false, true, false, true, false},
		{"end within the answer, payload", io.ErrUnexpectedEOF, false, true, false, true, false},
		{"silence", timeout, false, false, false, true, false},
		{"silence, payload", timeout, false, true, false, false, false},
		{"no proxy", foreign, false, false, false, false, false},
		{"closed from here", net.ErrClosed, false, false, false, false, false},
	} {
		l.acked = acked
		if got := l.lost(tt.said, tt.gave, tt.err); got != tt.unheard {
			t.Errorf("%s, unheard: lost = %v, want %v", tt.name, got, tt.unheard)
		}
		l.acked = acked - 1
		if got := l.lost(tt.said, tt.gave, tt.err); got != tt.heard {
			t.Errorf("%s, heard: lost = %v, want %v", tt.name, got, tt.heard)
		}
		nobody := &Link{conn: &script{}}
		if got := nobody.lost(tt.said, tt.gave, tt.err); got != tt.nobody {
			t.Errorf("%s, not known: lost = %v, want %v", tt.name, got, tt.nobody)
		}
	}
	l.acked = acked
}

// TestPayloadWaitsWhereNobodyTells has a system that does not tell what was
// acknowledged.
func TestPayloadWaitsWhereNobodyTells(t *testing.T) {
	f := newFar(t, nil)
	n := newNear(t, nil, Pool{Max: 8}, f.Proxy)
	n.put(t, 1)[0].acked = 0
	asked := false
	l, err := n.Dial(t.Context(), Want{Session: "s-1", Target: database, Early: func() []byte { asked = true; return []byte("SELECT 1") }})
	if err != nil {
		t.Fatal(err)
	}
	if asked {
		t.Error("early payload was asked for")
	}
	f.carry(t, l, "SELECT 1", "SELECT 1")
}
