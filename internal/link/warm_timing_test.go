package link

import (
	"context"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
)

// waiting begins a warm link, reads the answer and calls next with the router's
// end of it, all in simulated time. It returns what Accept does, and when.
func waiting(t *testing.T, a *Acceptor, next func(peer net.Conn)) (req *Request, took time.Duration, err error) {
	t.Helper()
	conn, peer := pipe(t)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		peer.Write(encode(t, typeWarm, warmCommand{}))
		var m warmResponse
		if err := frames.read(peer, typeReady, &m); err != nil || m.Code != "" || m.Patience != uint32(a.Patience.Milliseconds()) {
			t.Errorf("answer %+v, %v; want that the proxy waits", m, err)
		}
		next(peer)
	})
	begin := time.Now()
	req, err = a.Accept(t.Context(), conn)
	return req, time.Since(begin), err
}

// counts returns how many warm and parked links count.
func (a *Acceptor) counts() (n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, links := range a.parked {
		n += links
	}
	return n
}

func TestWarmLinkWaits(t *testing.T) {
	commands := func(t *testing.T) []byte { return append(connectFrame(t, false), frames.ack...) }
	for _, tt := range []struct {
		name string
		next func(t *testing.T, peer net.Conn)
		took time.Duration
		code ohrouter.Code // "": a request; internal: io.EOF
	}{
		{"not needed", func(_ *testing.T, peer net.Conn) { peer.Close() }, 0, ohrouter.Internal},
		{"for nothing", func(*testing.T, net.Conn) {}, ackTimeout, ohrouter.Internal},
		{"until the last moment", func(t *testing.T, peer net.Conn) {
			time.Sleep(ackTimeout - time.Millisecond)
			peer.Write(commands(t))
		}, ackTimeout - time.Millisecond, ""},
		{"and then for the rest", func(t *testing.T, peer net.Conn) {
			time.Sleep(time.Second)
			peer.Write(commands(t)[:1])
			time.Sleep(Timeout - time.Millisecond)
			peer.Write(commands(t)[1:])
		}, time.Second + Timeout - time.Millisecond, ""},
		{"and then too long for the rest", func(t *testing.T, peer net.Conn) {
			time.Sleep(time.Second)
			for _, b := range commands(t) {
				if _, err := peer.Write([]byte{b}); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		}, time.Second + Timeout, ohrouter.InvalidRequest},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				states := newStates()
				a := &Acceptor{States: states.States, Patience: time.Second}
				req, took, err := waiting(t, a, func(peer net.Conn) {
					synctest.Wait()
					if got := states.now(t)["warm"]; got != 1 || a.counts() != 1 {
						t.Errorf("%v warm links, %v count; want 1", got, a.counts())
					}
					tt.next(t, peer)
				})
				if took != tt.took {
					t.Errorf("it took %v, want %v", took, tt.took)
				}
				if tt.code == "" {
					if err != nil {
						t.Fatalf("Accept = %v", err)
					}
					if req.Session != "s-1" || req.Target != database || req.Parked {
						t.Errorf("request %+v", req)
					}
					req.Close()
				} else if err == nil || ohrouter.CodeOf(err) != tt.code || (err == io.EOF) != (tt.code == ohrouter.Internal) {
					t.Errorf("Accept = %v (%s), want %s", err, ohrouter.CodeOf(err), tt.code)
				}
				if n := a.counts(); n > 0 {
					t.Errorf("%d links still count", n)
				}
				states.gone(t)
			})
		})
	}
}

func TestWarmLinkOfAProxyThatDrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		states := newStates()
		draining := make(chan struct{})
		a := &Acceptor{States: states.States, Draining: draining, Patience: time.Second}
		time.AfterFunc(time.Second, func() { close(draining) })
		_, took, err := waiting(t, a, func(peer net.Conn) {
			var m connectResponse
			if err := frames.read(peer, typeResponse, &m); err != nil || m.Code != ohrouter.Draining || m.Message == "" {
				t.Errorf("unasked: %+v, %v; want that the proxy drains", m, err)
			}
			time.Sleep(time.Second)
			peer.Close()
		})
		if err == nil || ohrouter.CodeOf(err) != ohrouter.Internal || took != 2*time.Second {
			t.Errorf("Accept = %v after %v, want the end after 2s", err, took)
		}
		states.gone(t)

		// From now on none is taken, and a router that stays is left.
		conn, peer := pipe(t)
		go func() {
			peer.Write(encode(t, typeWarm, warmCommand{}))
			var m warmResponse
			if err := frames.read(peer, typeReady, &m); err != nil || m.Code != ohrouter.Draining || m.Patience != 1000 {
				t.Errorf("answer %+v, %v; want that the proxy drains", m, err)
			}
			io.Copy(io.Discard, peer)
		}()
		begin := time.Now()
		if _, err := a.Accept(t.Context(), conn); err == nil {
			t.Error("a warm link of a draining proxy is a request")
		}
		if took := time.Since(begin); took != Timeout {
			t.Errorf("the router was left after %v, want %v", took, Timeout)
		}
		states.gone(t)
	})
}

func TestConnectCommandCrossesTheDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		states := newStates()
		draining := make(chan struct{})
		a := &Acceptor{States: states.States, Draining: draining}
		req, _, err := waiting(t, a, func(peer net.Conn) {
			peer.Write(connectFrame(t, false)[:1])
			close(draining)
			peer.Write(append(connectFrame(t, false), frames.ack...)[1:])
		})
		if err != nil {
			t.Fatalf("Accept = %v, want the request: whoever serves it says that the proxy drains", err)
		}
		req.Close()
		states.gone(t)
	})
}

func TestWarmLinkContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		states := newStates()
		a := &Acceptor{States: states.States}
		ctx, cancel := context.WithCancel(t.Context())
		conn, peer := pipe(t)
		go func() {
			peer.Write(encode(t, typeWarm, warmCommand{}))
			io.Copy(io.Discard, peer)
		}()
		time.AfterFunc(time.Second, cancel)
		waits := false
		begin := time.Now()
		_, err := a.AcceptWarm(ctx, Begun{Conn: conn}, func() { waits = true })
		if took := time.Since(begin); err != context.Canceled || took != time.Second || !waits {
			t.Errorf("AcceptWarm = %v after %v, told %v; want %v after 1s", err, took, waits, context.Canceled)
		}
		states.gone(t)
	})
}

func TestWarmCap(t *testing.T) {
	f := newFar(t, nil)
	n := newNear(t, nil, Pool{Max: 8}, f.Proxy)
	n.put(t, 2)
	var release func()
	for range maxPerSource - 2 { // as if that many waited, too
		var err error
		if release, err = f.park(netip.MustParseAddr("127.0.0.1")); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := n.warm(t.Context(), n.known()[0]); ohrouter.CodeOf(err) != ohrouter.QuotaExceeded {
		t.Errorf("a warm link above the cap: %v, want %s", err, ohrouter.QuotaExceeded)
	}
	l, err := n.Dial(t.Context(), Want{Session: "s-1", Target: database})
	if err != nil {
		t.Fatal(err)
	}
	f.carry(t, l, "", "")
	n.put(t, 1) // in the place of the one that serves a session
	release()
	n.put(t, 1)
}
