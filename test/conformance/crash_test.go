//go:build linux

package conformance

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"syscall"
	"testing"
	"time"
)

// crashes runs a test once with the router's and once with the proxy's crash.
func crashes(t *testing.T, f func(t *testing.T, s *stack, crash func())) {
	t.Parallel()
	for _, role := range []string{"router", "proxy"} {
		t.Run(role, func(t *testing.T) {
			t.Parallel()
			s := start(t, flags{})
			f(t, s, func() {
				if role == "router" {
					s.router.kill()
				} else {
					s.proxy.kill()
				}
			})
		})
	}
}

func TestCrashIsReset(t *testing.T) {
	crashes(t, func(t *testing.T, s *stack, crash func()) {
		e := open(t, s)
		if err := errors.Join(send(e.client, 1, 1000), receive(e.target, 1, 1000), send(e.target, 2, 1000), receive(e.client, 2, 1000)); err != nil {
			t.Fatal(err)
		}
		crash()
		wantReset(t, e.client, "client", 0)
		wantReset(t, e.target, "target", 0)
	})
}

// A stream that is cut while it flows must not look whole.
func TestCrashDuringTransferIsReset(t *testing.T) {
	crashes(t, func(t *testing.T, s *stack, crash func()) {
		tg, _ := flood(t)
		b := s.bind(t, tg.addr)
		c := connect(t, b.Address)
		ended := make(chan error, 1)
		go func() {
			_, err := io.Copy(io.Discard, struct{ io.Reader }{c})
			ended <- err
		}()
		eventually(t, soon, func() error {
			if s.binding(t, b.ID).BytesDown < 10<<20 {
				return errors.New("nothing flows")
			}
			return nil
		})
		crash()
		if err := <-ended; !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("client's read ends with %v, want %v", err, syscall.ECONNRESET)
		}
	})
}

func TestCrashOfHalfClosedSessionIsReset(t *testing.T) {
	crashes(t, func(t *testing.T, s *stack, crash func()) {
		asked := open(t, s)
		asked.client.CloseWrite()
		wantEOF(t, asked.target, "target", 0)
		told := open(t, s)
		told.target.CloseWrite()
		wantEOF(t, told.client, "client", 0)
		crash()
		wantReset(t, asked.client, "client that waits for a reply", 0)
		wantReset(t, told.target, "target that waits for a request", 0)
	})
}

func TestRouterOutlivesProxy(t *testing.T) {
	t.Parallel()
	s := start(t, flags{})
	tg, other := serve(t, echo), serve(t, echo)
	b := s.bind(t, tg.addr)
	wantEcho(t, connect(t, b.Address))
	s.proxy.kill()
	s.awaitSessions(t, 0)
	began := time.Now()
	s.want(t, 503, "proxy_unreachable", http.MethodPost, "/v1/bindings", fields{"target": other.addr})
	wantResetAt(t, b.Address)
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("answers without a proxy took %v", took)
	}
	awaitMetric(t, s.api, outcome("proxy_unreachable"), "1")
	if got := s.binding(t, b.ID); got.LastError == nil || got.LastError.Code != "proxy_unreachable" {
		t.Errorf("binding = %+v, want last_error proxy_unreachable", got)
	}
	s.startProxy(t)
	wantEcho(t, connect(t, b.Address))
	s.bind(t, other.addr)
}

// A parked check of a proxy that has died is no trap for the first client.
func TestProxyDiesBeforeFirstClient(t *testing.T) {
	t.Parallel()
	s := start(t, flags{router: []string{"--park", "30s"}})
	b := s.bind(t, serve(t, echo).addr)
	s.proxy.kill()
	s.startProxy(t)
	wantEcho(t, connect(t, b.Address))
}

// A proxy that is there and does not answer costs its callers a bounded time,
// and nobody else anything.
func TestStoppedProxy(t *testing.T) {
	t.Parallel()
	s := start(t, flags{})
	tg := serve(t, echo)
	known := s.bind(t, tg.addr)
	held := connect(t, known.Address)
	wantEcho(t, held)
	s.proxy.stop(t)
	client := connect(t, known.Address)
	began := time.Now()
	answered := s.bindLater(serve(t, echo).addr)
	var a answer
	for waiting := true; waiting; {
		asked := time.Now()
		s.want(t, 200, "", http.MethodGet, "/v1/bindings", nil)
		s.want(t, 200, "", http.MethodGet, "/v1/proxies", nil)
		if took := time.Since(asked); took > 5*time.Second {
			t.Errorf("two lists took %v while the proxy is stopped", took)
		}
		select {
		case a = <-answered:
			waiting = false
		case <-time.After(100 * time.Millisecond):
		}
	}
	if took := time.Since(began); a.code() != "proxy_unreachable" || a.status != 503 || took > 15*time.Second {
		t.Errorf("bind = %v after %v, want 503 proxy_unreachable soon", a, took)
	}
	wantReset(t, client, "client of a known target", 0)
	s.proxy.signal(t, syscall.SIGCONT)
	s.bind(t, serve(t, echo).addr)
	wantEcho(t, held)
	wantEcho(t, connect(t, known.Address))
}

func TestTargetGoesAndComes(t *testing.T) {
	t.Parallel()
	s := start(t, flags{router: []string{"--park", "0"}})
	tg := serve(t, echo)
	b := s.bind(t, tg.addr)
	tg.ln.Close()
	eventually(t, soon, func() error { // Close does not wait for the accept under way
		c, err := net.Dial("tcp", tg.addr)
		if err != nil {
			return nil
		}
		c.Close()
		return errors.New("the target still takes connections")
	})
	wantResetAt(t, b.Address)
	eventually(t, soon, func() error {
		if got := s.binding(t, b.ID); got.LastError == nil || got.LastError.Code != "target_refused" || got.LastError.Message == "" {
			return fmt.Errorf("binding = %+v, want last_error target_refused", got)
		}
		return nil
	})
	awaitMetric(t, s.api, outcome("target_refused"), "1")
	listen(t, tg.addr, echo)
	wantEcho(t, connect(t, b.Address))
}
