package link

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
)

// TestPoolSetUpTimeByAnswers has a forwarder take connections at once, so that
// only first answers tell how far the proxy is.
func TestPoolSetUpTimeByAnswers(t *testing.T) {
	const ms = time.Millisecond
	p := &pool{}
	now := time.Unix(1e9, 0)
	p.tookSetUp(ms/10, now)
	for i, tt := range []struct{ after, took, want time.Duration }{
		{0, 200 * ms, ms / 10}, // it may have been late
		{0, 240 * ms, 92 * ms},
		{measureEvery, 180 * ms, 82 * ms},
		{1, 300 * ms, 82 * ms},
		{measureEvery + 1, 300 * ms, 142 * ms},
		{0, 17 * ms, ms / 2},
		{0, 16 * ms, ms / 10}, // no more than two processes may take
		{0, -1, ms / 10},      // of a proxy that lies
		{measureEvery + 1, 300 * ms, ms / 10},
		{measureEvery + 1, 300 * ms, 142 * ms},
	} {
		now = now.Add(tt.after)
		if p.tookAnswer(tt.took, now); p.setUp != tt.want {
			t.Errorf("after %d answers making a link takes %v, want %v", i+1, p.setUp, tt.want)
		}
	}
	for range 2 {
		now = now.Add(measureEvery + 1)
		p.tookSetUp(time.Second, now)
	}
	if p.setUp != time.Second {
		t.Errorf("making a link takes %v, want the %v of a connect", p.setUp, time.Second)
	}
}

func TestAnswerTellsHowLongItTook(t *testing.T) {
	for _, park := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			const dial = 1500 * time.Millisecond
			a := &Acceptor{States: newStates().States}
			conn, peer := pipe(t)
			var wg sync.WaitGroup
			defer wg.Wait()
			wg.Go(func() {
				time.Sleep(time.Second) // simulated, and the router's
				commands := connectFrame(t, park)
				if !park {
					commands = append(commands, frames.ack...)
				}
				peer.Write(commands)
				var m connectResponse
				if err := frames.read(peer, typeResponse, &m); err != nil || m.Took != uint32(dial.Microseconds()) {
					t.Errorf("the answer has taken %d µs (%v), want %v", m.Took, err, dial)
				}
				peer.Close()
			})
			req, err := a.Accept(t.Context(), conn)
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(dial) // simulated
			if c, err := req.Accept(t.Context(), resolved); err == nil {
				c.Close()
			}
			req.Close()
		})
	}
}

// TestFirstAnswerIsMeasured has answers come 200 ms after connecting began.
func TestFirstAnswerIsMeasured(t *testing.T) {
	const apart = 200 * time.Millisecond
	refused := connectResponse{Code: ohrouter.TargetRefused, Took: 1}
	connected := func(took uint32) connectResponse {
		return connectResponse{Resolved: resolved.String(), Took: took}
	}
	for _, tt := range []struct {
		name   string
		answer connectResponse
		want   time.Duration // without what the proxy has spent; 0 not measured
	}{
		{"spent nothing", connected(1), apart - time.Microsecond},
		{"spent some", connected(150_000), apart - 150*time.Millisecond},
		{"lies", connected(1 << 31), 1},
		{"does not tell", connected(0), 0},
		{"refuses", refused, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				conn, peer := pipe(t)
				l := newLink(conn, newStates().States)
				defer l.Close()
				l.begun = time.Now()
				var wg sync.WaitGroup
				defer wg.Wait()
				wg.Go(func() {
					frames.read(peer, typeConnect, &connectCommand{})
					frames.read(peer, typeAck, &ackCommand{})
					time.Sleep(apart) // simulated
					peer.Write(encode(t, typeResponse, tt.answer))
				})
				_, err := ask(t, t.Context(), l, Want{Session: "s-1", Target: database})
				if code := tt.answer.Code; err != nil && ohrouter.CodeOf(err) != code {
					t.Errorf("handshake = %v, want %q", err, code)
				}
				if got := l.proxy.pool.first.latest; got != tt.want {
					t.Errorf("measured %v, want %v", got, tt.want)
				}
			})
		})
	}
}

