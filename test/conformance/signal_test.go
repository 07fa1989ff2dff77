//go:build linux

package conformance

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestRouterDrains(t *testing.T) {
	t.Parallel()
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(sig.String(), func(t *testing.T) {
			t.Parallel()
			s := start(t, flags{router: []string{"--drain-timeout", "30s"}})
			tg := serve(t, echo)
			b := s.bind(t, tg.addr)
			c := connect(t, b.Address)
			wantEcho(t, c)
			s.router.signal(t, sig)
			eventually(t, soon, func() error { return wantStatus(s.api+"/readyz", 503) })
			s.want(t, 503, "draining", http.MethodPost, "/v1/bindings", fields{"target": serve(t, echo).addr})
			s.want(t, 503, "draining", http.MethodPost, "/v1/bindings", fields{"target": tg.addr})
			s.want(t, 200, "", http.MethodGet, "/livez", nil)
			eventually(t, soon, func() error { return refused(b.Address) })
			if got := s.sessions(t, ""); len(got) != 1 {
				t.Errorf("sessions while draining = %+v, want one", got)
			}
			wantEcho(t, c)
			c.CloseWrite()
			wantEOF(t, c, "client", 0)
			if code := s.router.exit(t, 5*time.Second); code != 0 {
				t.Errorf("exit status %d after the last session, want 0", code)
			}
		})
	}
}

func TestProxyDrains(t *testing.T) {
	t.Parallel()
	s := start(t, flags{proxy: []string{"--drain-timeout", "30s"}})
	tg := serve(t, echo)
	b := s.bind(t, tg.addr)
	c := connect(t, b.Address)
	wantEcho(t, c)
	s.proxy.signal(t, syscall.SIGTERM)
	eventually(t, soon, func() error { return wantStatus("http://"+s.metrics+"/readyz", 503) })
	if err := wantStatus("http://"+s.metrics+"/livez", 200); err != nil {
		t.Error(err)
	}
	s.want(t, 503, "no_proxy", http.MethodPost, "/v1/bindings", fields{"target": serve(t, echo).addr})
	wantResetAt(t, b.Address)
	awaitMetric(t, s.api, outcome("no_proxy"), "1")
	wantEcho(t, c)
	c.CloseWrite()
	wantEOF(t, c, "client", 0)
	if code := s.proxy.exit(t, 5*time.Second); code != 0 {
		t.Errorf("exit status %d after the last session, want 0", code)
	}
	s.startProxy(t)
	wantEcho(t, connect(t, b.Address))
}

// A parked check is not worth waiting for.
func TestDrainDoesNotWaitForParkedCheck(t *testing.T) {
	t.Parallel()
	s := start(t, flags{router: []string{"--park", "30s", "--drain-timeout", "20s"}, proxy: []string{"--drain-timeout", "20s"}})
	s.bind(t, serve(t, echo).addr)
	s.proxy.signal(t, syscall.SIGTERM)
	s.router.signal(t, syscall.SIGTERM)
	for _, p := range []*process{s.proxy, s.router} {
		if code := p.exit(t, 5*time.Second); code != 0 {
			t.Errorf("%s: exit status %d, want 0", p.name, code)
		}
	}
}

func TestDrainTimeoutResets(t *testing.T) {
	t.Parallel()
	for _, role := range []string{"router", "proxy"} {
		t.Run(role, func(t *testing.T) {
			t.Parallel()
			s := start(t, flags{router: []string{"--drain-timeout", "700ms"}, proxy: []string{"--drain-timeout", "700ms"}})
			e := open(t, s)
			p := map[string]*process{"router": s.router, "proxy": s.proxy}[role]
			began := time.Now()
			p.signal(t, syscall.SIGTERM)
			wantReset(t, e.client, "client", 0)
			if took := time.Since(began); took < 500*time.Millisecond || took > 5*time.Second {
				t.Errorf("client was reset after %v, want 700ms", took)
			}
			wantReset(t, e.target, "target", 0)
			if code := p.exit(t, 5*time.Second); code != 0 {
				t.Errorf("exit status %d after the drain's end, want 0", code)
			}
		})
	}
}

func TestSecondSignalExitsAtOnce(t *testing.T) {
	t.Parallel()
	for _, role := range []string{"router", "proxy"} {
		t.Run(role, func(t *testing.T) {
			t.Parallel()
			s := start(t, flags{router: []string{"--drain-timeout", "1m"}, proxy: []string{"--drain-timeout", "1m"}})
			e := open(t, s)
			p, ready := s.router, s.api
			if role == "proxy" {
				p, ready = s.proxy, "http://"+s.metrics
			}
			p.signal(t, syscall.SIGTERM)
			eventually(t, soon, func() error { return wantStatus(ready+"/readyz", 503) })
			p.signal(t, syscall.SIGTERM)
			if code := p.exit(t, soon); code != 1 {
				t.Errorf("exit status %d after the second signal, want 1", code)
			}
			wantReset(t, e.client, "client", 0)
			wantReset(t, e.target, "target", 0)
		})
	}
}

