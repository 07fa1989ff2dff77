package e2e

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// rangeSize is how many mapped ports each router of these tests has.
const rangeSize = 20

// pair is a router and the proxy it dials, each a process of its own.
type pair struct {
	t                       testing.TB // whose end is the programs' end
	router, proxy           *process
	routerPort, proxyPort   int
	routerFlags, proxyFlags []string // of their command lines, to start them again

	scheme    string      // of the API: http, or https of a pair with certificates
	tls       *tls.Config // for calls of the API
	secret    string      // that these show; "" none
	ca, token string      // files for the command line; "" none
}

// startPair runs a proxy that may dial loopback addresses and a router with
// these flags on top of the ones that place it.
func startPair(t testing.TB, routerFlags ...string) *pair {
	t.Helper()
	p := &pair{t: t, scheme: "http"}
	state := t.TempDir()
	if isSecured(t) {
		p.secure(t, state)
	}
	metrics := ports.take(t, 1)
	p.proxy, p.proxyPort = serve(t, program{
		name: "proxy",
		command: func(port int) *exec.Cmd {
			p.proxyFlags = append(p.proxyFlags, "--listen", loopback(port), "--allow", "127.0.0.0/8:*", "--metrics", loopback(metrics))
			return server(t, "proxy", p.proxyFlags)
		},
		ready: func(ctx context.Context, _ int) error { return ready(ctx, metrics) },
		stop:  syscall.SIGTERM,
	})
	low := ports.take(t, rangeSize)
	p.router, p.routerPort = serve(t, program{
		name: "router",
		command: func(port int) *exec.Cmd {
			p.routerFlags = append([]string{
				"--listen", loopback(port), "--proxy", loopback(p.proxyPort),
				"--ports", fmt.Sprintf("%d-%d", low, low+rangeSize-1), "--state", state,
			}, routerFlags...)
			return server(t, "router", p.routerFlags)
		},
		ready: p.ready,
		stop:  syscall.SIGTERM,
	})
	return p
}

// server returns the command of a server role.
func server(t testing.TB, role string, flags []string) *exec.Cmd {
	cmd := exec.Command(ohRouter, append([]string{role, "--drain-timeout", "10s"}, flags...)...)
	cmd.Env = environment()
	runAs(t, cmd, "")
	return cmd
}

// environment is the one of the test without settings for oh-router. The race
// detector does not wait a second at the end.
func environment() []string {
	env := slices.DeleteFunc(os.Environ(), func(s string) bool { return strings.HasPrefix(s, "OH_ROUTER_") })
	return append(env, "GORACE=atexit_sleep_ms=10")
}

// ready asks a router or proxy whether it is.
func ready(ctx context.Context, port int) error {
	_, err := call(ctx, http.MethodGet, "http://"+loopback(port)+"/readyz")
	return err
}

// killRouter ends the router as a crash would and starts it again with the same
// flags. It returns when the new one was started, ready or not.
func (p *pair) killRouter() time.Time {
	p.t.Helper()
	p.router.kill()
	began := time.Now()
	p.router = start(p.t, "router, second life", server(p.t, "router", p.routerFlags), syscall.SIGTERM)
	return began
}

// killProxy ends the proxy as a crash would.
func (p *pair) killProxy() { p.proxy.kill() }

// restartProxy starts the proxy again with the same flags.
func (p *pair) restartProxy() {
	p.t.Helper()
	p.proxy = start(p.t, "proxy, second life", server(p.t, "proxy", p.proxyFlags), syscall.SIGTERM)
}

// url returns the address of a page of the router's API.
func (p *pair) url(path string) string { return p.scheme + "://" + loopback(p.routerPort) + path }

// bind maps a target with the command line and returns the mapped address.
func (p *pair) bind(t testing.TB, target string, flags ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), ohRouter, append([]string{"bind", target, "--server", p.url("")}, flags...)...)
	cmd.Env = environment()
	if p.ca != "" {
		cmd.Env = append(cmd.Env, "OH_ROUTER_CA_FILE="+p.ca, "OH_ROUTER_TOKEN_FILE="+p.token)
	}
	return strings.TrimSuffix(succeed(t, cmd), "\n")
}

// bindByGet maps a target with the call that a browser can make, and returns
// the mapped address.
func (p *pair) bindByGet(ctx context.Context, target string) (string, error) {
	body, err := p.callAt(ctx, http.MethodGet, p.url("/route/bind/"+strings.Replace(target, ":", "/", 1)))
	if err != nil {
		return "", err
	}
	var answer struct {
		Success bool
		Data    struct {
			Host string
			Port int
		}
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return "", fmt.Errorf("bind %s: answer %s: %w", target, body, err)
	}
	if !answer.Success {
		return "", fmt.Errorf("bind %s: answer %s with status 200", target, body)
	}
	return fmt.Sprintf("%s:%d", answer.Data.Host, answer.Data.Port), nil
}

// cutSessions kills every session of the router and returns how many there were.
func (p *pair) cutSessions(ctx context.Context) (int, error) {
	body, err := p.callAt(ctx, http.MethodGet, p.url("/v1/sessions"))
	if err != nil {
		return 0, err
	}
	var answer struct{ Sessions []struct{ ID string } }
	if err := json.Unmarshal(body, &answer); err != nil {
		return 0, err
	}
	for _, s := range answer.Sessions {
		if _, err := p.callAt(ctx, http.MethodDelete, p.url("/v1/sessions/"+s.ID)); err != nil {
			return 0, err
		}
	}
	return len(answer.Sessions), nil
}

// call makes one HTTP call on a connection of its own and returns the body of a
// 2xx answer.
func call(ctx context.Context, method, url string) ([]byte, error) {
	return (&pair{}).callAt(ctx, method, url)
}

// callAt makes a call as whoever may do everything with the pair.
func (p *pair) callAt(ctx context.Context, method, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return nil, err
	}
	if p.secret != "" {
		req.Header.Set("Authorization", "Bearer "+p.secret)
	}
	transport := &http.Transport{DisableKeepAlives: true, TLSClientConfig: p.tls}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode/100 != 2 {
		err = fmt.Errorf("%s %s: %s: %s", method, url, resp.Status, body)
	}
	return body, err
}
