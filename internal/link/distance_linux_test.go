package link

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/ohrouter/oh-router/test/bench/delay"
)

// apart puts a forwarder in front of a proxy that takes connections at once, and
// has them cross a distance.
func apart(t *testing.T, f *far, roundTrip time.Duration) Proxy {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := delay.Serve(ctx, ln, netip.MustParseAddrPort(f.Address), roundTrip); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return Proxy{Name: "far", Address: ln.Addr().String()}
}

// TestWarmLinksBehindAForwarder: it takes two sessions to know that they are of
// use, and a third to want one. What counts as near is more here than what a busy
// machine takes to connect to the forwarder.
func TestWarmLinksBehindAForwarder(t *testing.T) {
	f := newFar(t, nil)
	n := newNear(t, nil, Pool{Max: 8}, apart(t, f, 400*time.Millisecond))
	pool := &n.known()[0].pool
	pool.least = 100 * time.Millisecond
	n.keep()
	for i := range 3 {
		if links := n.inPools(); links > 0 {
			t.Errorf("%d warm links after %d sessions, want none", links, i)
		}
		l, err := n.Dial(t.Context(), Want{Session: "s-1", Target: database})
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
	}
	n.wantWarm(t, 1)
	pool.mu.Lock()
	defer pool.mu.Unlock()
	if took := pool.setUp; took < 200*time.Millisecond || took > 5*time.Second {
		t.Errorf("making a link takes %v, want about 400ms", took)
	}
}
