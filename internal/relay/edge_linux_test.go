package relay

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ohrouter/oh-router/internal/socket"
)

// asker asks for a connection to an address, whatever it is told.
type asker struct {
	to                       netip.AddrPort
	asked, connected, failed chan struct{}
	ended                    chan End
}

func newAsker(to netip.AddrPort) *asker {
	return &asker{to, make(chan struct{}), make(chan struct{}), make(chan struct{}), make(chan End, 1)}
}

func (s *asker) Asked(b []byte) (int, Way, error) {
	close(s.asked)
	return len(b), Way{To: s.to, ConnectWithin: time.Minute}, nil
}

func (s *asker) Secured(tls.ConnectionState) error { return nil }

func (s *asker) Connected() []byte              { close(s.connected); return []byte("connected") }
func (s *asker) Answered(b []byte) (int, error) { return len("answer"), nil }
func (s *asker) Ended(e End)                    { s.ended <- e }
func (s *asker) Failed(a Conn, _ Failure)       { a.Abort(); close(s.failed) }

// accepting returns a listener of an engine.
func accepting(t *testing.T, e *Engine, accepted func(Conn)) *Listener {
	t.Helper()
	l, err := socket.Options{}.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln, err := e.Listen(l, Accept{Log: slog.New(slog.DiscardHandler), Accepted: accepted})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	t.Cleanup(ln.Close)
	return ln
}

func engine(t *testing.T) *Engine {
	t.Helper()
	e, err := NewEngine(1, 0)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func dial(t *testing.T, at string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(30 * time.Second))
	return c
}

// An event of a descriptor's former owner must not tell its new one that it is
// connected.
func TestEventOfAFormerOwner(t *testing.T) {
	full, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(full)
	if err := unix.Bind(full, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(full, 0); err != nil {
		t.Fatal(err)
	}
	for range 3 { // nobody accepts: who is behind the first waits for ever
		fd, err := socket.Options{}.Connect(socket.LocalAt(full), socket.Either)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
	}
	s, sessions := newAsker(socket.LocalAt(full)), make(chan Session, 1)
	ln := accepting(t, engine(t), func(c Conn) {
		sessions <- c.Serve(Terms{AskWithin: time.Minute}, s, new(Counters))
	})
	if _, err := io.WriteString(dial(t, ln.Addr.String()), "request"); err != nil {
		t.Fatal(err)
	}
	x := <-sessions
	defer x.Cut()
	<-s.asked
	p, done := x.(rawSession).pair, make(chan struct{})
	p.on().order(func() {
		defer close(done)
		fd := int32(p.ends[B].fd)
		p.on().happened(&unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLRDHUP, Fd: fd, Pad: p.ends[B].serial - 1})
	})
	<-done
	select {
	case <-s.connected:
		t.Error("the router is told that a target is connected which is not")
	default:
	}
}

// The answer, payload and a reset are all there when the loop looks next.
func TestAnswerWithAReset(t *testing.T) {
	far, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	to := far.Addr().(*net.TCPAddr).AddrPort()
	s, live := newAsker(to), new(Counters)
	first, held, release := true, make(chan struct{}), make(chan struct{})
	ln := accepting(t, engine(t), func(c Conn) {
		if first {
			first = false
			c.Forward(Call{To: to, Hello: []byte("hello"), ConnectWithin: time.Minute, AnswerWithin: time.Minute}, s, live)
			return
		}
		close(held)
		<-release // the loop does nothing else meanwhile
		c.Abort()
	})
	client := dial(t, ln.Addr.String())
	c, err := far.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, len("hello"))); err != nil {
		t.Fatal(err)
	}
	dial(t, ln.Addr.String())
	<-held
	if _, err := io.WriteString(c, "answerpayload"); err != nil {
		t.Fatal(err)
	}
	socket.Abort(c)
	close(release)
	got := make([]byte, len("payload"))
	if _, err := io.ReadFull(client, got); err != nil || string(got) != "payload" {
		t.Errorf("the client reads %q and %v, want what came before the reset", got, err)
	}
	select {
	case end := <-s.ended:
		if end.Side != B || end.Err == nil {
			t.Errorf("the session ended as %+v, want a reset of its side B", end)
		}
	case <-s.failed:
		t.Error("a session that was answered counts as one that failed")
	}
}

