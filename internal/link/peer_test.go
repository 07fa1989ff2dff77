package link

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/socket"
)

// listen calls serve in a goroutine of its own for every connection to a new
// address, until the test ends.
func listen(t testing.TB, serve func(context.Context, *net.TCPConn)) (address string) {
	t.Helper()
	return listenAt(t, "127.0.0.1:0", serve)
}

func listenAt(t testing.TB, address string, serve func(context.Context, *net.TCPConn)) string {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ln, err := socket.Options{}.Listen(ctx, address)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := socket.Accept(ln)
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				serve(ctx, conn)
			})
		}
	})
	t.Cleanup(func() {
		cancel()
		ln.Close()
		wg.Wait()
	})
	return ln.Addr().String()
}

// proxyAt starts a proxy that calls serve for every request.
func proxyAt(t testing.TB, name string, states counted, serve func(context.Context, *Request)) Proxy {
	t.Helper()
	a := &Acceptor{States: states.States, Patience: 3 * time.Second}
	return Proxy{Name: name, Address: listen(t, func(ctx context.Context, conn *net.TCPConn) {
		req, err := a.Accept(ctx, conn)
		if err != nil {
			return
		}
		defer req.Close()
		serve(ctx, req)
	})}
}

// refuse answers with a code.
func refuse(code ohrouter.Code, message string) func(context.Context, *Request) {
	return func(_ context.Context, r *Request) { r.Reject(code, message) }
}

// echo accepts a link as if its target sent back all that it gets.
func echo(ctx context.Context, r *Request) {
	conn, err := r.Accept(ctx, resolved)
	if err != nil {
		return
	}
	tc := conn.(*net.TCPConn)
	stop := context.AfterFunc(ctx, func() { tc.Close() })
	defer stop()
	if _, err := tc.ReadFrom(struct{ net.Conn }{tc}); err == nil {
		socket.Orderly(tc)
		tc.CloseWrite()
	}
}

// unreachable is an address where nothing listens.
func unreachable(t testing.TB) string {
	t.Helper()
	ln, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// eventually waits until cond is true: for what another goroutine or the
// kernel does without a way to be told.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for end := time.Now().Add(20 * time.Second); !cond(); <-ticker.C {
		if time.Now().After(end) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

// gone waits until no link is left in the books.
func (c counted) gone(t testing.TB) {
	t.Helper()
	eventually(t, "all links closed", func() bool {
		sum := 0.0
		for _, n := range c.now(t) {
			sum += n
		}
		return sum == 0
	})
}
