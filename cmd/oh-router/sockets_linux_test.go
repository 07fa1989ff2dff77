package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/config"
	"github.com/ohrouter/oh-router/internal/link"
	"github.com/ohrouter/oh-router/internal/relay"
	"github.com/ohrouter/oh-router/internal/socket"
	"github.com/ohrouter/oh-router/internal/sysctl"
)

// hop is a router and a proxy of this process, whose sockets a test can look
// at.
type hop struct {
	router *routerServer
	proxy  *proxyServer
	target *net.TCPListener
}

// startHop starts both with the given flags, and a target that echoes.
func startHop(t testing.TB, routerFlags, proxyFlags []string) *hop {
	t.Helper()
	ln, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				io.Copy(c, c)
				c.Close()
			}()
		}
	}()
	h := &hop{target: ln}
	p := newTestProcess(t, config.ProxyRole, append(proxyFlags, "--listen=127.0.0.1:0", "--allow=127.0.0.0/8:*", "--state=none"))
	if h.proxy, err = startProxy(t.Context(), p, p.cfg.Proxy.Listen.String(), p.descriptors(2), link.NewStates(p.metrics)); err != nil {
		t.Fatal(err)
	}
	runUntilEnd(t, p, h.proxy)
	p = newTestProcess(t, config.RouterRole, append(routerFlags, "--listen=127.0.0.1:0", "--state=none", "--proxy="+h.proxy.listener.Addr().String()))
	if h.router, err = startRouter(t.Context(), p, proxyList(p.cfg.Router.Proxies), p.descriptors(2), link.NewStates(p.metrics)); err != nil {
		t.Fatal(err)
	}
	runUntilEnd(t, p, h.router)
	return h
}

// newTestProcess returns a process with what the flags say.
func newTestProcess(t testing.TB, role config.Role, flags []string) *process {
	t.Helper()
	cmd := &cobra.Command{}
	cmd.SetOut(io.Discard)
	cmd.SetErr(io.Discard)
	config.Flags(cmd.Flags(), role)
	if err := cmd.ParseFlags(flags); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(role, cmd.Flags(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	p := newProcess(cmd, cfg)
	procs := runtime.GOMAXPROCS(0)
	p.relay, err = newEngine(cfg.Loops, cfg.BusyPoll)
	runtime.GOMAXPROCS(procs)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// runUntilEnd runs a server until the test is over.
func runUntilEnd(t testing.TB, p *process, s server) {
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.run(ctx, p.drain) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("run = %v after its end", err)
		}
		p.relay.Close()
	})
}

// bind maps the target and returns the mapped address.
func (h *hop) bind(t testing.TB) netip.AddrPort {
	t.Helper()
	target, err := ohrouter.ParseTarget(h.target.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, _, err := h.router.registry.Bind(t.Context(), ohrouter.BindingSpec{Target: target})
	if err != nil {
		t.Fatal(err)
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), b.Port)
}

// connect opens a session.
func connect(t testing.TB, at netip.AddrPort) {
	t.Helper()
	c, err := net.Dial("tcp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(30 * time.Second))
	b := make([]byte, 4)
	if _, err := io.WriteString(c, "ping"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, b); err != nil {
		t.Fatal(err)
	}
}

// settings are those of a socket.
type settings struct {
	congestion string
	noDelay    int
	idle       int // s
	timeout    int // ms
}

func settingsOf(fd int) (s settings, err error) {
	if s.congestion, err = unix.GetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION); err != nil {
		return s, err
	}
	for option, to := range map[int]*int{unix.TCP_NODELAY: &s.noDelay, unix.TCP_KEEPIDLE: &s.idle, unix.TCP_USER_TIMEOUT: &s.timeout} {
		if *to, err = unix.GetsockoptInt(fd, unix.IPPROTO_TCP, option); err != nil {
			return s, err
		}
	}
	return s, nil
}

