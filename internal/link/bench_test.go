package link

import (
	"context"
	"crypto/tls"
	"net"
	"testing"
	"time"
)

// BenchmarkHandshake is what a link costs without any I/O: the router's end,
// which says what is wanted and reads the answer, and the proxy's, which reads
// the commands and answers.
func BenchmarkHandshake(b *testing.B) {
	want := Want{Session: "s-abcdef-1", Target: database}
	b.Run("router", func(b *testing.B) {
		d := NewDialer([]Proxy{{Name: "dc1", Address: "127.0.0.1:9000"}}, newStates().States)
		answer := encode(b, typeResponse, connectResponse{Resolved: resolved.String(), Patience: 5000})
		b.ReportAllocs()
		for b.Loop() {
			h := d.Begin(want)
			if _, ok := h.Call(nil); !ok {
				b.Fatal("no call")
			}
			if n, err := h.Answered(answer); n != len(answer) || err != nil {
				b.Fatal(n, err)
			}
			h.Link().Close()
		}
	})
	b.Run("proxy", func(b *testing.B) {
		a := &Acceptor{States: newStates().States, Patience: 5 * time.Second}
		commands, err := want.commands()
		if err != nil {
			b.Fatal(err)
		}
		b.ReportAllocs()
		for b.Loop() {
			r, _, err := a.Pipelined(commands, nil)
			if err != nil {
				b.Fatal(err)
			}
			r.Answer(resolved)
			r.Close()
		}
	})
}

// BenchmarkDial makes links over loopback: connect, prove who both are with
// TLS, commands, answer, close. A warm link is there before.
func BenchmarkDial(b *testing.B) {
	c := newCerts(b)
	resuming := c.client()
	resuming.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	for _, bm := range []struct {
		name   string
		router *tls.Config
		park   bool
		warm   bool
	}{
		{"plain", nil, false, false},
		{"plain,parked", nil, true, false},
		{"plain,warm", nil, false, true},
		{"tls", c.client(), false, false},
		{"tls,resumed", resuming, false, false},
		{"tls,warm", resuming, false, true},
	} {
		b.Run(bm.name, func(b *testing.B) {
			secure := &c
			if bm.router == nil {
				secure = nil
			}
			n := newNear(b, nil, Pool{Max: 1}, Proxy{Name: "dc1", Address: untilClosed(b, secure)})
			if bm.router != nil {
				n.TLS = always(bm.router)
			}
			b.ReportAllocs()
			for b.Loop() {
				if bm.warm {
					b.StopTimer()
					n.put(b, 1)
					b.StartTimer()
				}
				l, err := n.Dial(b.Context(), Want{Session: "s-abcdef-1", Target: database, Park: bm.park})
				if err != nil {
					b.Fatal(err)
				}
				l.Close()
			}
		})
	}
}

// untilClosed starts a proxy whose links end when the router closes them.
func untilClosed(b *testing.B, c *certs) (address string) {
	a := &Acceptor{States: newStates().States}
	if c != nil {
		a.TLS = c.server()
	}
	return listen(b, func(ctx context.Context, conn *net.TCPConn) {
		req, err := a.Accept(ctx, conn)
		if err != nil {
			return
		}
		defer req.Close()
		if made, err := req.Accept(ctx, resolved); err == nil {
			made.Read(make([]byte, 1))
		}
	})
}

// BenchmarkPool is what a pool does for a session: note that one is wanted, find
// out what is missing, put a link in, take it out and look whether it stands.
func BenchmarkPool(b *testing.B) {
	f := newFar(b, nil)
	n := newNear(b, nil, Pool{Max: 64}, f.Proxy)
	l := n.put(b, 1)[0]
	p := &pool{least: worthwhile, setUp: worthwhile, proven: true}
	b.Run("wanted", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			p.want(n.Pool, time.Now())
		}
	})
	b.Run("of no use", func(b *testing.B) {
		p := &pool{least: worthwhile, setUp: worthwhile - 1}
		b.ReportAllocs()
		for b.Loop() {
			p.want(n.Pool, time.Now())
		}
	})
	b.Run("made,taken", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			now := time.Now()
			p.want(n.Pool, now)
			p.missing(n.Pool, now)
			if !p.made(n.Pool, l, nil, now) || p.take() != l {
				b.Fatal("not the link that was put in")
			}
		}
	})
}
