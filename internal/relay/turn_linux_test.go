package relay

import (
	"crypto/tls"
	"io"
	"net/netip"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ohrouter/oh-router/internal/socket"
)

// TestOneHandshakeInATurn has a source with many handshakes that have something
// to read, and another with one, which comes last.
func TestOneHandshakeInATurn(t *testing.T) {
	l := &loop{loops: &loops{ends: make([]atomic.Pointer[end], 1)}}
	begun := 0
	add := func(from string) *pair {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { socket.Close(fds[0]); socket.Close(fds[1]) })
		p := &pair{opening: &opening{asker: newAsker(netip.AddrPort{}), a: Conn{Remote: netip.MustParseAddrPort(from)}}}
		p.opening.secure = func(raw io.ReadWriter) *tls.Conn {
			begun++
			c := socket.NewTransport(nil)
			c.TakeOver(raw)
			return tls.Server(c, &tls.Config{})
		}
		p.loop.Store(l)
		p.ends[A] = end{pair: p, fd: fds[0], side: A, watched: true, readable: true}
		p.ends[B] = end{pair: p, fd: -1, side: B}
		t.Cleanup(p.giveUpShaking)
		p.lineUp(&p.ends[A])
		p.lineUp(&p.ends[A]) // it is in the line already
		return p
	}
	for range 3 {
		add("10.0.0.1:1")
	}
	other := add("10.0.0.2:1")
	for turn := 1; turn <= 4; turn++ {
		l.shakeNext()
		if begun != turn || l.shaking.Len() != 4-turn {
			t.Fatalf("after %d turns %d handshakes have begun, and %d wait", turn, begun, l.shaking.Len())
		}
		if soon := other.ends[A].secure != nil; soon != (turn >= 2) {
			t.Errorf("after %d turns the other source had its turn: %v", turn, soon)
		}
	}
	if l.shakeNext(); begun != 4 {
		t.Errorf("%d handshakes have begun, of 4", begun)
	}
}
