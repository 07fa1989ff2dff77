package router_test

import (
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/router"
)

// BenchmarkSession is a client's session from its connect to the target's first
// byte and the end: made on an event loop, by dialling, or with the link of a
// check. The client and the target are in it.
func BenchmarkSession(b *testing.B) {
	greeter := serve(b, func(c *net.TCPConn) {
		c.Write([]byte{'x'})
		c.CloseWrite()
		c.Close()
	})
	for _, bm := range []struct {
		name   string
		linker *direct
		check  bool
	}{
		{"loop", &direct{}, false},
		{"dial", &direct{dials: true}, false},
		{"check", &direct{}, true},
	} {
		b.Run(bm.name, func(b *testing.B) {
			f := start(b, 4096, bm.linker)
			binding := ohrouter.Binding{ID: "b-1", Target: greeter}
			addr := f.open(binding)
			b.ReportAllocs()
			for b.Loop() {
				if bm.check {
					if _, _, err := f.Check(b.Context(), binding); err != nil {
						b.Fatal(err)
					}
				}
				c, err := net.Dial("tcp", addr)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadAll(c); err != nil {
					b.Fatal(err)
				}
				c.Close()
			}
		})
	}
}

// BenchmarkOpen opens a binding and closes it.
func BenchmarkOpen(b *testing.B) {
	f := start(b, 4096, &direct{})
	x := newTarget(b)
	b.ReportAllocs()
	for b.Loop() {
		if err := f.Open(ohrouter.Binding{ID: "b-1", Target: x.Target}); err != nil {
			b.Fatal(err)
		}
		f.Close(b.Context(), "b-1")
	}
}

// BenchmarkLook is a look at 50,000 sessions. The longest that anybody else had
// to wait for the router meanwhile is stall-ms: a client that connects does.
func BenchmarkLook(b *testing.B) {
	f := start(b, 64, &direct{})
	defer f.Crowd(50_000, peer{})()
	for name, look := range map[string]func(){
		"sessions": func() { f.Sessions("b-crowd") },
		"usage":    func() { f.Usage("b-crowd") },
		"metrics":  func() { f.count("ohrouter_bytes_total", "up") },
	} {
		b.Run(name, func(b *testing.B) {
			var stalls time.Duration
			for b.Loop() {
				done := make(chan struct{})
				go func() {
					look()
					close(done)
				}()
				stalls += longest(done, func() { f.Addr("") })
			}
			b.ReportMetric(stalls.Seconds()*1000/float64(b.N), "stall-ms")
		})
	}
}

// longest returns how long f has taken at most, until done is closed.
func longest(done <-chan struct{}, f func()) (most time.Duration) {
	for {
		begin := time.Now()
		f()
		most = max(most, time.Since(begin))
		select {
		case <-done:
			return most
		case <-time.After(100 * time.Microsecond): // clients are not that many
		}
	}
}

// peer is a link that has a peer, and nothing else.
type peer struct{ router.Link }

func (peer) Peer() (string, netip.AddrPort) { return "east", netip.MustParseAddrPort("10.1.2.3:5432") }
