package relay_test

import (
	"crypto/tls"
	"errors"
	"net"
	"syscall"
	"testing"

	"github.com/ohrouter/oh-router/internal/relay"
	"github.com/ohrouter/oh-router/internal/socket"
)

// held accepts a connection on a single loop. hold has that do nothing, until
// release is called.
func held(t *testing.T, begin func(c relay.Conn)) (near *net.TCPConn, hold func() (release func())) {
	t.Helper()
	e, err := relay.NewEngine(1)
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