// TestOnlyTheFirstAnswerIsMeasured: on a warm link it is the WarmResponse.
func TestOnlyTheFirstAnswerIsMeasured(t *testing.T) {
	plainAndTLS(t, func(t *testing.T, c *certs) {
		f := newFar(t, c)
		n := newNear(t, c, Pool{Max: 8}, f.Proxy)
		measured := func(want int) {
			t.Helper()
			if c != nil {
				want = 0 // making a link with TLS asks the proxy
			}
			if got := n.known()[0].pool.first.n; got != want {
				t.Errorf("%d answers measured, want %d", got, want)
			}
		}
		n.put(t, 1)
		measured(1)
		for i, want := range []int{1, 2} { // on the warm one, on a fresh one
			l, err := n.Dial(t.Context(), Want{Session: "s-1", Target: database, Park: i == 1})
			if err != nil {
				t.Fatal(err)
			}
			measured(want)
			l.Close()
		}
	})
}

// BenchmarkPoolAnswer is what every session adds.
func BenchmarkPoolAnswer(b *testing.B) {
	p := &pool{least: worthwhile}
	p.tookSetUp(time.Microsecond, time.Now())
	b.ReportAllocs()
	for b.Loop() {
		p.tookAnswer(time.Millisecond, time.Now())
	}
}

// TestPayloadDoesNotWaitForTheAnswer has a client speak when the commands have
// been sent, on a fresh link and on a warm one.
func TestPayloadDoesNotWaitForTheAnswer(t *testing.T) {
	plainAndTLS(t, func(t *testing.T, c *certs) {
		a := &Acceptor{States: newStates().States, Patience: time.Second}
		if c != nil {
			a.TLS = c.server()
		}
		address := listen(t, func(ctx context.Context, c *net.TCPConn) {
			req, err := a.Accept(ctx, c)
			if err != nil {
				return
			}
			defer req.Close()
			b := make([]byte, len("SELECT 1"))
			if _, err := io.ReadFull(req.conn, b); err != nil || string(b) != "SELECT 1" {
				t.Errorf("before its answer the proxy got %q, %v", b, err)
			}
			req.Accept(ctx, resolved)
		})
		n := newNear(t, c, Pool{Max: 8}, Proxy{Name: "far", Address: address})
		n.put(t, 1)
		for range 2 {
			n.farAway()
			said := []string{"", "SEL", "SEL", "SELECT 1"}
			l, err := n.Dial(t.Context(), Want{Session: "s-1", Target: database, Early: func() []byte {
				s := said[0]
				said = said[min(1, len(said)-1):]
				return []byte(s)
			}})
			if err != nil {
				t.Fatal(err)
			}
			l.Close()
		}
	})
}

// TestPayloadThatComesLate has a client that says something when the commands'
// time to be taken is over, or can not be taken any more: the proxy gets all of
// it, or there is no session.
func TestPayloadThatComesLate(t *testing.T) {
	for _, tt := range []struct {
		name   string
		before func(*net.TCPConn) error // when the client has spoken
		want   string
		fails  bool
	}{
		{"after the deadline", func(c *net.TCPConn) error { return c.SetWriteDeadline(time.Unix(1, 0)) }, "SELECT 1", false},
		{"in vain", (*net.TCPConn).CloseWrite, "", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := make(chan string, 1)
			address := listen(t, func(_ context.Context, c *net.TCPConn) {
				errs := []error{frames.read(c, typeConnect, &connectCommand{}), frames.read(c, typeAck, &ackCommand{})}
				b := make([]byte, len("SELECT 1"))
				n, _ := io.ReadFull(c, b)
				_, err := c.Write(encode(t, typeResponse, connectResponse{Resolved: resolved.String()}))
				if err := errors.Join(append(errs, err)...); err != nil {
					t.Errorf("the proxy got something else: %v", err)
				}
				got <- string(b[:n])
			})
			conn, err := net.Dial("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			l := newLink(conn, newStates().States)
			defer l.Close()
			l.proxy.pool.setUp = worthwhile
			looks := 0
			answered, err := ask(t, t.Context(), l, Want{Session: "s-1", Target: database, Early: func() []byte {
				if looks++; looks < 3 {
					return nil
				}
				if looks == 3 {
					if err := tt.before(conn.(*net.TCPConn)); err != nil {
						t.Error(err)
					}
				}
				return []byte("SELECT 1")
			}})
			if (err != nil) != tt.fails || answered == tt.fails {
				t.Errorf("handshake = %v, %v; want it to fail: %v", answered, err, tt.fails)
			}
			l.Close() // ends the wait of a proxy that did not get it
			if s := <-got; s != tt.want {
				t.Errorf("the proxy got %q, want %q", s, tt.want)
			}
		})
	}
}
