//go:build linux

package conformance

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// passBothWays sends n bytes to an echoing target while it reads them back,
// and half-closes behind them.
func passBothWays(c *net.TCPConn, seed uint64, n int64) error {
	sent := make(chan error, 1)
	go func() { sent <- errors.Join(send(c, seed, n), c.CloseWrite()) }()
	err := receiveAll(c, seed, n)
	if err != nil {
		c.Close() // unblocks the sender
	}
	return errors.Join(err, <-sent)
}

func TestBytesArriveWhole(t *testing.T) {
	t.Parallel()
	s := start(t, flags{})
	b := s.bind(t, serve(t, echo).addr)
	sizes := []int64{0, 1, 2, 1447, 1448, 4095, 4096, 4097, 65535, 65536, 65537, 1<<20 - 1, 1 << 20, 5_000_001}
	if !testing.Short() {
		sizes = append(sizes, 64<<20)
	}
	for i, n := range sizes {
		if err := passBothWays(connect(t, b.Address), uint64(i), n); err != nil {
			t.Errorf("%d bytes there and back: %v", n, err)
		}
	}
	s.awaitSessions(t, 0)
	var total int
	for _, n := range sizes {
		total += int(n)
	}
	if got := s.binding(t, b.ID); got.BytesUp != total || got.BytesDown != total {
		t.Errorf("binding counts %d up and %d down, want %d each", got.BytesUp, got.BytesDown, total)
	}
}

func TestConcurrentSessionsKeepBytesApart(t *testing.T) {
	t.Parallel()
	s := start(t, flags{})
	tg := serve(t, echo)
	other := serve(t, echo)
	addrs := []string{s.bind(t, tg.addr).Address, s.bind(t, other.addr).Address}
	var wg sync.WaitGroup
	for i := range 60 {
		c := connect(t, addrs[i%2])
		wg.Go(func() {
			if err := passBothWays(c, uint64(1000+i), int64(1<<20+i)); err != nil {
				t.Errorf("session %d: %v", i, err)
			}
		})
	}
	wg.Wait()
}

func TestServerSpeaksFirst(t *testing.T) {
	t.Parallel()
	s := start(t, flags{})
	b := s.bind(t, serve(t, func(c *net.TCPConn) {
		fmt.Fprint(c, "220 ready\r\n")
		echo(c)
	}).addr)
	// The first client gets the checked link, the second a fresh one.
	for range 2 {
		c := connect(t, b.Address)
		greeting := make([]byte, 11)
		if _, err := io.ReadFull(c, greeting); err != nil || string(greeting) != "220 ready\r\n" {
			t.Fatalf("greeting = %q, %v", greeting, err)
		}
		wantEcho(t, c)
	}
}

// A FIN in the segment of the first payload must not be forgotten on the way.
func TestRequestAndFINTogether(t *testing.T) {
	t.Parallel()
	s := start(t, flags{})
	b := s.bind(t, serve(t, func(c *net.TCPConn) {
		request, err := io.ReadAll(c)
		fmt.Fprintf(c, "%s %v", request, err)
	}).addr)
	for i := range 300 {
		c := connect(t, b.Address)
		raw, err := c.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		_ = raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_CORK, 1) })
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(c, "request %d", i)
		c.CloseWrite()
		got, err := io.ReadAll(c)
		if want := fmt.Sprintf("request %d <nil>", i); string(got) != want || err != nil {
			t.Fatalf("session %d: reply %q, %v, want %q", i, got, err, want)
		}
		c.Close()
	}
}

// A client that ends before it has sent anything is an empty session.
func TestFINAtOnce(t *testing.T) {
	t.Parallel()
	s := start(t, flags{})
	b := s.bind(t, serve(t, func(c *net.TCPConn) {
		request, err := io.ReadAll(c)
		fmt.Fprintf(c, "%d %v", len(request), err)
	}).addr)
	for i := range 100 {
		c := connect(t, b.Address)
		c.CloseWrite()
		if got, err := io.ReadAll(c); string(got) != "0 <nil>" || err != nil {
			t.Fatalf("session %d: reply %q, %v, want an empty request's", i, got, err)
		}
		c.Close()
	}
}

func TestConnectAndCloseAtOnce(t *testing.T) {
	t.Parallel()
	s := start(t, flags{router: []string{"--park", "0"}})
	b := s.bind(t, serve(t, echo).addr)
	router, proxy := s.router.descriptors(t), s.proxy.descriptors(t)
	for i := range 300 {
		c := connect(t, b.Address)
		if i%2 == 0 {
			reset(c)
		} else {
			c.Close()
		}
	}
	s.awaitSessions(t, 0)
	wantEcho(t, connect(t, b.Address))
	awaitDescriptors(t, s.router, router+2)
	awaitDescriptors(t, s.proxy, proxy+2)
}

// awaitDescriptors waits until a process has no more than n open, and a few for
// the call that asks. Links that are slow to make, as with certificates, are
// kept warm.
func awaitDescriptors(t testing.TB, p *process, n int) {
	t.Helper()
	slack := 6
	if isSecured(t) {
		slack += 64 // the default of --pool
	}
	eventually(t, 2*soon, func() error {
		if got := p.descriptors(t); got > n+slack {
			return fmt.Errorf("%s has %d descriptors open, want at most %d", p.name, got, n+slack)
		}
		return nil
	})
}

func TestCountersAreLive(t *testing.T) {
	t.Parallel()
	s := start(t, flags{})
	tg := manual(t)
	b := s.bind(t, tg.addr)
	c := connect(t, b.Address)
	server := tg.accept(t)
	const up, down = 3 << 20, 1 << 20
	done := make(chan error, 2)
	go func() { done <- receive(server, 1, up) }()
	go func() { done <- receive(c, 2, down) }()
	if err := errors.Join(send(c, 1, up), send(server, 2, down), <-done, <-done); err != nil {
		t.Fatal(err)
	}
	// Both ends stay open: nothing is counted because something has ended.
	eventually(t, soon, func() error {
		open := s.sessions(t, b.ID)
		if len(open) != 1 || open[0].BytesUp != up || open[0].BytesDown != down {
			return fmt.Errorf("sessions = %+v, want one with %d up and %d down", open, up, down)
		}
		return nil
	})
	if got := s.binding(t, b.ID); got.BytesUp != up || got.BytesDown != down || got.Sessions != 1 || got.SessionTotal != 1 {
		t.Errorf("binding = %+v, want one session with %d up and %d down", got, up, down)
	}
	series := scrape(t, s.api)
	for direction, n := range map[string]float64{"up": up, "down": down} {
		name := `ohrouter_bytes_total{direction="` + direction + `"}`
		if got := number(t, series[name]); got != n {
			t.Errorf("%s = %v, want %v", name, got, n)
		}
	}
	if got := series["ohrouter_sessions"]; got != "1" {
		t.Errorf("ohrouter_sessions = %q, want 1", got)
	}
}

// Silence is no reason to end a session, nor a binding that has one.
func TestSilentSessionStays(t *testing.T) {
	t.Parallel()
	s := start(t, flags{})
	b := s.bind(t, serve(t, echo).addr)
	c := connect(t, b.Address)
	wantEcho(t, c)
	s.want(t, 200, "", http.MethodPatch, "/v1/bindings/"+b.ID, fields{"idle_timeout": "300ms"})
	stays(t, 2*time.Second, func() error { return wantStatus(s.api+"/v1/bindings/"+b.ID, 200) })
	wantEcho(t, c)
	c.Close()
	s.awaitGone(t, b.ID, soon)
}
