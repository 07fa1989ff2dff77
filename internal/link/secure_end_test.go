package link

import (
	"context"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	ohrouter "github.com/ohrouter/oh-router"
)

// TestCut revokes the certificate of one of two proxies.
func TestCut(t *testing.T) {
	c := newCerts(t)
	elsewhere := c
	elsewhere.proxy = c.router // another leaf of the CA
	f, other := newFar(t, &c), newFar(t, &elsewhere)
	other.Name = "other"
	n := newNear(t, &c, Pool{Max: 8}, f.Proxy, other.Proxy)
	bad := func(leaf *x509.Certificate) bool { return leaf.Equal(c.proxy.Leaf) }

	dial := func(proxy string, park bool) *Link {
		l, err := n.Dial(t.Context(), Want{Session: "s-1", Target: database, Proxy: proxy, Pinned: true, Park: park})
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	warm := n.put(t, 1)[0]
	n.known()[0].pool.links = nil // Dial shall not take it
	open, parked, stays := dial("far", false), dial("far", true), dial("other", false)
	n.SetProxies([]Proxy{other.Proxy}) // a proxy that is gone still has links
	if got := n.Cut(bad); got != 3 {
		t.Errorf("Cut = %d, want 3", got)
	}
	if warm.Alive() || parked.Alive() {
		t.Error("a warm or parked link stands")
	}
	if _, err := open.Conn().Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the session reads %v, want its end", err)
	}
	for _, l := range []*Link{warm, open, parked} {
		l.Close()
	}
	f.states.gone(t)
	f.wantPayload(t) // none of them has ended in order
	other.carry(t, stays, "SELECT 1", "SELECT 1")
	if got := n.Cut(bad); got != 0 {
		t.Errorf("Cut = %d the second time, want 0", got)
	}

	// One that is proved while Cut looks does not come to stand.
	n.SetProxies([]Proxy{f.Proxy})
	_, err := n.Dial(t.Context(), Want{Session: "s-1", Target: database})
	if ohrouter.CodeOf(err) != ohrouter.ProxyUnreachable || !strings.Contains(ohrouter.Message(err), "revoked") {
		t.Errorf("Dial = %v, want that the certificate is revoked", err)
	}
	f.wantPayload(t)
}

func TestCutWhileLinksAreMade(t *testing.T) {
	c := newCerts(t)
	f := newFar(t, &c)
	n := newNear(t, &c, Pool{}, f.Proxy)
	var revoked atomic.Bool
	var wg sync.WaitGroup
	links := make(chan *Link, 1000)
	for range 4 {
		wg.Go(func() {
			for {
				l, err := n.Dial(t.Context(), Want{Session: "s-1", Target: database})
				if err != nil {
					if !revoked.Load() {
						t.Error(err)
					}
					return
				}
				links <- l
			}
		})
	}
	first := <-links
	revoked.Store(true)
	n.Cut(func(*x509.Certificate) bool { return true })
	wg.Wait()
	close(links)
	first.Close()
	for l := range links {
		if l.Alive() {
			t.Error("a link stands whose certificate is revoked")
		}
		l.Close()
	}
}

// TestParkedSecureLinkEnds ends parked links with TLS from the proxy's side. To
// the router that must not look like a target that has closed in order.
func TestParkedSecureLinkEnds(t *testing.T) {
	c := newCerts(t)
	for _, tt := range []struct {
		name string
		end  func(r *Request, cancel func())
	}{
		{"the target hangs up", func(r *Request, _ func()) { r.HangUp() }},
		{"the proxy ends", func(_ *Request, cancel func()) { cancel() }},
		{"closed", func(r *Request, _ func()) { r.Close() }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			states := newStates()
			a := &Acceptor{States: states.States, TLS: c.server()}
			requests, over := make(chan *Request), make(chan error)
			ends := make(chan func(), 1)
			address := listen(t, func(ctx context.Context, conn *net.TCPConn) {
				req, err := a.Accept(ctx, conn)
				if err != nil {
					t.Error(err)
					return
				}
				ctx, cancel := context.WithCancel(ctx)
				defer cancel()
				ends <- cancel
				requests <- req
				_, err = req.Accept(ctx, resolved)
				over <- err
			})
			n := newNear(t, &c, Pool{}, Proxy{Name: "dc1", Address: address})
			var req *Request
			var wg sync.WaitGroup
			wg.Go(func() { req = <-requests })
			l, err := n.Dial(t.Context(), Want{Session: "s-1", Target: database, Park: true})
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			wg.Wait()
			tt.end(req, <-ends)
			if err := <-over; err == nil {
				t.Error("the session stands")
			}
			if _, err := l.Conn().Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the router reads %v, want a reset", err)
			}
			if l.Alive() {
				t.Error("the link is alive")
			}
			if err := l.Ack(t.Context(), nil); err == nil {
				t.Error("Ack of a link that has ended succeeds")
			}
		})
	}
}

// TestHangUpCrossesTheAckCommand has a target say its last words on a parked
// link over TLS when the AckCommand is there: they are the session's.
func TestHangUpCrossesTheAckCommand(t *testing.T) {
	c := newCerts(t)
	states := newStates()
	a := &Acceptor{States: states.States, TLS: c.server()}
	address := listen(t, func(ctx context.Context, conn *net.TCPConn) {
		req, err := a.Accept(ctx, conn)
		if err != nil {
			return
		}
		defer req.Close()
		made, err := req.Accept(ctx, resolved)
		req.HangUp() // too late to matter
		if err != nil {
			t.Errorf("Accept = %v", err)
			return
		}
		io.WriteString(made, "bye")
		endWrite(made)
		io.Copy(io.Discard, made)
	})
	n := newNear(t, &c, Pool{}, Proxy{Name: "dc1", Address: address})
	l, err := n.Dial(t.Context(), Want{Session: "s-1", Target: database, Park: true})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := l.Ack(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(l.Conn()); err != nil || string(b) != "bye" {
		t.Errorf("the client gets %q, %v; want the target's last words", b, err)
	}
}
