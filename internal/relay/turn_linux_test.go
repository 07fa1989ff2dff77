package relay

import (
	"crypto/tls"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

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
	ls.all = []*loop{l}
	ls.listeners[fd].Store(&Listener{raw: rawListener{fd: fd}, Accept: Accept{
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
	l.turn, l.accepted, l.batch = 20, 19, 2
	for range 6 {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
	}
	for _, want := range []int{4, 1, 1} { // as of three listeners
		before := taken
		if l.accept(int32(fd)); taken-before != want {
			t.Errorf("in one turn it accepted %d, want %d", taken-before, want)
		}
	}
}

// TestBusyLoopsAcceptTogether has a connection come to a loop that is busy, in one
// way or the other.
func TestBusyLoopsAcceptTogether(t *testing.T) {
	for name, tt := range map[string]struct {
		busy     func(*loop)
		accepted int // by this loop, which leaves it to another first if that is new to it
		spread   bool
	}{
		"not at all":    {func(*loop) {}, 1, false},
		"accepting":     {func(l *loop) { l.accepted = l.turn - 1 }, 0, true},
		"long ago":      {func(l *loop) { l.accepted = l.turn - 2 }, 1, false},
		"with bulk":     {func(l *loop) { l.busy = []*pair{nil} }, 0, true},
		"with TLS":      {func(l *loop) { l.shaking.Push(netip.Addr{}, nil) }, 0, true},
		"with a lot":    {func(l *loop) { l.worked = 2 * longTurn }, 0, true},
		"with a little": {func(l *loop) { l.worked = longTurn }, 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			e := &Engine{}
			ls := &e.loops
			ls.ends, ls.listeners = make([]atomic.Pointer[end], 1<<10), make([]atomic.Pointer[Listener], 1<<10)
			for range 2 {
				l, err := newLoop(ls)
				if err != nil {
					t.Fatal(err)
				}
				defer l.free()
				ls.all = append(ls.all, l)
			}
			tcp, err := socket.Options{}.Listen(t.Context(), "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			accepted := 0
			ln, err := e.Listen(tcp, Accept{Accepted: func(c Conn) { accepted++; c.Abort() }})
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			c, err := net.Dial("tcp", ln.Addr.String())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = c.Close() }()
			l := ln.raw.home
			l.turn = 100
			tt.busy(l)
			l.accept(int32(ln.raw.fd))
			if accepted != tt.accepted || ln.raw.spread != tt.spread {
				t.Errorf("it accepted %d, and all watch the listener: %v", accepted, ln.raw.spread)
			}
			l.turn++
			l.accept(int32(ln.raw.fd))
			if accepted != 1 {
				t.Errorf("in the next turn %d were accepted, of 1", accepted)
			}
			l.turn++
			if l.accept(int32(ln.raw.fd)); l.accepted != 0 {
				t.Error("a turn in which there was nothing to accept counts as one")
			}
		})
	}
}

// TestWhatIsOverIsClosedLast has descriptors wait to be closed while a loop is
// busy with other things.
func TestWhatIsOverIsClosedLast(t *testing.T) {
	l := &loop{loops: &loops{ends: make([]atomic.Pointer[end], 1<<10), maxShut: maxShut}, now: time.Now()}
	ended := 0
	over := func(n int) {
		for range n {
			fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			p := &pair{live: new(Counters), done: enderFunc(func(End) { ended++ })}
			p.loop.Store(l)
			for i := range p.ends {
				p.ends[i] = end{pair: p, fd: fds[i], side: Side(i), eof: true, finished: true}
				l.ends[fds[i]].Store(&p.ends[i])
			}
			p.pump()
			if l.ends[fds[0]].Load() != nil || !p.over {
				t.Error("a session that is over has events yet")
			}
		}
	}
	want := func(n int, when string) {
		t.Helper()
		if len(l.shut) != 2*n {
			t.Errorf("%s: %d descriptors wait, want %d", when, len(l.shut), 2*n)
		}
	}
	over(2)
	if ended != 2 {
		t.Errorf("%d sessions are accounted for before they are closed, of 2", ended)
	}
	l.closeShut(1)
	want(2, "after a turn with events")
	if l.timeout() != 0 {
		t.Error("the loop waits although there is something to close")
	}
	l.closeShut(0)
	want(0, "after a turn without")
	over(1)
	l.now = l.now.Add(shutBy)
	over(1)
	l.closeShut(1)
	want(0, "after a millisecond")
	over(maxShut / 2)
	l.closeShut(1)
	want(maxShut/2, "when there are as many as may be")
	over(1)
	l.closeShut(1)
	want(0, "when there are more")
	over(1)
	l.busy = []*pair{{}}
	l.closeShut(1)
	want(0, "while there is bulk")
}
