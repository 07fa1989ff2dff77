//go:build linux

package conformance

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// number reads a metric's value.
func number(t testing.TB, s string) float64 {
	t.Helper()
	v, err := strconv.ParseFloat(s, 64)
	if err != nil {
		t.Errorf("metric's value %q: %v", s, err)
	}
	return v
}

// flood is a target that writes zeroes without end and counts them.
func flood(t testing.TB) (*target, *atomic.Int64) {
	t.Helper()
	written := new(atomic.Int64)
	return serve(t, func(c *net.TCPConn) {
		for b := make([]byte, 64<<10); ; {
			n, err := c.Write(b)
			written.Add(int64(n))
			if err != nil {
				return
			}
		}
	}), written
}

// awaitStall waits until a counter has not moved for a while, and returns it.
func awaitStall(t testing.TB, count *atomic.Int64) int64 {
	t.Helper()
	last, since := count.Load(), time.Now()
	eventually(t, 3*soon, func() error {
		if now := count.Load(); now != last {
			last, since = now, time.Now()
		}
		if last == 0 || time.Since(since) < 700*time.Millisecond {
			return fmt.Errorf("the writer goes on after %d bytes, want it blocked", last)
		}
		return nil
	})
	return last
}

// A client that does not read stops the target, and costs no memory here.
func TestBackPressure(t *testing.T) {
	s := start(t, flags{})
	tg, written := flood(t)
	b := s.bind(t, tg.addr, fields{"check": false})
	routerRSS, proxyRSS := s.router.rss(t), s.proxy.rss(t)
	const clients = 10
	var conns []*net.TCPConn
	for range clients {
		conns = append(conns, connect(t, b.Address))
	}
	// Each of the six sockets on the way has a buffer of its own, in the kernel.
	if got := awaitStall(t, written); got > clients*48<<20 {
		t.Errorf("target wrote %d MB that nobody reads, want less than %d", got>>20, clients*48)
	}
	if !raceEnabled {
		wantGrowth(t, "router", routerRSS, s.router.rss(t), 24<<20)
		wantGrowth(t, "proxy", proxyRSS, s.proxy.rss(t), 24<<20)
	}
	// The stall is no end: it goes on when the client reads.
	for _, c := range conns {
		if _, err := io.CopyN(io.Discard, c, 64<<20); err != nil {
			t.Fatalf("read on after the stall: %v", err)
		}
		c.Close()
	}
	s.awaitSessions(t, 0)
}

// wantGrowth fails the test if memory grew by more than most bytes.
func wantGrowth(t testing.TB, who string, before, after, most int) {
	t.Helper()
	t.Logf("%s grew by %d KB", who, (after-before)>>10)
	if after-before > most {
		t.Errorf("%s grew by %d KB, want at most %d", who, (after-before)>>10, most>>10)
	}
}

// One session's blocked reader is no other session's trouble.
func TestSlowReaderDelaysNobody(t *testing.T) {
	t.Parallel()
	s := start(t, flags{})
	tg, written := flood(t)
	blocked := s.bind(t, tg.addr, fields{"check": false})
	for range 20 {
		connect(t, blocked.Address)
	}
	quick := s.bind(t, serve(t, echo).addr)
	awaitStall(t, written)
	start := time.Now()
	if err := passBothWays(connect(t, quick.Address), 8, 16<<20); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > soon {
		t.Errorf("16 MB beside blocked readers took %v, want less than %v", took, soon)
	}
}

func TestIdleSessionsAreCheap(t *testing.T) {
	big(t)
	s := start(t, flags{})
	b := s.bind(t, serve(t, echo).addr)
	wantEcho(t, connect(t, b.Address)) // what the first session allocates is not counted
	const sessions = 2000
	fds := [2]int{s.router.descriptors(t), s.proxy.descriptors(t)}
	rss := [2]int{s.router.rss(t), s.proxy.rss(t)}
	var conns []*net.TCPConn
	for i := range sessions {
		c := connect(t, b.Address)
		if err := exchange(c); err != nil {
			t.Fatalf("session %d: %v", i, err)
		}
		conns = append(conns, c)
	}
	for i, p := range []*process{s.router, s.proxy} {
		// A pipe that is still warm is no leak; it must not be one for each session.
		awaitDescriptors(t, p, fds[i]+2*sessions+64)
		if !raceEnabled {
			wantGrowth(t, p.name, rss[i], p.rss(t), sessions*24<<10)
		}
	}
	for i, c := range conns {
		if err := exchange(c); err != nil {
			t.Fatalf("session %d after idling: %v", i, err)
		}
		c.Close()
	}
	awaitDescriptors(t, s.router, fds[0])
	awaitDescriptors(t, s.proxy, fds[1])
}

