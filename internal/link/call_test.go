package link

import (
	"crypto/x509"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/socket"
)

// called is a link that was made as an event loop does it.
type called struct {
	*Handshake
	Call
}

// call begins a link that is to have a warm one's connection.
func (n *near) call(t testing.TB, cut func()) *called {
	t.Helper()
	h := n.Begin(Want{Session: "s-1", Target: database, Early: ahead("SELECT 1")}) // Early is for Dial
	c, ok := h.Call(cut)
	if !ok || c.Over == nil {
		t.Fatalf("call %+v, %v; want one over a warm link", c, ok)
	}
	c.Over.SetDeadline(time.Now().Add(10 * time.Second))
	return &called{h, c}
}

// say says the hello and early payload, and hears the answer.
func (c *called) say(early string) error {
	if _, err := c.Over.Write(append(c.Hello, early...)); err != nil {
		return err
	}
	var b []byte
	for {
		more := make([]byte, 1)
		if _, err := c.Over.Read(more); err != nil {
			return err
		}
		b = append(b, more...)
		if n, err := c.Answered(b); n > 0 || err != nil {
			return err
		}
	}
}

// failed reports the end of a connection as an event loop does.
func (c *called) failed(err error, gave bool) error {
	acked := socket.Acked(socket.TCP(c.Over))
	closeTCP(c.Over)
	return c.Failed(err, gave, acked)
}

func TestCallHasAWarmLink(t *testing.T) {
	plainAndTLS(t, func(t *testing.T, c *certs) {
		f := newFar(t, c)
		n := newNear(t, c, Pool{Max: 8}, f.Proxy)
		first, pool := n.put(t, 2)[0], &n.known()[0].pool
		acked := first.acked
		first.acked = 0 // the kernel does not tell
		h := n.Begin(Want{Session: "s-1", Target: database})
		if c, ok := h.Call(nil); ok || n.inPools() != 2 {
			t.Errorf("call %+v, want it left to Dial, which has payload wait for the answer", c)
		}
		first.acked = acked
		for range 2 {
			begin := time.Now()
			pool.next = begin.Add(time.Hour)
			c := n.call(t, nil)
			if c.AnswerWithin < f.Patience {
				t.Errorf("the proxy has %v to answer", c.AnswerWithin)
			}
			if err := c.say("SELECT"); err != nil {
				t.Fatal(err)
			}
			n.states.want(t, 0, 0, 1)
			if !pool.next.IsZero() || pool.at.Before(begin) {
				t.Errorf("the pool makes more from %v on, and has heard at %v what is wanted; want both now", pool.next, pool.at)
			}
			l := c.Link()
			if l.Resolved != resolved || l.Conn() != nil {
				t.Errorf("link to %v, want %v and a connection that is the caller's", l.Resolved, resolved)
			}
			io.WriteString(c.Over, " 1")
			endWrite(c.Over)
			if b, err := io.ReadAll(c.Over); err != nil || string(b) != "done" {
				t.Errorf("the session ends with %q, %v", b, err)
			}
			f.wantPayload(t, "SELECT 1")
			closeTCP(c.Over)
			l.Close()
		}
		h = n.Begin(Want{Session: "s-1", Target: database})
		fresh, ok := h.Call(nil)
		if !ok || fresh.Over != nil || fresh.To.String() != f.Address {
			t.Errorf("call %+v, %v; want one to %s", fresh, ok, f.Address)
		}
		h.Link().Close()
	})
}