// sockets returns what the connected sockets of this process have that end at
// an address.
func sockets(t testing.TB, end string, at netip.AddrPort) (found []settings) {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	name := map[string]func(int) (unix.Sockaddr, error){"local": unix.Getsockname, "peer": unix.Getpeername}[end]
	for _, f := range files {
		fd, err := strconv.Atoi(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := unix.Getpeername(fd); err != nil {
			continue // no socket, not connected, or closed meanwhile
		}
		sa, err := name(fd)
		if v4, ok := sa.(*unix.SockaddrInet4); err != nil || !ok || netip.AddrPortFrom(netip.AddrFrom4(v4.Addr), uint16(v4.Port)) != at {
			continue
		}
		if s, err := settingsOf(fd); err == nil {
			found = append(found, s)
		}
	}
	return found
}

// wantSockets waits until there are two sockets of a leg, and all have what they
// should: an event loop settles what it has connected when that has lasted a
// moment.
func wantSockets(t testing.TB, leg, end string, at netip.AddrPort, want settings) {
	t.Helper()
	for until := time.Now().Add(30 * time.Second); ; runtime.Gosched() {
		found := sockets(t, end, at)
		right := 0
		for _, s := range found {
			if s == want {
				right++
			}
		}
		if right >= 2 && right == len(found) {
			return
		}
		if time.Now().After(until) {
			t.Errorf("%s: sockets have %+v, want two or more, each with %+v", leg, found, want)
			return
		}
	}
}

// systems returns the congestion control of the system and one that is another.
func systems(t testing.TB) (own, other string) {
	t.Helper()
	own = strings.Join(sysctl.Fields("net.ipv4.tcp_congestion_control"), "")
	for _, other := range []string{"reno", "cubic"} {
		if other != own && socket.CheckCongestion(other) == nil {
			return own, other
		}
	}
	t.Skip("there is one congestion control alone")
	return "", ""
}

// What is configured for a leg is what the sockets of that leg have, accepted or
// connected, those of a parked check and those that a loop makes.
func TestSettingsReachTheSockets(t *testing.T) {
	own, other := systems(t)
	legs := []struct{ name, role, flag, end string }{
		{"client", "router", "--client-congestion=", "local"},
		{"router's link", "router", "--link-congestion=", "peer"},
		{"proxy's link", "proxy", "--link-congestion=", "local"},
		{"target", "proxy", "--target-congestion=", "peer"},
	}
	for _, chosen := range legs {
		t.Run(chosen.name, func(t *testing.T) {
			flags := map[string][]string{"router": {"--dead-peer-timeout=14s", "--pool=0-0"}, "proxy": {"--dead-peer-timeout=7s"}}
			flags[chosen.role] = append(flags[chosen.role], chosen.flag+other)
			h := startHop(t, flags["router"], flags["proxy"])
			at := h.bind(t)
			connect(t, at) // on the link of the check
			connect(t, at) // on one that a loop makes
			leads := []netip.AddrPort{at, addrOf(h.proxy.listener), addrOf(h.proxy.listener), addrOf(h.target)}
			for i, l := range legs {
				want := map[string]settings{"router": {own, 1, 4, 14_000}, "proxy": {own, 1, 2, 7_000}}[l.role]
				if l == chosen {
					want.congestion = other
				}
				wantSockets(t, l.name, l.end, leads[i], want)
			}
		})
	}
}

func addrOf(ln *net.TCPListener) netip.AddrPort { return ln.Addr().(*net.TCPAddr).AddrPort() }

func TestBacklogReachesTheListeners(t *testing.T) {
	h := startHop(t, []string{"--backlog=7"}, []string{"--backlog=9"})
	want := map[netip.AddrPort]uint32{h.bind(t): 7, addrOf(h.proxy.listener): 9}
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		fd, _ := strconv.Atoi(f.Name())
		if is, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err != nil || is == 0 {
			continue
		}
		sa, err := unix.Getsockname(fd)
		v4, ok := sa.(*unix.SockaddrInet4)
		if err != nil || !ok {
			continue
		}
		at := netip.AddrPortFrom(netip.AddrFrom4(v4.Addr), uint16(v4.Port))
		// Of a listener, tcpi_sacked is the backlog.
		info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil {
			t.Fatal(err)
		}
		if backlog, ok := want[at]; ok && info.Sacked != backlog {
			t.Errorf("backlog at %v = %d, want %d", at, info.Sacked, backlog)
		}
		delete(want, at)
	}
	if len(want) > 0 {
		t.Errorf("no listener at %v", want)
	}
}