// write puts a configuration file in place.
func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestReloadAllowList(t *testing.T) {
	t.Parallel()
	tg := serve(t, echo)
	other := serve(t, echo)
	file := filepath.Join(t.TempDir(), "oh-router.yaml")
	write(t, file, fmt.Sprintf("proxy:\n  allow: [\"127.0.0.0/8:%s\"]\n", portOf(tg.addr)))
	first := ports.take(t, 10)
	s := &stack{
		api: "http://" + loopback(first), link: loopback(first + 1), metrics: loopback(first + 2),
		proxyFlags: []string{"-c", file, "--listen", loopback(first + 1), "--metrics", loopback(first + 2)},
		routerFlags: []string{
			"--listen", loopback(first), "--proxy", loopback(first + 1), "--state", "none",
			"--ports", fmt.Sprintf("%d-%d", first+3, first+9),
		},
	}
	s.startProxy(t)
	s.startRouter(t)
	b := s.bind(t, tg.addr)
	c := connect(t, b.Address)
	wantEcho(t, c)
	s.want(t, 403, "target_denied", http.MethodPost, "/v1/bindings", fields{"target": other.addr})

	write(t, file, "proxy:\n  allow: [\"not a pattern\"]\n")
	s.proxy.signal(t, syscall.SIGHUP)
	eventually(t, soon, func() error {
		if !strings.Contains(s.proxy.log(t), "not a pattern") {
			return fmt.Errorf("the log does not say what is wrong with the file")
		}
		return nil
	})
	wantEcho(t, connect(t, b.Address)) // the old list still holds
	s.want(t, 403, "target_denied", http.MethodPost, "/v1/bindings", fields{"target": other.addr})

	write(t, file, fmt.Sprintf("proxy:\n  allow: [\"127.0.0.0/8:%s,%s\"]\n", portOf(tg.addr), portOf(other.addr)))
	s.proxy.signal(t, syscall.SIGHUP)
	eventually(t, soon, func() error {
		if a := s.call(t, http.MethodPost, "/v1/bindings", fields{"target": other.addr}); a.status != 201 {
			return fmt.Errorf("bind after the reload = %v, want 201", a)
		}
		return nil
	})
	wantEcho(t, c)
}

// TestReloadRouter changes all that a router takes over, and two settings that
// need a restart.
func TestReloadRouter(t *testing.T) {
	t.Parallel()
	first := ports.take(t, 5)
	file := filepath.Join(t.TempDir(), "oh-router.yaml")
	configure := func(name, drain, idle, quarantine, park string, number int) {
		write(t, file, fmt.Sprintf(`
drain_timeout: %s
backlog: %d
router: {idle_timeout: %s, quarantine: %s, park: %s, max_connections_per_source: %d, proxy: ["%s=%s"]}
`, drain, number, idle, quarantine, park, number, name, loopback(first+1)))
	}
	configure("east", "1m", "7m", "10m", "30s", 64)
	s := &stack{
		api: "http://" + loopback(first), link: loopback(first + 1), metrics: loopback(first + 2),
		proxyFlags: []string{"--listen", loopback(first + 1), "--metrics", loopback(first + 2), "--allow", "127.0.0.0/8:*", "--state", "none"},
		routerFlags: []string{
			"-c", file, "--listen", loopback(first), "--state", "none", "--ports", fmt.Sprintf("%d-%d", first+3, first+4),
		},
	}
	s.startProxy(t)
	s.startRouter(t)
	e := open(t, s)

	configure("west", "100ms", "8m", "0s", "0s", 65)
	s.router.signal(t, syscall.SIGHUP)
	eventually(t, soon, func() error {
		if !strings.Contains(s.router.log(t), "configuration reloaded") {
			return errors.New("the log does not say that the configuration was reloaded")
		}
		return nil
	})
	for _, keys := range []string{`["backlog"]`, `["router.max_connections_per_source"]`} {
		if log := s.router.log(t); !strings.Contains(log, `"keys":`+keys) {
			t.Errorf("the log does not say that %s need a restart", keys)
		}
	}
	tg := manual(t)
	b := s.bind(t, tg.addr)
	if b.IdleTimeout != "8m0s" || b.Proxy != "west" {
		t.Errorf("bind after the reload = idle timeout %s, proxy %q, want 8m0s and west", b.IdleTimeout, b.Proxy)
	}
	began := time.Now()
	drain(tg.accept(t))
	if took := time.Since(began); took > soon {
		t.Errorf("the checked link was dropped after %v, want at once", took)
	}
	s.want(t, 204, "", http.MethodDelete, "/v1/bindings/"+b.ID, nil)
	s.awaitGone(t, b.ID, soon)
	if next := s.bind(t, serve(t, echo).addr); next.Port != b.Port {
		t.Errorf("the next binding has port %d, want %d, which does not rest", next.Port, b.Port)
	}
	s.router.signal(t, syscall.SIGTERM)
	if code := s.router.exit(t, soon); code != 0 {
		t.Errorf("exit status %d after the new drain timeout, want 0", code)
	}
	wantReset(t, e.client, "client", 0)
}

// portOf returns the port of an address.
func portOf(addr string) string { return addr[strings.LastIndexByte(addr, ':')+1:] }

func TestReloadLogLevel(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "oh-router.yaml")
	write(t, file, "log_level: error\n")
	s := start(t, flags{router: []string{"-c", file}})
	wantEcho(t, connect(t, s.bind(t, serve(t, echo).addr).Address))
	if log := s.router.log(t); strings.Contains(log, "INFO") {
		t.Errorf("log at level error has %s", log)
	}
	write(t, file, "log_level: info\n")
	s.router.signal(t, syscall.SIGHUP)
	eventually(t, soon, func() error {
		if err := shortSession(s.bind(t, serve(t, echo).addr).Address); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(s.router.log(t), "INFO") {
			return fmt.Errorf("log at level info has no such line")
		}
		return nil
	})
}

func TestReloadWithoutFile(t *testing.T) {
	t.Parallel()
	s := start(t, flags{})
	e := open(t, s)
	s.router.signal(t, syscall.SIGHUP)
	s.proxy.signal(t, syscall.SIGHUP)
	stays(t, 300*time.Millisecond, func() error { return wantStatus(s.api+"/readyz", 200) })
	if err := send(e.client, 1, 10); err != nil {
		t.Error(err)
	}
	if err := receive(e.target, 1, 10); err != nil {
		t.Error(err)
	}
}
