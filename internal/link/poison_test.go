package link

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/socket"
)

// poisoned is a proxy like f but for its warm links: bad has each of those when
// the WarmCommand is read.
func poisoned(t *testing.T, f *far, bad func(ctx context.Context, c *net.TCPConn)) (p Proxy, asked *atomic.Int32) {
	t.Helper()
	asked = new(atomic.Int32)
	return Proxy{Name: "bad", Address: listen(t, func(ctx context.Context, c *net.TCPConn) {
		var header [headerSize]byte
		if err := socket.WaitUntil(c, func() bool { return socket.Peek(c, header[:]) == headerSize || socket.Ended(c) }); err != nil {
			return
		}
		if frameType(header[1]) != typeWarm {
			f.serve(ctx, c)
			return
		}
		asked.Add(1)
		if err := frames.read(c, typeWarm, &warmCommand{}); err != nil {
			t.Errorf("WarmCommand: %v", err)
			return
		}
		bad(ctx, c)
	})}, asked
}

// TestPoisonedWarmLinks has a proxy, malicious or broken, whose warm links are
// good for nothing. They cost no session anything, and the proxy is not asked
// for one after the other.
func TestPoisonedWarmLinks(t *testing.T) {
	ready := encode(t, typeReady, warmResponse{})
	unasked := encode(t, typeResponse, connectResponse{Resolved: resolved.String()})
	says := func(b ...byte) func(context.Context, *net.TCPConn) {
		return func(ctx context.Context, c *net.TCPConn) { c.Write(b); silent(ctx, c) }
	}
	for _, tt := range []struct {
		name string
		bad  func(context.Context, *net.TCPConn)
	}{
		{"speaks early", says(slices.Concat(ready, []byte{'x'})...)},
		{"answers what nobody has asked", says(slices.Concat(ready, unasked)...)},
		{"waits twice", says(slices.Concat(ready, ready)...)},
		{"resets", func(_ context.Context, c *net.TCPConn) { c.Write(ready) }},
		{"ends", func(_ context.Context, c *net.TCPConn) { c.Write(ready); socket.Orderly(c) }},
		{"half-closes", func(ctx context.Context, c *net.TCPConn) { c.Write(ready); endWrite(c); silent(ctx, c) }},
		{"has another answer", says(unasked...)},
		{"has no answer", silent},
		{"has half an answer", says(ready[:headerSize]...)},
		{"has an answer of 64 KiB", says(Version, byte(typeReady), 0xff, 0xff)},
		{"is no proxy", says([]byte("HTTP/1.1 400 Bad Request\r\n\r\n")...)},
		{"wants a code that there is not", says(encode(t, typeReady, warmResponse{Code: "made_up"})...)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFar(t, nil)
			p, asked := poisoned(t, f, tt.bad)
			limits := Pool{Min: 3, Max: 8}
			n := newNear(t, nil, limits, p)
			begin := time.Now()
			n.keep()
			for range 20 {
				l, err := n.Dial(t.Context(), Want{Session: "s-1", Target: database})
				if err != nil {
					t.Fatal(err)
				}
				f.carry(t, l, "SELECT 1", "SELECT 1")
			}
			// All that are to be there may be made before it is seen that they
			// are no good; then there is half of minPause between two at least.
			most := int32(limits.Max) + 1 + int32(time.Since(begin)/(minPause/2))
			if got := asked.Load(); got > most {
				t.Errorf("asked for %d warm links in %v, want at most %d", got, time.Since(begin), most)
			}
		})
	}
}

// TestAnswerOnAnotherWarmLink has a proxy answer a session on a link that waits
// for another one. That is never used, and the session begins again, unless its
// payload may have reached a target.
func TestAnswerOnAnotherWarmLink(t *testing.T) {
	for _, early := range []string{"", "SELECT 1"} {
		f := newFar(t, nil)
		warmed := make(chan *net.TCPConn, 2)
		p, _ := poisoned(t, f, func(ctx context.Context, c *net.TCPConn) {
			c.Write(encode(t, typeReady, warmResponse{}))
			warmed <- c
			<-ctx.Done()
		})
		n := newNear(t, nil, Pool{Max: 8}, p)
		first := n.put(t, 1)[0]
		asked := <-warmed
		second := n.put(t, 1)[0]
		wrong := <-warmed
		said := len(connectFrame(t, false)) + len(frames.ack) + len(early)
		first.conn = &spoken{Conn: first.conn, then: func() {
			io.ReadFull(asked, make([]byte, said))
			asked.Write([]byte{Version}) // and an acknowledgement
			wrong.Write(encode(t, typeResponse, connectResponse{Resolved: "127.0.0.1:1"}))
			asked.Close()
			eventually(t, "the answer is there", func() bool { return !second.Alive() })
		}}
		l, err := n.Dial(t.Context(), Want{Session: "s-1", Target: database, Early: ahead(early)})
		switch {
		case early == "" && err != nil:
			t.Errorf("Dial = %v, want a fresh link", err)
		case early == "":
			f.carry(t, l, "SELECT 1", "SELECT 1")
		case ohrouter.CodeOf(err) != ohrouter.ProxyUnreachable:
			t.Errorf("Dial = %v, want %s: the target may have got the payload", err, ohrouter.ProxyUnreachable)
		default:
			f.wantPayload(t)
		}
		l, err = n.Dial(t.Context(), Want{Session: "s-2", Target: database, Early: ahead("SELECT 2")})
		if err != nil {
			t.Fatal(err)
		}
		if l == second || l.Resolved != resolved {
			t.Errorf("a link to %v, want a fresh one to %v", l.Resolved, resolved)
		}
		f.carry(t, l, "", "SELECT 2")
	}
}

// spoken is a connection on which something happens after the first write.
type spoken struct {
	net.Conn
	then func()
}

func (s *spoken) NetConn() net.Conn { return s.Conn }

func (s *spoken) Write(b []byte) (int, error) {
	n, err := s.Conn.Write(b)
	if s.then != nil {
		s.then()
		s.then = nil
	}
	return n, err
}

// TestSilentWarmLink has a proxy keep a warm link and never answer on it. The
// session ends when its client does; others, and their payload, are not held up.
func TestSilentWarmLink(t *testing.T) {
	f := newFar(t, nil)
	got := make(chan struct{})
	p, _ := poisoned(t, f, func(ctx context.Context, c *net.TCPConn) {
		c.Write(encode(t, typeReady, warmResponse{}))
		io.ReadFull(c, make([]byte, len(connectFrame(t, false))))
		close(got)
		silent(ctx, c)
	})
	n := newNear(t, nil, Pool{Max: 8}, p)
	n.put(t, 1)
	n.farAway()
	ctx, gone := context.WithCancel(t.Context())
	stuck := make(chan error)
	go func() {
		_, err := n.Dial(ctx, Want{Session: "s-1", Target: database, Early: ahead("SELECT 1")})
		stuck <- err
	}()
	<-got
	l, err := n.Dial(t.Context(), Want{Session: "s-2", Target: database, Early: ahead("SELECT 2")})
	if err != nil {
		t.Fatal(err)
	}
	f.carry(t, l, "", "SELECT 2")
	gone()
	if err := <-stuck; !errors.Is(err, context.Canceled) {
		t.Errorf("Dial = %v, want %v", err, context.Canceled)
	}
	f.wantPayload(t)
}
