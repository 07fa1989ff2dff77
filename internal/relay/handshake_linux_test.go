package relay_test

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/ohrouter/oh-router/internal/relay"
)

// serving accepts with TLS on an engine's loop, and returns where.
func serving(t *testing.T, o *opened, terms relay.Terms) (at string) {
	t.Helper()
	var live relay.Counters
	terms.Secure = secured(certificate(t), true)
	at, _ = accepting(t, relay.Accept{Accepted: func(c relay.Conn) { c.Serve(terms, o, &live) }})
	return at
}

// failure waits for that of an opening.
func (o *opened) failure(t *testing.T) relay.Failure {
	t.Helper()
	select {
	case f := <-o.failures:
		return f
	case end := <-o.end:
		t.Fatalf("the session ended: %+v", end)
	case <-time.After(deadline):
		t.Fatal("it does not fail")
	}
	return relay.Failure{}
}

// TestSecureRequestIsGivenBack asks for what a loop does not do. Whoever gets the
// connection has all that was said, and the same TLS.
func TestSecureRequestIsGivenBack(t *testing.T) {
	o := newOpened(netip.AddrPort{})
	near := tls.Client(dial(t, serving(t, o, relay.Terms{AskWithin: deadline})), clientSettings())
	other := "x" + request[1:]
	say(t, near, other+"and what is behind it")
	f := o.failure(t)
	if !errors.Is(f.Err, errOther) || f.TLS == nil || string(f.Read) != other {
		t.Fatalf("failed with %v, TLS %v, read %q; want %v, some, %q", f.Err, f.TLS, f.Read, errOther, other)
	}
	conn, err := o.givenUp.TCP()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(deadline))
	expect(t, f.TLS, "and what is behind it")
	say(t, f.TLS, "no")
	expect(t, near, "no")
	say(t, near, "then good-bye")
	expect(t, f.TLS, "then good-bye")
}

func TestHandshakesThatFail(t *testing.T) {
	for _, tt := range []struct {
		name   string
		within time.Duration
		begin  func(t *testing.T, c *net.TCPConn)
		want   func(error) bool
	}{
		{"silence", time.Millisecond, func(*testing.T, *net.TCPConn) {}, func(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }},
		{"half a ClientHello", 200 * time.Millisecond, func(t *testing.T, c *net.TCPConn) {
			say(t, c, "\x16\x03\x01\x02\x00\x01")
		}, func(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }},
		{"no TLS", deadline, func(t *testing.T, c *net.TCPConn) { say(t, c, "GET / HTTP/1.1\r\n\r\n") }, func(err error) bool {
			_, ok := errors.AsType[tls.RecordHeaderError](err)
			return ok
		}},
		{"a FIN at once", deadline, func(_ *testing.T, c *net.TCPConn) { c.CloseWrite() }, func(err error) bool { return errors.Is(err, io.EOF) }},
		{"TLS 1.2", deadline, func(t *testing.T, c *net.TCPConn) {
			go tls.Client(c, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12}).Handshake()
		}, func(err error) bool { return err != nil }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			o := newOpened(netip.AddrPort{})
			at := serving(t, o, relay.Terms{AskWithin: tt.within})
			tt.begin(t, dial(t, at))
			f := o.failure(t)
			o.givenUp.Abort()
			if !tt.want(f.Err) || f.TLS != nil || o.secured.Load() != 0 {
				t.Errorf("failed with %v, TLS %v, told %d times who the peer is", f.Err, f.TLS, o.secured.Load())
			}
		})
	}
}
