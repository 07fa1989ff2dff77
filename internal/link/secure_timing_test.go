package link

import (
	"crypto/tls"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
)

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
