package link

import (
	"context"
	"testing"
)

// benchmark dials one link per iteration over loopback; each ends with ack.
func benchmark(b *testing.B, want Want, ack func(*Link) error) {
	router, proxies := newStates(), newStates()
	p := proxyAt(b, "dc1", proxies, func(ctx context.Context, r *Request) {
		if conn, err := r.Accept(ctx, resolved); err == nil {
			conn.Read(make([]byte, 1)) // until the router closes
		}
	})
	d := NewDialer([]Proxy{p}, router.States)
	b.ReportAllocs()
	for b.Loop() {
		l, err := d.Dial(b.Context(), want)
		if err != nil {
			b.Fatal(err)
		}
		if err := ack(l); err != nil {
			b.Fatal(err)
		}
		l.Close()
	}
}

// BenchmarkHandshake makes links for clients that wait: connect, commands in
// one segment, answer, close.
func BenchmarkHandshake(b *testing.B) {
	benchmark(b, Want{Session: "s-abcdef-1", Target: database}, func(*Link) error { return nil })
}

// BenchmarkParkedAck makes links for checks and acknowledges them.
func BenchmarkParkedAck(b *testing.B) {
	benchmark(b, Want{Session: "s-abcdef-1", Target: database, Park: true}, (*Link).Ack)
}
