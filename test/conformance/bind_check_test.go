//go:build linux

package conformance

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"
)

// closedPort returns an address where nobody listens, below the range where
// the kernel might give it to somebody.
func closedPort(t testing.TB) string {
	t.Helper()
	return loopback(ports.take(t, 1))
}

// deaf returns an address whose listener's queue is full: connecting to it
// takes for ever.
func deaf(t testing.TB) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	err1 := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
	err2 := syscall.Listen(fd, 0)
	name, err3 := syscall.Getsockname(fd)
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	addr := loopback(name.(*syscall.SockaddrInet4).Port)
	for range 8 {
		c, err := net.DialTimeout("tcp", addr, 300*time.Millisecond)
		if err != nil {
			return addr
		}
		t.Cleanup(func() { c.Close() })
	}
	t.Fatalf("connects to %s succeed, want a full queue", addr)
	return ""
}

func TestBindTellsWhyNot(t *testing.T) {
	t.Parallel()
	s := start(t, flags{proxy: []string{"--allow", "*.invalid:*", "--dial-timeout", "3s"}})
	tests := []struct {
		target string
		status int
		code   string
	}{
		{closedPort(t), 502, "target_refused"},
		{"there-is-no.invalid:80", 502, "target_unresolved"},
		{deaf(t), 504, "target_timeout"},
		{"192.0.2.1:80", 403, "target_denied"},
		{"169.254.169.254:80", 403, "target_denied"},
		{"[::1]:80", 403, "target_denied"},
	}
	for _, tt := range tests {
		start := time.Now()
		s.want(t, tt.status, tt.code, http.MethodPost, "/v1/bindings", fields{"target": tt.target})
		if took := time.Since(start); took > soon {
			t.Errorf("bind %s answered after %v", tt.target, took)
		}
	}
	if got := s.bindings(t, ""); len(got) > 0 {
		t.Errorf("bindings = %+v, want none of targets that can't be reached", got)
	}
}

func TestProxyDeniesByDefault(t *testing.T) {
	t.Parallel()
	first := ports.take(t, 3)
	link, metrics := loopback(first), loopback(first+1)
	proxy := launch(t, "proxy", server(t, "proxy", "--listen", link, "--metrics", metrics))
	proxy.awaitReady(t, "http://"+metrics)
	s := &stack{api: "http://" + loopback(first+2), routerFlags: []string{
		"--listen", loopback(first + 2), "--proxy", link, "--state", "none",
		"--ports", fmt.Sprintf("%d-%d", first, first+2),
	}}
	s.startRouter(t)
	tg := serve(t, echo)
	s.want(t, 403, "target_denied", http.MethodPost, "/v1/bindings", fields{"target": tg.addr})
	if got := tg.accepts.Load(); got != 0 {
		t.Errorf("target saw %d connections, want none", got)
	}
	if proxy.log(t) == "" {
		t.Error("the proxy says nothing at start, want that it denies all targets")
	}
}

// Without a check the binding is made whatever the target does; with one, a
// later bind fails and the binding stays.
func TestFailedCheckKeepsBinding(t *testing.T) {
	t.Parallel()
	s := start(t, flags{})
	addr := closedPort(t)
	a := s.want(t, 201, "", http.MethodPost, "/v1/bindings", fields{"target": addr, "check": false})
	b := decode[binding](t, a)
	s.want(t, 502, "target_refused", http.MethodPost, "/v1/bindings", fields{"target": addr})
	s.want(t, 200, "", http.MethodPost, "/v1/bindings", fields{"target": addr, "check": false})
	if got := s.binding(t, b.ID); got.Port != b.Port || got.LastError == nil || got.LastError.Code != "target_refused" {
		t.Errorf("binding after a failed check = %+v, want port %d and last_error target_refused", got, b.Port)
	}
	// Its clients are reset, not left hanging.
	wantResetAt(t, b.Address)
	awaitMetric(t, s.api, outcome("target_refused"), "1")
	// The target comes up: the same port leads there.
	listen(t, addr, echo)
	wantEcho(t, connect(t, b.Address))
}

func TestSecondBindNeedNotCheck(t *testing.T) {
	t.Parallel()
	s := start(t, flags{router: []string{"--park", "0"}})
	tg := serve(t, echo)
	s.bind(t, tg.addr)
	eventually(t, soon, func() error { return wantAccepts(tg, 1) })
	for range 5 {
		s.want(t, 200, "", http.MethodPost, "/v1/bindings", fields{"target": tg.addr})
	}
	// The last success is under 30 s old.
	stays(t, 300*time.Millisecond, func() error { return wantAccepts(tg, 1) })
}

// wantAccepts returns an error unless a target has seen n connections.
func wantAccepts(tg *target, n int64) error {
	if got := tg.accepts.Load(); got != n {
		return fmt.Errorf("target saw %d connections, want %d", got, n)
	}
	return nil
}

