package relay

import (
	"crypto/tls"
	"io"
	"net"
	"net/netip"
	"slices"
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

// TestAcceptsInBatches has more connections wait than a loop accepts in a turn.
func TestAcceptsInBatches(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	fd, err := socket.Descriptor(ln.(*net.TCPListener))
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close(fd)
	if err := unix.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	for range 40 {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
	}
	ls := &loops{ends: make([]atomic.Pointer[end], 1<<10), listeners: make([]atomic.Pointer[Listener], fd+1)}
	l, taken := &loop{loops: ls, batch: 1}, 0
	ls.listeners[fd].Store(&Listener{raw: rawListener{fd}, Accept: Accept{
		Accepted: func(c Conn) { taken++; c.Abort() },
	}})
	var got []int
	for _, turn := range []uint64{2, 4, 5, 6, 7, 8, 9, 10} {
		before := taken
		l.turn = turn
		l.accept(int32(fd))
		got = append(got, taken-before)
	}
	if want := []int{1, 1, 2, 4, 8, 16, 8, 0}; !slices.Equal(got, want) {
		t.Errorf("in turns 2 and 4 to 10 it accepted %v, want %v", got, want)
	}
}

// TestWhatIsOverIsClosedLast has sessions wait to be closed while a loop is
// busy.
func TestWhatIsOverIsClosedLast(t *testing.T) {
	l := &loop{loops: &loops{ends: make([]atomic.Pointer[end], 1<<10)}}
	closed := 0
	shut := func(n int) {
		for range n {
			fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			p := &pair{done: enderFunc(func(End) { closed++ })}
			p.loop.Store(l)
			for i := range p.ends {
				p.ends[i] = end{pair: p, fd: fds[i], side: Side(i), eof: true, finished: true, moved: new(atomic.Uint64)}
			}
			p.pump()
			p.ends[A].happened(unix.EPOLLERR) // says nothing any more
			p.pump()
		}
	}
	want := func(n int, when string) {
		t.Helper()
		if closed != n {
			t.Errorf("%s: %d of %d are closed", when, closed, n)
		}
	}
	shut(2)
	for range 3 {
		l.closeShut(1)
	}
	want(0, "after three turns with events")
	l.closeShut(1)
	want(2, "after a fourth one")
	shut(1)
	l.closeShut(0)
	want(3, "after a turn without")
	shut(32)
	l.closeShut(1)
	want(3, "when there are 32")
	shut(1)
	l.shut[0].cut()
	want(4, "when one is cut")
	l.closeShut(1)
	want(36, "when there are more than 32")
	if l.timeout() == 0 {
		t.Error("the loop does not wait although nothing is to be closed")
	}
}