// A descriptor for which the loops have no place is left to goroutines.
func TestDescriptorBeyondTheTable(t *testing.T) {
	e := engine(t)
	limit, err := unix.Dup(2)
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(limit)
	limit += 16
	e.loops.ends = e.loops.ends[:limit] // before a loop has looked there
	conns := make(chan Conn, 1)
	ln := accepting(t, e, func(c Conn) { conns <- c })
	for fd := 0; fd < limit; { // all below are taken
		if fd, err = unix.Dup(2); err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
	}
	dial(t, ln.Addr.String())
	c := <-conns
	defer c.Abort()
	if c.OnLoop() {
		t.Error("the connection is on a loop that has no place for it")
	}
}

// Each loop may watch a listener, and the kernel lets as many as there may be.
func TestMaxLoops(t *testing.T) {
	e, err := NewEngine(MaxLoops, 0)
	if err != nil {
		t.Fatal(err)
	}
	accepted := make(chan struct{})
	ln := accepting(t, e, func(c Conn) {
		close(accepted)
		c.Abort()
	})
	place(ln, e.loops.all[0], true)
	if n := len(watching(t, ln)); n != MaxLoops {
		t.Errorf("%d of %d loops watch a listener", n, MaxLoops)
	}
	if c, err := net.Dial("tcp", ln.Addr.String()); err == nil { // it may be reset already
		c.Close()
	}
	<-accepted
}

// What a session is in the books of a loop is most of what an idle one costs. Go
// gives objects of more than 288 bytes 320.
func TestPairIsSmall(t *testing.T) {
	if size := unsafe.Sizeof(pair{}); size > 288 {
		t.Errorf("a pair has %d bytes", size)
	}
}

// An engine tells how many descriptors it may need for itself.
func TestEngineDescriptors(t *testing.T) {
	const n = 3
	accepting(t, engine(t), func(Conn) {}) // what Go's poller needs is there
	before := anonymous(t)
	e, err := NewEngine(n, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if got := anonymous(t) - before; got != n*ofLoop {
		t.Errorf("%d loops have %d descriptors, want %d", n, got, n*ofLoop)
	}
	if got, least := e.Descriptors(), n*ofLoop+2*maxPipes(); got < least || got > socket.Limit()/4 {
		t.Errorf("Descriptors() = %d, want %d at least, and not most of %d", got, least, socket.Limit())
	}
}

// anonymous returns how many descriptors of the process are neither files nor
// sockets.
func anonymous(t *testing.T) (n int) {
	t.Helper()
	links, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if what, _ := os.Readlink(link); strings.HasPrefix(what, "anon_inode:") {
			n++
		}
	}
	return n
}

// place does so on the goroutine of a loop.
func place(ln *Listener, l *loop, busy bool) {
	done := make(chan struct{})
	l.order(func() {
		ln.place(l, busy)
		close(done)
	})
	<-done
}

// watching returns the loops that watch a listener.
func watching(t *testing.T, ln *Listener) (ls []*loop) {
	t.Helper()
	for _, l := range ln.engine.loops.all {
		info, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", l.epoll)) // proc_pid_fdinfo(5)
		if err != nil {
			t.Fatal(err)
		}
		if regexp.MustCompile(fmt.Sprintf(`(?m)^tfd: +%d `, ln.raw.fd)).Match(info) {
			ls = append(ls, l)
		}
	}
	return ls
}