func TestShortSessionsLeaveNothing(t *testing.T) {
	big(t)
	s := start(t, flags{})
	// As with a web server, the target ends first: so many ephemeral ports of
	// clients would have to wait a minute otherwise.
	b := s.bind(t, serve(t, func(c *net.TCPConn) {
		line := make([]byte, 64)
		n, _ := c.Read(line)
		_, _ = c.Write(line[:n])
	}).addr)
	if err := shortSession(b.Address); err != nil {
		t.Fatal(err)
	}
	fds := [2]int{s.router.descriptors(t), s.proxy.descriptors(t)}
	sessions, workers := 20_000, 32
	if raceEnabled {
		sessions = 5_000
	}
	var wg sync.WaitGroup
	var left atomic.Int64
	left.Store(int64(sessions))
	for range workers {
		wg.Go(func() {
			for left.Add(-1) >= 0 && !t.Failed() {
				if err := oneReply(b.Address); err != nil {
					t.Errorf("session: %v", err)
				}
			}
		})
	}
	wg.Wait()
	awaitDescriptors(t, s.router, fds[0])
	awaitDescriptors(t, s.proxy, fds[1])
	s.awaitSessions(t, 0)
	if got := s.binding(t, b.ID); got.SessionTotal != sessions+1 {
		t.Errorf("binding counts %d sessions, want %d", got.SessionTotal, sessions+1)
	}
}

// oneReply connects, exchanges a line with a target that closes behind it, and
// closes when it has seen that.
func oneReply(addr string) error {
	c, err := dial("", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := exchange(c); err != nil {
		return err
	}
	if n, err := c.Read(make([]byte, 1)); n > 0 || err != io.EOF {
		return fmt.Errorf("after the reply: %d bytes, %v, want a clean end", n, err)
	}
	return nil
}

// shortSession connects, exchanges a line and closes.
func shortSession(addr string) error {
	c, err := dial("", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	return exchange(c)
}

// Sessions that end in every way at once leave nothing, either.
func TestMixedEndsLeaveNothing(t *testing.T) {
	s := start(t, flags{})
	b := s.bind(t, serve(t, func(c *net.TCPConn) {
		request := make([]byte, 1)
		if _, err := io.ReadFull(c, request); err != nil {
			return
		}
		switch request[0] % 4 {
		case 0:
			_ = send(c, 1, 1<<16)
		case 1:
			reset(c)
		case 2:
			c.CloseWrite()
			drain(c)
		default:
			_, _ = c.Write(request)
			echo(c)
		}
	}).addr)
	fds := [2]int{s.router.descriptors(t), s.proxy.descriptors(t)}
	var wg sync.WaitGroup
	for w := range 16 {
		wg.Go(func() {
			for i := range 150 {
				if err := oddSession(b.Address, w*150+i); err != nil {
					t.Errorf("session: %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
	s.awaitSessions(t, 0)
	awaitDescriptors(t, s.router, fds[0])
	awaitDescriptors(t, s.proxy, fds[1])
}

// oddSession connects and ends in a way that i chooses.
func oddSession(addr string, i int) error {
	c, err := dial("", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Write([]byte{byte(i)})
	switch i / 4 % 4 {
	case 0:
		reset(c)
	case 1:
		c.CloseWrite()
		_, err = io.Copy(io.Discard, c)
	case 2:
		_, err = c.Read(make([]byte, 1))
	}
	if errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || err == io.EOF {
		return nil // the target's way to end
	}
	return err
}
