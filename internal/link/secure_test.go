package link

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
)

func TestSecureLinks(t *testing.T) {
	c := newCerts(t)
	f := newFar(t, &c)
	n := newNear(t, &c, Pool{}, f.Proxy)
	for _, want := range []Want{
		{Session: "s-1", Target: database},
		{Session: "s-1", Target: database, Early: ahead("SELECT 1")},
		{Session: "s-1", Target: database, Early: ahead(strings.Repeat("x", 4096))},
		{Session: "s-1", Target: database, Preamble: []byte("PROXY "), Early: ahead("SELECT 1")},
		{Session: "s-1", Target: database, Park: true},
	} {
		l, err := n.Dial(t.Context(), want)
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := l.Conn().(*tls.Conn); !ok {
			t.Fatalf("the link is a %T", l.Conn())
		}
		if want.Park {
			if !l.Alive() {
				t.Error("a parked link is not alive")
			}
			if err := l.Ack(); err != nil {
				t.Fatal(err)
			}
		}
		sent := string(want.Preamble)
		if want.Early != nil {
			sent += string(want.Early())
		}
		long := strings.Repeat("payload ", 1<<17)
		f.carry(t, l, long, sent+long)
	}
}

// TestPlainAndSecureDoNotMix has one side that has TLS and one that has not.
func TestPlainAndSecureDoNotMix(t *testing.T) {
	c := newCerts(t)
	for _, tt := range []struct {
		name          string
		router, proxy *certs
	}{
		{"router without TLS", nil, &c},
		{"proxy without TLS", &c, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFar(t, tt.proxy)
			n := newNear(t, tt.router, Pool{Max: 8}, f.Proxy)
			begin := time.Now()
			_, err := n.Dial(t.Context(), Want{Session: "s-1", Target: database, Early: ahead("SELECT 1")})
			if ohrouter.CodeOf(err) != ohrouter.ProxyUnreachable {
				t.Errorf("Dial = %v, want %s", err, ohrouter.ProxyUnreachable)
			}
			if _, err := n.warm(t.Context(), n.known()[0]); err == nil {
				t.Error("there is a warm link")
			}
			if took := time.Since(begin); took > Timeout/2 {
				t.Errorf("it took %v to know", took)
			}
			f.wantPayload(t)
			f.states.gone(t)
		})
	}
}

func TestPipelinedIsNotForSecureLinks(t *testing.T) {
	states := newStates()
	want := Want{Session: "s-1", Target: database}
	commands, err := want.commands()
	if err != nil {
		t.Fatal(err)
	}
	parked := connectFrame(t, true)
	for _, tt := range []struct {
		name string
		a    *Acceptor
		sent []byte
		n    int
		err  error
	}{
		{"pipelined", &Acceptor{}, commands, len(commands), nil},
		{"pipelined, payload behind it", &Acceptor{}, append(slices.Clone(commands), "SELECT 1"...), len(commands), nil},
		{"not complete", &Acceptor{}, commands[:len(commands)-1], 0, nil},
		{"with TLS", &Acceptor{TLS: &tls.Config{MinVersion: tls.VersionTLS13}}, commands, 0, ErrNotPipelined},
		{"parked", &Acceptor{}, parked, 0, ErrNotPipelined},
		{"warm", &Acceptor{}, encode(t, typeWarm, warmCommand{}), 0, ErrNotPipelined},
		{"no AckCommand", &Acceptor{}, append(connectFrame(t, false), parked...), 0, ErrNotPipelined},
		{"TLS", &Acceptor{}, []byte{0x16, 3, 1, 0, 0}, 0, ErrNotPipelined},
		{"host in upper case", &Acceptor{}, encode(t, typeConnect, connectCommand{Host: "DB", Port: 1}), 0, nil},
		{"host in upper case, complete", &Acceptor{}, append(encode(t, typeConnect, connectCommand{Host: "DB", Port: 1}), frames.ack...), 0, ErrNotPipelined},
	} {
		tt.a.States = states.States
		r, n, err := tt.a.Pipelined(tt.sent)
		if n != tt.n || !errors.Is(err, tt.err) || (r != nil) != (n > 0) {
			t.Errorf("%s: Pipelined = %v, %d, %v; want %d, %v", tt.name, r, n, err, tt.n, tt.err)
		}
		if r != nil {
			states.want(t, 1, 0, 0)
			var m connectResponse
			if _, err := frames.take(r.Answer(resolved), typeResponse, &m); err != nil || m.Resolved != resolved.String() {
				t.Errorf("answer %+v, %v", m, err)
			}
			states.want(t, 0, 0, 1)
			r.Close()
		}
		states.want(t, 0, 0, 0)
	}
}

