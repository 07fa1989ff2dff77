//go:build linux

package conformance

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

// limited returns the command of a role that may open only so many files, of which
// its event loops take as many on any machine.
func limited(t testing.TB, files int, role string, flags []string) *exec.Cmd {
	script := fmt.Sprintf(`ulimit -n %d && exec "$0" "$@"`, files)
	cmd := exec.Command("/bin/sh", append([]string{"-c", script, program, role, "--loops=2"}, flags...)...)
	cmd.Env = environment(t)
	return cmd
}

// crowd keeps n connections to addr open; those that the kernel does not take
// in time are missing.
func crowd(t testing.TB, from, addr string, n int) (conns []net.Conn) {
	t.Helper()
	var (
		wg sync.WaitGroup
		mu sync.Mutex // guards conns
	)
	turns := make(chan struct{}, 64)
	for range n {
		turns <- struct{}{}
		wg.Go(func() {
			defer func() { <-turns }()
			if c, err := dial(from, addr); err == nil {
				mu.Lock()
				conns = append(conns, c)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	t.Cleanup(func() { leave(conns) })
	return conns
}

// leave closes connections.
func leave(conns []net.Conn) {
	for _, c := range conns {
		c.Close()
	}
}

// wantResponsive fails the test unless pages are answered fast, each on a
// connection of its own.
func wantResponsive(t testing.TB, urls ...string) {
	t.Helper()
	for range 10 {
		for _, url := range urls {
			start := time.Now()
			if err := wantStatus(url, 200); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(start); took > soon {
				t.Errorf("GET %s took %v, want an answer at once", url, took)
			}
		}
	}
}

// Who cannot have a single session does not start, and says why.
func TestTooFewDescriptors(t *testing.T) {
	t.Parallel()
	var said bytes.Buffer
	cmd := limited(t, 48, "up", []string{"--listen=127.0.0.1:0"})
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer time.AfterFunc(2*soon, func() { _ = cmd.Process.Kill() }).Stop()
	_ = cmd.Wait()
	if cmd.ProcessState.ExitCode() != 1 || !strings.Contains(said.String(), "48 descriptors, too few for sessions") || !strings.Contains(said.String(), "ulimit") {
		t.Errorf("up with 48 descriptors: %v, %q; want it to end with 1 and to say what to raise", cmd.ProcessState, &said)
	}
}

func TestRouterOutOfDescriptors(t *testing.T) {
	t.Parallel()
	s := start(t, flags{})
	s.router.kill()
	s.router = launch(t, "router with few descriptors", limited(t, 128, "router", s.routerFlags))
	s.router.awaitReady(t, s.api)
	tg := serve(t, echo)
	b := s.bind(t, tg.addr)
	for range 3 {
		early := connect(t, b.Address)
		wantEcho(t, early)
		conns := crowd(t, "", b.Address, 500)
		wantResponsive(t, s.api+"/livez", s.api+"/readyz", s.api+"/v1/bindings", s.api+"/v1/sessions", s.api+"/metrics")
		wantEcho(t, early)
		leave(conns)
		early.Close()
		eventually(t, 2*soon, func() error { return shortSession(b.Address) })
	}
	s.bind(t, serve(t, echo).addr)
	s.awaitSessions(t, 0)
}

func TestProxyOutOfDescriptors(t *testing.T) {
	t.Parallel()
	s := start(t, flags{})
	s.proxy.kill()
	s.proxy = launch(t, "proxy with few descriptors", limited(t, 128, "proxy", s.proxyFlags))
	s.proxy.awaitReady(t, "http://"+s.metrics)
	b := s.bind(t, serve(t, echo).addr)
	for range 3 {
		early := connect(t, b.Address)
		wantEcho(t, early)
		conns := crowd(t, "", b.Address, 500)
		wantResponsive(t, "http://"+s.metrics+"/livez", "http://"+s.metrics+"/metrics", s.api+"/v1/bindings")
		wantEcho(t, early)
		leave(conns)
		early.Close()
		eventually(t, 2*soon, func() error { return shortSession(b.Address) })
	}
	s.bind(t, serve(t, echo).addr)
	s.awaitSessions(t, 0)
}

// Connections to the API that say nothing take its descriptors, not those of
// the mapped ports.
func TestAPICrowdLeavesSessionsAlone(t *testing.T) {
	t.Parallel()
	s := start(t, flags{})
	s.router.kill()
	s.router = launch(t, "router with few descriptors", limited(t, 128, "router", s.routerFlags))
	s.router.awaitReady(t, s.api)
	b := s.bind(t, serve(t, echo).addr)
	conns := crowd(t, "", s.api[len("http://"):], 400)
	for i := range 10 {
		if err := shortSession(b.Address); err != nil {
			t.Errorf("session %d beside a crowd at the API: %v", i, err)
		}
	}
	leave(conns)
	eventually(t, 2*soon, func() error { return wantStatus(s.api+"/readyz", 200) })
}

// Clients that can't be served are told so: they are reset, or wait in the
// kernel's queue until there is room; nobody gets a clean end.
func TestNobodyIsCutCleanly(t *testing.T) {
	t.Parallel()
	s := start(t, flags{})
	s.router.kill()
	s.router = launch(t, "router with few descriptors", limited(t, 128, "router", s.routerFlags))
	s.router.awaitReady(t, s.api)
	b := s.bind(t, serve(t, func(c *net.TCPConn) {
		_, _ = c.Write([]byte("hello"))
		drain(c)
	}).addr)
	conns := crowd(t, "", b.Address, 300)
	for i, c := range conns {
		_ = c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		n, err := c.Read(make([]byte, 10))
		if ne, ok := errors.AsType[net.Error](err); n == 0 && (!ok || !ne.Timeout()) && !isReset(err) {
			t.Fatalf("client %d reads %d bytes, %v; want a greeting, a reset or nothing yet", i, n, err)
		}
	}
}
