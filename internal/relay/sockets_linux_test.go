package relay_test

import (
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ohrouter/oh-router/internal/relay"
	"github.com/ohrouter/oh-router/internal/socket"
	"github.com/ohrouter/oh-router/internal/sysctl"
)

// Each end of a session that an engine opens has the options of its leg.
func TestSocketsOfASession(t *testing.T) {
	accepts := socket.Options{DeadAfter: 7 * time.Second}
	leads := socket.Options{Congestion: another(t), DeadAfter: 14 * time.Second}
	for _, tt := range []struct {
		name        string
		first, last string // what is said to have the session stand, and heard back
		begin       func(c relay.Conn, o *opened, live *relay.Counters) relay.Session
	}{
		{"forwarded", "", "", func(c relay.Conn, o *opened, live *relay.Counters) relay.Session {
			return c.Forward(relay.Call{To: o.to, Hello: []byte(hello), ConnectWithin: deadline, AnswerWithin: deadline, Sockets: leads}, o, live)
		}},
		{"served", request, answer, func(c relay.Conn, o *opened, live *relay.Counters) relay.Session {
			return c.Serve(relay.Terms{AskWithin: deadline, Sockets: leads}, o, live)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := &fixture{t: t, end: make(chan relay.End, 1)}
			ln, at := listening(t)
			o, session := newOpened(at), make(chan relay.Session, 1)
			addr, _ := acceptingOn(t, accepts, relay.Accept{Accepted: func(c relay.Conn) { session <- tt.begin(c, o, &f.live) }})
			near := dial(t, addr)
			say(t, near, tt.first)
			far := accepted(t, ln)
			if tt.name == "forwarded" {
				expect(t, far, hello)
				say(t, far, answer)
			}
			expect(t, near, tt.last)
			s := <-session
			o.follow(t, f, s)
			fds := relay.Descriptors(s)
			if is, err := unix.GetsockoptString(fds[relay.B], unix.IPPROTO_TCP, unix.TCP_CONGESTION); leads.Congestion != "" && is != leads.Congestion {
				t.Errorf("TCP_CONGESTION of B = %q, %v, want %q", is, err, leads.Congestion)
			}
			if is, err := unix.GetsockoptString(fds[relay.A], unix.IPPROTO_TCP, unix.TCP_CONGESTION); is == leads.Congestion || err != nil {
				t.Errorf("TCP_CONGESTION of A = %q, %v, want the system's", is, err)
			}
			wantInt(t, s, relay.A, unix.TCP_NODELAY, 1) // else small writes wait 40 ms
			wantInt(t, s, relay.B, unix.TCP_NODELAY, 1)
			wantInt(t, s, relay.A, unix.TCP_USER_TIMEOUT, 7000)
			wantInt(t, s, relay.A, unix.TCP_KEEPIDLE, 2)
			wantInt(t, s, relay.B, unix.TCP_USER_TIMEOUT, 14_000)
			wantInt(t, s, relay.B, unix.TCP_KEEPIDLE, 4)
		})
	}
}

// wantInt waits until an option of a session's end is what it should be: some
// are set when the session has lasted a moment.
func wantInt(t testing.TB, s relay.Session, side relay.Side, option, want int) {
	t.Helper()
	got := -1
	for end := time.Now().Add(deadline); got != want && time.Now().Before(end); {
		var err error
		if got, err = unix.GetsockoptInt(relay.Descriptors(s)[side], unix.IPPROTO_TCP, option); err != nil {
			t.Fatal(err)
		}
	}
	if got != want {
		t.Errorf("option %d of end %d = %d, want %d", option, side, got, want)
	}
}

// another returns a congestion control that is not the system's, "" if there is
// none to be had.
func another(t testing.TB) string {
	t.Helper()
	own := strings.Join(sysctl.Fields("net.ipv4.tcp_congestion_control"), "")
	for _, name := range []string{"reno", "cubic"} { // reno is everywhere, and for everybody
		if name != own && socket.CheckCongestion(name) == nil {
			return name
		}
	}
	return ""
}

// Connections have what their listener is told of acknowledgements.
func TestAckLate(t *testing.T) {
	for _, late := range []bool{false, true} {
		accepted := make(chan *net.TCPConn, 1)
		addr, _ := acceptingOn(t, socket.Options{}, relay.Accept{AckLate: late, Accepted: func(c relay.Conn) {
			tc, err := c.TCP()
			if err != nil {
				t.Error(err)
			}
			accepted <- tc
		}})
		dial(t, addr)
		c := <-accepted
		defer socket.Abort(c)
		fd, err := socket.Descriptor(c)
		if err != nil {
			t.Fatal(err)
		}
		defer socket.Close(fd)
		if quick, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_QUICKACK); err != nil || (quick == 0) != late {
			t.Errorf("with AckLate %v TCP_QUICKACK is %d, %v", late, quick, err)
		}
	}
}