// TestSecondAttempt has settings that fail, and others for a second attempt.
func TestSecondAttempt(t *testing.T) {
	c, other := newCerts(t), newCerts(t)
	f := newFar(t, &c)
	good, bad := c.client(), other.client()
	for _, tt := range []struct {
		name          string
		first, second *tls.Config
		address       string
		attempts      int32 // connections
		asked         string
		ok            bool
	}{
		{"good at once", good, bad, f.Address, 1, "first", true},
		{"good then", bad, good, f.Address, 2, "first, again, again", true},
		{"bad then", bad, other.client(), f.Address, 2, "first, again, again", false},
		{"the same", bad, bad, f.Address, 1, "first, again", false},
		{"nobody listens", good, bad, unreachable(t), 0, "first", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := Proxy{Name: "far", Address: tt.address}
			n := newNear(t, &c, Pool{}, p)
			var asked []string
			n.TLS = func(of Proxy, again bool) *tls.Config {
				if of != p {
					t.Errorf("asked for the settings of %v, want %v", of, p)
				}
				if again {
					asked = append(asked, "again")
					return tt.second
				}
				asked = append(asked, "first")
				return tt.first
			}
			before := f.accepted.Load()
			l, err := n.Dial(t.Context(), Want{Session: "s-1", Target: database})
			if got := f.accepted.Load() - before; got != tt.attempts || strings.Join(asked, ", ") != tt.asked {
				t.Errorf("%d attempts, asked %v; want %d, %s", got, asked, tt.attempts, tt.asked)
			}
			if (err == nil) != tt.ok {
				t.Errorf("Dial = %v, want success %v", err, tt.ok)
			}
			if err == nil {
				f.carry(t, l, "", "")
			}
		})
	}
}

// TestRefusalIsExplained has a proxy that does not accept the router's
// certificate, which the router learns in place of the first answer.
func TestRefusalIsExplained(t *testing.T) {
	c, other := newCerts(t), newCerts(t)
	f := newFar(t, &c)
	explained := make(chan error, 1000)
	f.Explain = func(err error) error {
		explained <- err
		return ohrouter.Errorf(ohrouter.Unauthorized, "explained: %v", err)
	}
	n := newNear(t, &c, Pool{Max: 8}, f.Proxy)
	settings := c.client()
	settings.Certificates = []tls.Certificate{other.router}
	n.TLS = always(settings)
	n.Explain = func(err error) error {
		if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "remote error" {
			return ohrouter.Errorf(ohrouter.Unauthorized, "explained")
		}
		return err
	}
	for _, want := range []Want{
		{Session: "s-1", Target: database, Park: true},
		{Session: "s-1", Target: database, Early: ahead("SELECT 1")},
		{Session: "s-1", Target: database, Early: ahead(strings.Repeat("x", 1<<20))}, // more than is taken
	} {
		for range 10 {
			_, err := n.Dial(t.Context(), want)
			if want := "no secure link to proxy far at " + f.Address + ": explained"; ohrouter.Message(err) != want {
				t.Fatalf("Dial = %q (%v), want %q", ohrouter.Message(err), err, want)
			}
			if err := <-explained; err == nil {
				t.Error("the proxy had nothing to explain")
			}
			if s := n.Proxies()[0]; s.State != ohrouter.ProxyDown || s.LastError == nil {
				t.Errorf("proxy %s, %v; want it down", s.State, s.LastError)
			}
		}
	}
	if _, err := n.warm(t.Context(), n.known()[0]); !strings.HasSuffix(ohrouter.Message(err), ": explained") {
		t.Errorf("warm = %v, want it explained", err)
	}
	f.states.gone(t)
}

// TestAttemptAfterARefusal has a proxy refuse what the first settings prove,
// which the router learns when its handshake is over.
func TestAttemptAfterARefusal(t *testing.T) {
	c, other := newCerts(t), newCerts(t)
	f := newFar(t, &c)
	n := newNear(t, &c, Pool{}, f.Proxy)
	first, again := c.client(), c.client()
	first.Certificates = []tls.Certificate{other.router}
	n.TLS = func(_ Proxy, second bool) *tls.Config {
		if second {
			return again
		}
		return first
	}
	n.Explain = func(error) error { return ohrouter.Errorf(ohrouter.Unauthorized, "explained") }
	for i := range 4 {
		l, err := n.Dial(t.Context(), Want{Session: "s-1", Target: database, Early: ahead("SELECT")})
		if (err == nil) != (i%2 == 1) {
			t.Fatalf("attempt %d: %v", i, err)
		}
		if err == nil {
			f.carry(t, l, " 1", "SELECT 1")
		}
	}
}

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
			if err := l.Ack(); err == nil {
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
	if err := l.Ack(); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(l.Conn()); err != nil || string(b) != "bye" {
		t.Errorf("the client gets %q, %v; want the target's last words", b, err)
	}
}

