package link

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	ohrouter "github.com/ohrouter/oh-router"
)

// TestHandshakeTooLarge has peers that announce more of a handshake than there
// is memory for.
func TestHandshakeTooLarge(t *testing.T) {
	c := newCerts(t)
	a := &Acceptor{States: newStates().States, TLS: c.server(), MaxHandshake: 8 << 10}
	refused := make(chan error, 1)
	addr := listen(t, func(ctx context.Context, c *net.TCPConn) {
		_, err := a.Accept(ctx, c)
		refused <- err
	})
	for _, sent := range []string{
		"\x16\x03\x01\x40\x00\x01\x00\xff\xff",
		"\x16\x03\x01\x0f\x00\x01\x00\xff\xff" + strings.Repeat("\x00", 0x0f00-4) + "\x16\x03\x01\x0f\x00",
	} {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, sent); err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(conn); err != nil || len(b) > 0 {
			t.Errorf("who sends %.12q reads %q, %v; want the end", sent, b, err)
		}
		conn.Close()
		if err := <-refused; ohrouter.CodeOf(err) != ohrouter.InvalidRequest || !strings.Contains(ohrouter.Message(err), "4096 bytes") {
			t.Errorf("who sends %.12q is refused with %v, want %s and the limit", sent, err, ohrouter.InvalidRequest)
		}
	}
}

// TestProxyProvesTooMuch is a router that calls something with endless
// certificates.
func TestProxyProvesTooMuch(t *testing.T) {
	c := newCerts(t)
	large := c
	for range 64 {
		large.proxy.Certificate = append(large.proxy.Certificate, c.router.Certificate[0])
	}
	f := newFar(t, &large)
	n := newNear(t, &c, Pool{}, f.Proxy)
	_, err := n.Dial(t.Context(), Want{Session: "s-1", Target: database})
	if ohrouter.CodeOf(err) != ohrouter.ProxyUnreachable || !strings.Contains(err.Error(), "16384 bytes") {
		t.Errorf("Dial = %v, want %s and the limit", err, ohrouter.ProxyUnreachable)
	}
}

// TestPeerWithoutAddress has gone before it was asked for its address: then
// there is none.
func TestPeerWithoutAddress(t *testing.T) {
	c := newCerts(t)
	a := &Acceptor{States: newStates().States, TLS: c.server(), MaxHandshake: 16 << 10}
	refused := make(chan error, 1)
	addr := listen(t, func(ctx context.Context, c *net.TCPConn) {
		_, _ = c.Read(make([]byte, 1)) // its end
		f, err := c.File()
		if err != nil {
			refused <- err
			return
		}
		defer f.Close()
		again, err := net.FileConn(f)
		if err != nil || again.RemoteAddr() != nil {
			refused <- errors.Join(err, errors.New("the peer has an address"))
			return
		}
		_, err = a.Accept(ctx, again)
		refused <- err
	})
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(conn.(*net.TCPConn).SetLinger(0), conn.Close()); err != nil {
		t.Fatal(err)
	}
	if err := <-refused; !errors.Is(err, io.EOF) {
		t.Errorf("Accept = %v, want %v", err, io.EOF)
	}
}
