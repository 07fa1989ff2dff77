package relay_test

import (
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"github.com/ohrouter/oh-router/internal/relay"
	"github.com/ohrouter/oh-router/internal/socket"
)

// held accepts a connection on a single loop. hold has that do nothing, until
// release is called.
func held(t *testing.T, begin func(c relay.Conn)) (near *net.TCPConn, hold func() (release func())) {
	t.Helper()
	nears, hold := heldAll(t, begin)
	return nears[0], hold
}

// heldAll accepts connections one after the other.
func heldAll(t *testing.T, begin ...func(c relay.Conn)) (nears []*net.TCPConn, hold func() (release func())) {
	t.Helper()
	e, err := relay.NewEngine(1, 0)
	if err != nil {
		t.Fatal(err)
	}
	l, err := socket.Options{}.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n, begun, here, gone := 0, make(chan struct{}), make(chan struct{}), make(chan struct{})
	ln, err := e.Listen(l, relay.Accept{Accepted: func(c relay.Conn) {
		if n++; n <= len(begin) {
			begin[n-1](c)
			begun <- struct{}{}
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
	for range begin {
		nears = append(nears, dial(t, ln.Addr.String()))
		<-begun
	}
	return nears, func() func() {
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

// TestResetBehindTheAnswer has the answer, payload and a reset come at once, also
// when it is writing what the client says that finds the reset.
func TestResetBehindTheAnswer(t *testing.T) {
	for over, secure := range map[string]bool{"tcp": false, "tls": true} {
		for _, more := range []string{"", "more"} {
			t.Run(over+more, func(t *testing.T) {
				ln, at := listening(t)
				o := newOpened(at)
				call := relay.Call{To: at, Hello: []byte(hello), ConnectWithin: deadline, AnswerWithin: deadline}
				cert := certificate(t)
				if secure {
					call.Secure = secured(cert, false)
				}
				near, hold := held(t, func(c relay.Conn) { c.Forward(call, o, new(relay.Counters)) })
				tcp := accepted(t, ln)
				var far net.Conn = tcp
				if secure {
					far = tls.Server(tcp, serverSettings(cert))
				}
				expect(t, far, hello)
				release := hold()
				say(t, near, more) // before the loss: its event is first
				say(t, far, answer+"payload")
				socket.Abort(tcp)
				release()
				if end := o.ending(t); end.Side != relay.B || !errors.Is(end.Err, syscall.ECONNRESET) {
					t.Errorf("ended: %+v", end)
				}
				expect(t, near, "payload")
				if _, err := near.Read(make([]byte, 1)); !isReset(err) {
					t.Errorf("behind the payload: %v", err)
				}
			})
		}
	}
}

// ending returns the end of a session, which has to have begun.
func (o *opened) ending(t *testing.T) relay.End {
	t.Helper()
	select {
	case end := <-o.end:
		return end
	case f := <-o.failures:
		o.givenUp.Abort()
		t.Fatalf("there was no session: %v", f.Err)
		return relay.End{}
	}
}

// TestLastWordsOfATarget has what is connected to say something, or nothing, and
// reset the connection before its loop looks whether there is one: the session
// stood, and has what it has said.
func TestLastWordsOfATarget(t *testing.T) {
	for _, words := range []string{"421 too many", ""} {
		ln, at := listening(t)
		first, second := newOpened(at), newOpened(at)
		connected, looks := make(chan struct{}), make(chan struct{})
		second.asked = func() { close(connected); <-looks } // right behind the connect of the first one
		serve := func(o *opened) func(relay.Conn) {
			return func(c relay.Conn) { c.Serve(relay.Terms{AskWithin: deadline}, o, new(relay.Counters)) }
		}
		nears, hold := heldAll(t, serve(first), serve(second))
		near, other := nears[0], nears[1]
		release := hold()
		say(t, near, request)
		say(t, other, request)
		release()
		<-connected
		far := accepted(t, ln)
		say(t, far, words)
		socket.Abort(far)
		close(looks)
		if end := first.ending(t); end.Side != relay.B || !errors.Is(end.Err, syscall.ECONNRESET) {
			t.Errorf("%q: ended: %+v, want the target to have reset it", words, end)
		}
		expect(t, near, answer+words)
	}
}

// TestAlertBehindAHandshake has who is called refuse the certificate, which it
// says when the other side's handshake is over, and reset the connection.
func TestAlertBehindAHandshake(t *testing.T) {
	ln, at := listening(t)
	o, cert := newOpened(at), certificate(t)
	call := relay.Call{To: at, Hello: []byte(hello), ConnectWithin: deadline, AnswerWithin: deadline, Secure: secured(cert, false)}
	_, hold := held(t, func(c relay.Conn) { c.Forward(call, o, new(relay.Counters)) })
	tcp := accepted(t, ln)
	settings, release := serverSettings(cert), func() {}
	settings.VerifyConnection = func(tls.ConnectionState) error {
		release = hold()
		return errors.New("not this one")
	}
	if err := tls.Server(tcp, settings).Handshake(); err == nil {
		t.Error("the handshake is complete")
	}
	socket.Abort(tcp)
	release()
	f := o.failure(t)
	o.givenUp.Abort()
	if _, ok := errors.AsType[tls.AlertError](f.Err); !ok && !strings.Contains(f.Err.Error(), "bad certificate") {
		t.Errorf("failed with %v, want the alert", f.Err)
	}
}

// TestResetBeforeTheAnswer is told as what it is.
func TestResetBeforeTheAnswer(t *testing.T) {
	ln, at := listening(t)
	o := newOpened(at)
	call := relay.Call{To: at, Hello: []byte(hello), ConnectWithin: deadline, AnswerWithin: deadline}
	_, hold := held(t, func(c relay.Conn) { c.Forward(call, o, new(relay.Counters)) })
	far := accepted(t, ln)
	expect(t, far, hello)
	release := hold()
	socket.Abort(far)
	release()
	f := o.failure(t)
	o.givenUp.Abort()
	if !errors.Is(f.Err, syscall.ECONNRESET) {
		t.Errorf("failed with %v, want %v", f.Err, syscall.ECONNRESET)
	}
}