// Clients of MySQL servers depend on it: no connection is made and dropped.
func TestCheckBecomesFirstSession(t *testing.T) {
	t.Parallel()
	s := start(t, flags{})
	tg := serve(t, echo)
	b := s.bind(t, tg.addr)
	first := connect(t, b.Address)
	wantEcho(t, first)
	if err := wantAccepts(tg, 1); err != nil {
		t.Fatalf("after bind and first client: %v", err)
	}
	wantEcho(t, connect(t, b.Address))
	if err := wantAccepts(tg, 2); err != nil {
		t.Fatalf("after the second client: %v", err)
	}
	wantEcho(t, first)
}

func TestParkedCheckIsDropped(t *testing.T) {
	t.Parallel()
	s := start(t, flags{router: []string{"--park", "600ms"}})
	tg := manual(t)
	start := time.Now()
	b := s.bind(t, tg.addr)
	parked := tg.accept(t)
	drain(parked)
	if took := time.Since(start); took < 500*time.Millisecond || took > 5*time.Second {
		t.Errorf("checked link was dropped after %v, want 600ms", took)
	}
	client := connect(t, b.Address)
	if err := errors.Join(send(client, 1, 1000), receive(tg.accept(t), 1, 1000)); err != nil {
		t.Errorf("client after that: %v", err)
	}
}

func TestParkOff(t *testing.T) {
	t.Parallel()
	s := start(t, flags{router: []string{"--park", "0"}})
	tg := manual(t)
	s.bind(t, tg.addr)
	start := time.Now()
	drain(tg.accept(t))
	if took := time.Since(start); took > soon {
		t.Errorf("checked link was dropped after %v, want at once", took)
	}
}

// A target that hangs up on the checked link costs the client nothing.
func TestTargetHangsUpOnParkedCheck(t *testing.T) {
	t.Parallel()
	for name, hangUp := range map[string]func(*net.TCPConn){
		"close": func(c *net.TCPConn) { c.Close() },
		"reset": reset,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t, flags{router: []string{"--park", "30s"}})
			tg := manual(t)
			b := s.bind(t, tg.addr)
			hangUp(tg.accept(t))
			awaitNoLinks(t, "http://"+s.metrics)
			client := connect(t, b.Address)
			server := tg.accept(t)
			if err := errors.Join(send(client, 1, 1000), receive(server, 1, 1000), send(server, 2, 10), receive(client, 2, 10)); err != nil {
				t.Errorf("client after the target hung up: %v", err)
			}
		})
	}
}

// awaitNoLinks waits until a router or proxy has no link open but those that
// are kept warm where making one is slow, as on a busy machine.
func awaitNoLinks(t testing.TB, url string) {
	t.Helper()
	eventually(t, soon, func() error {
		for name, value := range scrape(t, url) {
			if strings.HasPrefix(name, "ohrouter_links{") && !strings.Contains(name, `"warm"`) && value != "0" {
				return fmt.Errorf("%s = %s, want 0", name, value)
			}
		}
		return nil
	})
}

func TestParallelBindsAreOne(t *testing.T) {
	t.Parallel()
	s := start(t, flags{ports: 60})
	tg := serve(t, echo)
	var answers []<-chan answer
	for range 50 {
		answers = append(answers, s.bindLater(tg.addr))
	}
	seen, made := map[string]int{}, 0
	for _, later := range answers {
		a := <-later
		seen[decode[binding](t, a).Address]++
		if a.status == http.StatusCreated {
			made++
		}
	}
	if len(seen) != 1 || made != 1 {
		t.Errorf("50 parallel binds = %v, %d of them new, want one address and one new", seen, made)
	}
	eventually(t, soon, func() error { return wantAccepts(tg, 1) })
}

// Parallel binds of a target that is not there all fail, and leave nothing.
func TestParallelBindsFailTogether(t *testing.T) {
	t.Parallel()
	s := start(t, flags{})
	addr := closedPort(t)
	var answers []<-chan answer
	for range 30 {
		answers = append(answers, s.bindLater(addr))
	}
	for _, later := range answers {
		if a := <-later; a.code() != "target_refused" {
			t.Errorf("bind = %v, want target_refused", a)
		}
	}
	if got := s.bindings(t, ""); len(got) > 0 {
		t.Errorf("bindings = %+v, want none", got)
	}
}

// A slow target delays nobody else's bind.
func TestSlowCheckDelaysNobody(t *testing.T) {
	t.Parallel()
	s := start(t, flags{proxy: []string{"--dial-timeout", "8s"}})
	slow := deaf(t)
	done := s.bindLater(slow)
	for range 5 {
		s.bind(t, serve(t, echo).addr)
	}
	if len(done) > 0 {
		t.Error("binds beside a slow one took as long as that one")
	}
	if a := <-done; a.code() != "target_timeout" {
		t.Errorf("bind of a deaf target = %v, want target_timeout", a)
	}
}