// slowly writes a byte each so often, in simulated time.
func slowly(c net.Conn, every time.Duration) net.Conn { return &slow{c, every} }

type slow struct {
	net.Conn
	every time.Duration
}

func (s *slow) Write(b []byte) (n int, err error) {
	for n < len(b) {
		time.Sleep(s.every) // simulated
		m, err := s.Conn.Write(b[n : n+1])
		if n += m; err != nil {
			return n, err
		}
	}
	return n, nil
}

// TestSecureAcceptDeadline has peers that do not finish their part, of TLS or
// of what is behind it: 5 s is the limit of both together.
func TestSecureAcceptDeadline(t *testing.T) {
	c := newCerts(t)
	client := func(t *testing.T, conn net.Conn) *tls.Conn {
		secure := tls.Client(conn, c.client())
		if err := secure.HandshakeContext(t.Context()); err != nil {
			t.Errorf("handshake: %v", err)
		}
		return secure
	}
	for _, tt := range []struct {
		name string
		peer func(t *testing.T, conn net.Conn)
	}{
		{"silent", func(*testing.T, net.Conn) {}},
		{"half a ClientHello", func(_ *testing.T, conn net.Conn) { conn.Write([]byte{0x16, 3, 1, 0, 200, 1, 0}) }},
		{"a byte of TLS every 50 ms", func(t *testing.T, conn net.Conn) {
			tls.Client(slowly(conn, 50*time.Millisecond), c.client()).HandshakeContext(t.Context())
		}},
		{"silent behind TLS", func(t *testing.T, conn net.Conn) { client(t, conn) }},
		{"silent behind TLS that took 3 s", func(t *testing.T, conn net.Conn) { time.Sleep(3 * time.Second); client(t, conn) }},
		{"half a ConnectCommand", func(t *testing.T, conn net.Conn) { client(t, conn).Write(connectFrame(t, false)[:9]) }},
		{"no AckCommand", func(t *testing.T, conn net.Conn) { client(t, conn).Write(connectFrame(t, false)) }},
		{"a byte a second", func(t *testing.T, conn net.Conn) {
			secure := client(t, conn)
			for _, b := range connectFrame(t, true) {
				time.Sleep(time.Second)
				if _, err := secure.Write([]byte{b}); err != nil {
					return
				}
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				states := newStates()
				a := Acceptor{States: states.States, TLS: c.server()}
				conn, peer := pipe(t)
				var wg sync.WaitGroup
				wg.Go(func() {
					tt.peer(t, peer)
					io.Copy(io.Discard, peer)
				})
				begin := time.Now()
				_, err := a.Accept(t.Context(), conn)
				if took := time.Since(begin); took != Timeout {
					t.Errorf("Accept = %v after %v, want %v", err, took, Timeout)
				}
				if ohrouter.CodeOf(err) != ohrouter.InvalidRequest || !strings.Contains(err.Error(), "in 5s") {
					t.Errorf("Accept = %v, want %s and the time", err, ohrouter.InvalidRequest)
				}
				states.want(t, 0, 0, 0)
				wg.Wait() // the proxy has closed
			})
		})
	}
}

// TestRefusedSecureLinkIsNotKept has a peer that does not go when it is refused.
func TestRefusedSecureLinkIsNotKept(t *testing.T) {
	c, other := newCerts(t), newCerts(t)
	synctest.Test(t, func(t *testing.T) {
		states := newStates()
		a := Acceptor{States: states.States, TLS: c.server()}
		conn, peer := pipe(t)
		settings := c.client()
		settings.Certificates = []tls.Certificate{other.router}
		var wg sync.WaitGroup
		wg.Go(func() {
			time.Sleep(2 * time.Second) // simulated
			tls.Client(peer, settings).HandshakeContext(t.Context())
			io.Copy(io.Discard, peer)
		})
		begin := time.Now()
		if _, err := a.Accept(t.Context(), conn); err == nil || isTimeout(err) {
			t.Errorf("Accept = %v, want why it was refused", err)
		}
		if took := time.Since(begin); took != Timeout {
			t.Errorf("it was kept for %v, want %v from its begin", took, Timeout)
		}
		states.want(t, 0, 0, 0)
		wg.Wait()
	})
}
