package relay_test

import (
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"

	"github.com/ohrouter/oh-router/internal/relay"
	"github.com/ohrouter/oh-router/internal/socket"
)

// held accepts a connection on a single loop. hold has that do nothing, until
// release is called.
func held(t *testing.T, begin func(c relay.Conn)) (near *net.TCPConn, hold func() (release func())) {
	t.Helper()
	e, err := relay.NewEngine(1, 0)
	if err != nil {
		t.Fatal(err)
	}
	l, err := socket.Options{}.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	first, here, gone := true, make(chan struct{}), make(chan struct{})
	ln, err := e.Listen(l, relay.Accept{Accepted: func(c relay.Conn) {
		if first {
			first = false
			begin(c)
			return
		}
		close(here)
		<-gone
		c.Abort()
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ln.Close()
		e.Close()
	})
	return dial(t, ln.Addr.String()), func() func() {
		dial(t, ln.Addr.String())
		<-here
		return func() { close(gone) }
	}
}

// TestLastWordsOfAHandshake has a peer say something and reset the connection
// before its loop looks: what it has said tells why.
func TestLastWordsOfAHandshake(t *testing.T) {
	for name, words := range map[string]string{"words": "HTTP/1.1 400 Bad Request\r\n\r\n", "silence": ""} {
		right := func(err error) bool {
			_, ok := errors.AsType[tls.RecordHeaderError](err)
			return ok && words != "" || errors.Is(err, syscall.ECONNRESET) && words == ""
		}
		t.Run("who asks/"+name, func(t *testing.T) {
			o := newOpened(netip.AddrPort{})
			near, hold := held(t, func(c relay.Conn) {
				c.Serve(relay.Terms{AskWithin: deadline, Secure: secured(certificate(t), true)}, o, new(relay.Counters))
			})
			release := hold()
			say(t, near, words)
			socket.Abort(near)
			release()
			if words == "" {
				if end := <-o.end; end.Side != relay.A || !right(end.Err) {
					t.Errorf("ended: %+v", end)
				}
				return
			}
			f := o.failure(t)
			o.givenUp.Abort()
			if !right(f.Err) {
				t.Errorf("failed with %v", f.Err)
			}
		})
		t.Run("who is called/"+name, func(t *testing.T) {
			ln, at := listening(t)
			o := newOpened(at)
			call := relay.Call{To: at, Hello: []byte(hello), ConnectWithin: deadline, AnswerWithin: deadline, Secure: secured(certificate(t), false)}
			_, hold := held(t, func(c relay.Conn) { c.Forward(call, o, new(relay.Counters)) })
			far := accepted(t, ln)
			expect(t, far, "\x16\x03\x01")
			release := hold()
			say(t, far, words)
			socket.Abort(far)
			release()
			f := o.failure(t)
			o.givenUp.Abort()
			if !right(f.Err) {
				t.Errorf("failed with %v", f.Err)
			}
		})
	}
}

// TestResetBehindAHandshake has the end of a handshake, a request and a reset
// come at once.
func TestResetBehindAHandshake(t *testing.T) {
	o := newOpened(netip.AddrPort{})
	tcp, hold := held(t, func(c relay.Conn) {
		c.Serve(relay.Terms{AskWithin: deadline, Secure: secured(certificate(t), true)}, o, new(relay.Counters))
	})
	settings, release := clientSettings(), func() {}
	settings.VerifyConnection = func(tls.ConnectionState) error {
		release = hold()
		return nil
	}
	say(t, tls.Client(tcp, settings), request)
	socket.Abort(tcp)
	release()
	if end := <-o.end; end.Side != relay.A || !errors.Is(end.Err, syscall.ECONNRESET) {
		t.Errorf("ended: %+v", end)
	}
}

// TestResetBehindTheAnswer has the answer, payload and a reset come at once.
func TestResetBehindTheAnswer(t *testing.T) {
	for _, over := range []string{"tcp", "tls"} {
		t.Run(over, func(t *testing.T) {
			ln, at := listening(t)
			o := newOpened(at)
			call := relay.Call{To: at, Hello: []byte(hello), ConnectWithin: deadline, AnswerWithin: deadline}
			cert := certificate(t)
			if over == "tls" {
				call.Secure = secured(cert, false)
			}
			near, hold := held(t, func(c relay.Conn) { c.Forward(call, o, new(relay.Counters)) })
			tcp := accepted(t, ln)
			var far net.Conn = tcp
			if over == "tls" {
				far = tls.Server(tcp, serverSettings(cert))
			}
			expect(t, far, hello)
			release := hold()
			say(t, far, answer+"payload")
			socket.Abort(tcp)
			release()
			expect(t, near, "payload")
			if _, err := near.Read(make([]byte, 1)); !isReset(err) {
				t.Errorf("behind the payload: %v", err)
			}
			if end := <-o.end; end.Side != relay.B || !errors.Is(end.Err, syscall.ECONNRESET) {
				t.Errorf("ended: %+v", end)
			}
		})
	}
}