// TestWarmLinkOfACallDies says when Dial may say the same on a fresh one.
func TestWarmLinkOfACallDies(t *testing.T) {
	for _, tt := range []struct {
		what  string
		err   error // nil: the proxy's end
		heard bool  // it has taken what was said
		gave  bool
		again bool
		drops bool // the others are taken for dead, too
	}{
		{what: "before it has heard anything", gave: true, again: true},
		{what: "behind the commands", heard: true, again: true},
		{what: "behind payload", heard: true, gave: true},
		{what: "silent", err: os.ErrDeadlineExceeded, heard: true},
		{what: "unreachable", err: os.ErrDeadlineExceeded, again: true, drops: true},
		{what: "unreachable, payload", err: os.ErrDeadlineExceeded, gave: true, drops: true},
		{what: "it speaks another language", err: protocolError("HTTP")},
	} {
		run := func(t *testing.T, f *far) {
			n := newNear(t, nil, Pool{Max: 8}, f.Proxy)
			n.put(t, 2)
			c := n.call(t, nil)
			n.known()[0].pool.next = time.Time{}
			err := tt.err
			switch {
			case tt.heard:
				c.link.acked-- // as if it had
				if err == nil {
					err = io.EOF
				}
			case err == nil:
				(<-f.conns).Close()
				eventually(t, "its end arrives", func() bool { return socket.Pending(socket.TCP(c.Over)) })
				early := ""
				if tt.gave {
					early = "SELECT 1"
				}
				err = c.say(early)
				if !hangsUp(err) {
					t.Fatalf("say = %v on a link that has ended", err)
				}
			}
			err = c.failed(err, tt.gave)
			if got := n.known()[0].pool.next; got.IsZero() == (tt.again || tt.drops) {
				t.Errorf("no warm link is made before %v", got)
			}
			if want := map[bool]int{false: 1, true: 0}[tt.drops]; n.inPools() != want {
				t.Errorf("%d warm links are left, want %d", n.inPools(), want)
			}
			if !tt.again {
				if ohrouter.CodeOf(err) != ohrouter.ProxyUnreachable {
					t.Errorf("Failed = %v, want %s", err, ohrouter.ProxyUnreachable)
				}
				return
			}
			if err != nil {
				t.Fatalf("Failed = %v, want another attempt", err)
			}
			l, err := c.Dial(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			f.carry(t, l, ";", "SELECT 1;")
			if got := f.accepted.Load(); got != 3 {
				t.Errorf("the proxy has accepted %d connections, want a fresh one after the two that were warm", got)
			}
		}
		t.Run(tt.what, func(t *testing.T) { run(t, newFar(t, nil)) })
		t.Run(tt.what+", by name", func(t *testing.T) {
			f := newFar(t, nil)
			f.Address = strings.Replace(f.Address, "127.0.0.1", "localhost", 1)
			run(t, f)
		})
	}
}

// TestWarmLinkOfACallIsRefused has answers, which hold unless the proxy drains.
func TestWarmLinkOfACallIsRefused(t *testing.T) {
	for _, code := range []ohrouter.Code{ohrouter.TargetRefused, ohrouter.Draining} {
		f := newFar(t, nil)
		n := newNear(t, nil, Pool{Max: 8}, f.Proxy)
		n.put(t, 1)
		c := n.call(t, nil)
		_, err := c.Answered(encode(t, typeResponse, connectResponse{Code: code, Message: "why"}))
		if ohrouter.CodeOf(err) != code {
			t.Fatalf("Answered = %v, want %s", err, code)
		}
		if err = c.failed(err, true); code != ohrouter.Draining {
			if ohrouter.CodeOf(err) != code {
				t.Errorf("Failed = %v, want %s", err, code)
			}
			continue
		}
		if err != nil {
			t.Fatalf("Failed = %v, want another attempt", err)
		}
		l, err := c.Dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		f.carry(t, l, "", "SELECT 1")
	}
}

// TestWarmLinkOfACallIsCut has the proxy's certificate turn bad.
func TestWarmLinkOfACallIsCut(t *testing.T) {
	certs := newCerts(t)
	f := newFar(t, &certs)
	n := newNear(t, &certs, Pool{Max: 8}, f.Proxy)
	n.put(t, 1)
	cuts := 0
	c := n.call(t, func() { cuts++ })
	if got := n.Cut(func(*x509.Certificate) bool { return true }); got != 1 || cuts != 1 {
		t.Errorf("cut %d links, and the session %d times; want each once", got, cuts)
	}
	closeTCP(c.Over)
	c.Link().Close()
}
