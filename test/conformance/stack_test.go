//go:build linux

package conformance

import (
	"fmt"
	"net/http"
	"os/exec"
	"testing"
	"time"
)

// flags are what a test adds to the command lines of a stack.
type flags struct {
	router, proxy []string
	ports         int           // size of the range; 0 is 8
	secured       bool          // certificates, as two machines have them
	proxies       []string      // what the router dials in place of a proxy of the stack's own
	roundTrip     time.Duration // between router and proxy; 0 as short as can be
}

// stack is a router and the proxy it dials, each a process of its own.
type stack struct {
	router, proxy           *process
	routerFlags, proxyFlags []string // to start them again
	api                     string   // URL of the router's API
	link, metrics           string   // addresses of the proxy
	secured                 bool
	low, high               int // the range of mapped ports
}

// start runs a proxy that may dial loopback addresses, and a router. Flags of
// the test win: they stand behind those given here.
func start(t testing.TB, f flags) *stack {
	t.Helper()
	if f.ports == 0 {
		f.ports = 8
	}
	first := ports.take(t, 3+f.ports)
	s := &stack{
		api: "http://" + loopback(first), link: loopback(first + 1), metrics: loopback(first + 2),
		low: first + 3, high: first + 2 + f.ports, secured: f.secured || isSecured(t),
	}
	routers, proxys := "none", "none"
	if s.secured {
		enrol(t)
		s.api = "https://" + loopback(first)
		routers, proxys = state(t, secured.router), state(t, secured.proxy)
	}
	s.proxyFlags = append([]string{
		"--listen", s.link, "--metrics", s.metrics, "--allow", "127.0.0.0/8:*", "--state", proxys, "--drain-timeout", "3s",
	}, f.proxy...)
	s.routerFlags = append([]string{
		"--listen", loopback(first), "--state", routers, "--drain-timeout", "3s",
		"--park", "30s", // a slow machine may take its time between a bind and the client
		"--ports", fmt.Sprintf("%d-%d", s.low, s.high),
	}, f.router...)
	for _, proxy := range f.proxies {
		s.routerFlags = append(s.routerFlags, "--proxy", proxy)
	}
	if f.proxies == nil {
		at := s.link
		if f.roundTrip > 0 {
			at = distant(t, s.link, f.roundTrip)
		}
		s.routerFlags = append(s.routerFlags, "--proxy", at)
		s.startProxy(t)
	}
	s.startRouter(t)
	return s
}

// startProxy runs the proxy, again if it has ended, and waits until it is ready.
func (s *stack) startProxy(t testing.TB) {
	t.Helper()
	s.proxy = launch(t, "proxy", server(t, "proxy", s.proxyFlags...))
	s.proxy.awaitReady(t, "http://"+s.metrics)
}

// startRouter runs the router, again if it has ended, and waits until it is ready.
func (s *stack) startRouter(t testing.TB) {
	t.Helper()
	s.router = launch(t, "router", server(t, "router", s.routerFlags...))
	s.router.awaitReady(t, s.api)
}

// server returns the command that runs a role.
func server(t testing.TB, role string, flags ...string) *exec.Cmd {
	cmd := exec.Command(program, append([]string{role}, flags...)...)
	cmd.Env = environment(t)
	return cmd
}

func (p *process) awaitReady(t testing.TB, url string) {
	t.Helper()
	eventually(t, 2*soon, func() error {
		if !p.running() {
			t.Fatalf("%s ended before it was ready", p.name)
		}
		return wantStatus(url+"/readyz", http.StatusOK)
	})
}

// wantStatus asks a URL and returns an error unless the answer has the status.
func wantStatus(url string, status int) error {
	a, err := request(http.MethodGet, url, "", nil)
	if err == nil && a.status != status {
		err = fmt.Errorf("GET %s = %v, want status %d", url, a, status)
	}
	return err
}