// TestMaxLoops has what may be configured and what an engine may have, which are
// told by packages that do not know each other.
func TestMaxLoops(t *testing.T) {
	for loops, ok := range map[int]bool{relay.MaxLoops: true, relay.MaxLoops + 1: false} {
		cmd := &cobra.Command{}
		config.Flags(cmd.Flags(), config.Up)
		if err := cmd.ParseFlags([]string{"--loops", strconv.Itoa(loops)}); err != nil {
			t.Fatal(err)
		}
		if _, err := config.Load(config.Up, cmd.Flags(), nil, nil); (err == nil) != ok {
			t.Errorf("--loops %d: %v, want it allowed: %v", loops, err, ok)
		}
	}
}

func TestLoops(t *testing.T) {
	cores := runtime.GOMAXPROCS(0)
	defer runtime.GOMAXPROCS(cores)
	const each = 2 // epoll descriptors
	for loops, want := range map[int]int{0: min(cores, relay.MaxLoops), 1: 1, 5: 5} {
		runtime.GOMAXPROCS(cores)
		before := epolls(t)
		e, err := newEngine(loops, 0)
		if err != nil {
			t.Fatal(err)
		}
		if got := (epolls(t) - before) / each; got != want {
			t.Errorf("newEngine(%d) starts %d loops, want %d", loops, got, want)
		}
		if got := runtime.GOMAXPROCS(0); got != cores+want {
			t.Errorf("newEngine(%d): GOMAXPROCS = %d, want %d for the loops and %d for all else", loops, got, want, cores)
		}
		e.Close()
	}
}

// epolls returns how many epoll descriptors the process has.
func epolls(t testing.TB) (n int) {
	t.Helper()
	links, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if to, err := os.Readlink(l); err == nil && to == "anon_inode:[eventpoll]" {
			n++
		}
	}
	return n
}

func TestHostsAndOpenMetrics(t *testing.T) {
	for _, open := range []bool{false, true} {
		h := startHop(t, []string{"--allowed-hosts=api.internal", fmt.Sprintf("--open-metrics=%v", open)}, nil)
		call := func(method, host, path, body string) int {
			t.Helper()
			req, err := http.NewRequestWithContext(t.Context(), method, "http://"+h.router.listener.Addr().String()+path, strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			req.Host = host
			req.Header.Set("Content-Type", "application/json")
			res, err := http.DefaultTransport.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			res.Body.Close()
			return res.StatusCode
		}
		defer http.DefaultTransport.(*http.Transport).CloseIdleConnections()
		if got := call("GET", "api.internal:8080", "/v1/bindings", ""); got != http.StatusOK {
			t.Errorf("a call by an allowed name: %d, want 200", got)
		}
		if got := call("GET", "other.internal", "/v1/bindings", ""); got != http.StatusForbidden {
			t.Errorf("a call by another name: %d, want 403", got)
		}
		if got := call("POST", "localhost", "/v1/tokens", `{"name":"a","role":"admin"}`); got != http.StatusCreated {
			t.Fatalf("a call for a token: %d, want 201", got)
		}
		if got := call("GET", "localhost", "/metrics", "") == http.StatusOK; got != open {
			t.Errorf("open metrics %v: /metrics answers without a token %v", open, got)
		}
	}
}
