package relay_test

import (
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/ohrouter/oh-router/internal/relay"
)

// chains are two hops, as a client and a target have between them, with each
// kind of link.
func chains(b *testing.B, bench func(b *testing.B, client, target net.Conn)) {
	cert := certificate(b)
	links := []kind{tcp, {"tls", true, func(t testing.TB) (net.Conn, net.Conn) { return tlsLink(t, cert) }}}
	for _, link := range links {
		for _, c := range carriers {
			b.Run(c.name+","+link.name, func(b *testing.B) {
				router := &fixture{end: make(chan relay.End, 1), t: b}
				proxy := &fixture{end: make(chan relay.End, 1), t: b}
				var client, target net.Conn
				router.near[0], client = tcpPair(b)
				router.near[1], proxy.near[0] = link.make(b)
				proxy.near[1], target = tcpPair(b)
				for _, c := range []net.Conn{client, target, router.near[1], proxy.near[0]} {
					c.SetDeadline(time.Time{})
				}
				c.start(b, router)
				c.start(b, proxy)
				bench(b, client, target)
				for _, f := range []*fixture{router, proxy} {
					if end := f.wait(); end.Err != nil {
						b.Errorf("end = %+v, want an orderly one", end)
					}
				}
			})
		}
	}
}

// BenchmarkStream sends as much as the target takes.
func BenchmarkStream(b *testing.B) {
	chains(b, func(b *testing.B, client, target net.Conn) {
		chunk := make([]byte, 256<<10)
		b.SetBytes(int64(len(chunk)))
		b.ReportAllocs()
		var wg sync.WaitGroup
		wg.Go(func() { io.CopyBuffer(io.Discard, struct{ io.Reader }{target}, make([]byte, 256<<10)) })
		for b.Loop() {
			if _, err := client.Write(chunk); err != nil {
				b.Fatal(err)
			}
		}
		closeWrite(b, client)
		closeWrite(b, target)
		wg.Wait()
	})
}

// BenchmarkRoundTrip has one request of 64 bytes under way at a time.
func BenchmarkRoundTrip(b *testing.B) {
	chains(b, func(b *testing.B, client, target net.Conn) {
		b.ReportAllocs()
		var wg sync.WaitGroup
		wg.Go(func() { io.CopyBuffer(struct{ io.Writer }{target}, struct{ io.Reader }{target}, make([]byte, 64)) })
		request := make([]byte, 64)
		for b.Loop() {
			if _, err := client.Write(request); err != nil {
				b.Fatal(err)
			}
			if _, err := io.ReadFull(client, request); err != nil {
				b.Fatal(err)
			}
		}
		closeWrite(b, client)
		wg.Wait()
		closeWrite(b, target)
	})
}
