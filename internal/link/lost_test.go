package link

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/socket"
)

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

// TestPoisonedWarmLink has a proxy speak on a warm link before it is asked: what
// it says would be the answer to a session that does not exist yet, and its
// bytes. The link is thrown away.
func TestPoisonedWarmLink(t *testing.T) {
	plainAndTLS(t, func(t *testing.T, c *certs) {
		f := newFar(t, c)
		n := newNear(t, c, Pool{Max: 8}, f.Proxy)
		poisoned := n.put(t, 1)[0]
		answer := encode(t, typeResponse, connectResponse{Resolved: resolved.String()})
		if _, err := (<-f.conns).Write(append(answer, "poison"...)); err != nil {
			t.Fatal(err)
		}
		eventually(t, "not alive", func() bool { return !poisoned.Alive() })
		l, err := n.Dial(t.Context(), Want{Session: "s-1", Target: database, Early: ahead("SELECT 1")})
		if err != nil {
			t.Fatal(err)
		}
		f.carry(t, l, ";", "SELECT 1;")
		if got := f.accepted.Load(); got != 2 {
			t.Errorf("the proxy has accepted %d connections, want a fresh one for the session", got)
		}
	})
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
		n := newNear(t, nil, Pool{Max: 8}, Proxy{Name: "far", Address: address}, Proxy{Name: "other", Address: address})
		warmed := n.put(t, 1)[0]
		l, err := n.Dial(t.Context(), Want{Session: "s-1", Target: database, Early: ahead(early)})
		switch {
		case !warmed.heard(warmed.acknowledged()):
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
		if got := l.lost(tt.said, tt.gave, l.acknowledged(), tt.err); got != tt.unheard {
			t.Errorf("%s, unheard: lost = %v, want %v", tt.name, got, tt.unheard)
		}
		l.acked = acked - 1
		if got := l.lost(tt.said, tt.gave, l.acknowledged(), tt.err); got != tt.heard {
			t.Errorf("%s, heard: lost = %v, want %v", tt.name, got, tt.heard)
		}
		nobody := &Link{conn: &script{}}
		if got := nobody.lost(tt.said, tt.gave, nobody.acknowledged(), tt.err); got != tt.nobody {
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
	early := func() []byte {
		if n.states.now(t)["active"] != 1 {
			t.Error("early payload was asked for before the answer")
		}
		return []byte("SELECT") // somebody may have taken it from the client
	}
	l, err := n.Dial(t.Context(), Want{Session: "s-1", Target: database, Early: early})
	if err != nil {
		t.Fatal(err)
	}
	f.carry(t, l, " 1", "SELECT 1")
}
