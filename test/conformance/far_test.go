//go:build linux

package conformance

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ohrouter/oh-router/test/bench/delay"
)

// distant returns an address that leads to another one over a distance.
func distant(t testing.TB, to string, roundTrip time.Duration) string {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- delay.Serve(ctx, ln, netip.MustParseAddrPort(to), roundTrip) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("the distance ends with %v", err)
		}
	})
	return ln.Addr().String()
}

// far is a stack whose router is as far from its proxy as makes it keep links warm.
// Its two bindings lead to an echo, by address and by name.
func far(t *testing.T) (s *stack, addrs []string) {
	t.Helper()
	s = start(t, flags{roundTrip: 30 * time.Millisecond, proxy: []string{"--allow", "127.0.0.0/8:*,localhost:*"}})
	tg := serve(t, echo)
	_, port, err := net.SplitHostPort(tg.addr)
	if err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{tg.addr, net.JoinHostPort("localhost", port)} {
		addrs = append(addrs, s.bind(t, target).Address)
	}
	return s, addrs
}

const warm = `ohrouter_links{state="warm"}`

// wantSessions has clients of all addresses begin sessions one after the other, and
// wants router and proxy to keep links warm for more.
func (s *stack) wantSessions(t *testing.T, addrs []string) {
	t.Helper()
	var wg sync.WaitGroup
	for _, addr := range addrs {
		for client := range 4 {
			wg.Go(func() {
				for i := range 20 {
					c, err := dial("", addr)
					if err == nil {
						err = errors.Join(passBothWays(c, uint64(client*20+i), 1000), c.Close())
					}
					if err != nil {
						t.Errorf("session %d of client %d at %s: %v", i, client, addr, err)
						return
					}
				}
			})
		}
	}
	wg.Wait()
	eventually(t, soon, func() error {
		for _, url := range []string{s.api, "http://" + s.metrics} {
			if n := scrape(t, url)[warm]; n == "0" {
				return fmt.Errorf("%s: %s = %s", url, warm, n)
			}
		}
		return nil
	})
	s.awaitSessions(t, 0)
}

func TestFarSessions(t *testing.T) {
	t.Parallel()
	s, addrs := far(t)
	s.wantSessions(t, addrs)
}

// TestFarProxyComesAgain has the proxy of warm links end, in one way or another,
// and come back.
func TestFarProxyComesAgain(t *testing.T) {
	t.Parallel()
	for how, end := range map[string]func(t *testing.T, s *stack){
		"killed": func(_ *testing.T, s *stack) { s.proxy.kill() },
		"drained": func(t *testing.T, s *stack) {
			s.proxy.signal(t, syscall.SIGTERM)
			s.proxy.exit(t, soon)
		},
	} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			s, addrs := far(t)
			s.wantSessions(t, addrs)
			end(t, s)
			awaitMetric(t, s.api, warm, "0")
			s.startProxy(t)
			s.wantSessions(t, addrs)
		})
	}
}