func TestListenerAtHome(t *testing.T) {
	e, err := NewEngine(3, 0)
	if err != nil {
		t.Fatal(err)
	}
	ln := accepting(t, e, func(c Conn) { c.Abort() })
	all := e.loops.all
	want := func(when string, want ...*loop) {
		t.Helper()
		if got := watching(t, ln); !slices.Equal(got, want) {
			t.Errorf("%s: %d loops watch it, or others, want %d", when, len(got), len(want))
		}
	}
	later := func() {
		ln.mu.Lock()
		defer ln.mu.Unlock()
		ln.raw.needed = ln.raw.needed.Add(-spreadFor)
	}
	want("at first", ln.raw.home)
	place(ln, all[0], false)
	want("accepted without haste", ln.raw.home)
	place(ln, all[1], true)
	want("too busy", all...)
	place(ln, all[2], false)
	want("a moment later", all...)
	later()
	place(ln, all[1], true)
	want("too busy again", all...)
	place(ln, all[2], false)
	want("a moment later", all...)
	later()
	place(ln, all[2], false)
	want("much later", all[2])
	place(ln, all[2], true)
	want("too busy", all...)
	ln.mu.Lock()
	ln.pause()
	ln.mu.Unlock()
	want("paused")
	place(ln, all[0], true) // it was told before
	want("paused")
	ln.resume()
	want("resumed", all[2])
	ln.Close()
	place(ln, all[0], true)
	want("closed")
	if ln.raw.spread {
		t.Error("closed: it is with all loops")
	}
}

// A session that has more to do at once is moved like others, and goes on there.
func TestSettleInBulk(t *testing.T) {
	e, err := NewEngine(2, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	tcp := func() (near, far net.Conn) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		far = dial(t, ln.Addr().String())
		if near, err = ln.Accept(); err != nil {
			t.Fatal(err)
		}
		return near, far
	}
	a, from := tcp()
	b, to := tcp()
	ended := make(chan End, 1)
	s := e.Start(a, b, new(Counters), func(end End) { ended <- end })
	p, moved := s.(rawSession).pair, make(chan struct{})
	l := p.on()
	l.order(func() {
		defer close(moved)
		p.ends[A].held, p.ends[A].rest = 5, bytes.NewBufferString("hello")
		p.queued = true
		l.busy = append(l.busy, p)
		l.standing.Add(2)
		l.settle(young{pair: p})
		l.standing.Add(-2)
		if p.on() == l || len(l.busy) > 0 {
			t.Error("it stays")
		}
	})
	<-moved
	got := make([]byte, 5)
	if _, err := io.ReadFull(to, got); err != nil || string(got) != "hello" {
		t.Fatalf("got %q, %v, want %q", got, err, "hello")
	}
	stream := make([]byte, 4*turnBytes) // more than goes in a turn
	rand.NewChaCha8([32]byte{}).Read(stream)
	go func() {
		_, _ = from.Write(stream)
		_ = from.(*net.TCPConn).CloseWrite()
	}()
	if got, err := io.ReadAll(to); err != nil || !bytes.Equal(got, stream) {
		t.Errorf("got %d bytes, %v, want %d", len(got), err, len(stream))
	}
	_ = to.Close()
	<-ended
}

// TestLosingIsNotLookedAtInEachTurn has a session lose an end while the other
// takes nothing.
func TestLosingIsNotLookedAtInEachTurn(t *testing.T) {
	e, err := NewEngine(1, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	far, near := make(chan net.Conn, 1), make(chan *pair, 1)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, _ := l.Accept()
		far <- c
	}()
	s := newAsker(l.Addr().(*net.TCPAddr).AddrPort())
	ln := accepting(t, e, func(c Conn) {
		near <- c.Forward(Call{To: s.to, ConnectWithin: time.Minute, AnswerWithin: time.Minute}, s, new(Counters)).(rawSession).pair
	})
	a, err := net.Dial("tcp", ln.Addr.String())
	if err != nil {
		t.Fatal(err)
	}
	b, p := <-far, <-near
	defer b.Close()
	fmt.Fprint(b, "answer")
	a.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
	a.Write(make([]byte, 64<<20)) // more than anybody takes
	socket.Abort(a)
	lo := p.on()
	do := func(f func()) {
		done := make(chan struct{})
		lo.order(func() { f(); close(done) })
		<-done
	}
	for looked := false; !looked && len(s.ended) == 0; {
		do(func() { looked = !lo.losing[p].next.IsZero() })
	}
	unlooked := new(pair) // who looked at it would find no loop
	do(func() { lo.losing[unlooked] = losing{next: lo.now.Add(time.Minute)} })
	for range 10 {
		do(func() {})
	}
	do(func() { delete(lo.losing, unlooked) })
	rawSession{p}.Cut()
	<-s.ended
}
