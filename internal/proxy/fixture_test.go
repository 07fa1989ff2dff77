package proxy_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/link"
	"github.com/ohrouter/oh-router/internal/policy"
	"github.com/ohrouter/oh-router/internal/proxy"
	"github.com/ohrouter/oh-router/internal/relay"
	"github.com/ohrouter/oh-router/internal/socket"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// deadline is when a test that hangs gives up; no test waits for it.
const deadline = 30 * time.Second

// until waits for what no event tells.
func until(t testing.TB, what string, done func() bool) {
	t.Helper()
	tick, over := time.NewTicker(time.Millisecond), time.After(deadline)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-over:
			t.Fatalf("never happened: %s", what)
		}
	}
}

// names is a resolver.
type names struct {
	calls   atomic.Int32
	resolve func(ctx context.Context, host string) ([]netip.Addr, error)
}

func (n *names) Resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	n.calls.Add(1)
	if n.resolve == nil {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return n.resolve(ctx, host)
}

// is makes every name these addresses.
func is(addrs ...string) func(context.Context, string) ([]netip.Addr, error) {
	var list []netip.Addr
	for _, a := range addrs {
		list = append(list, netip.MustParseAddr(a))
	}
	return func(context.Context, string) ([]netip.Addr, error) { return list, nil }
}

// record is a log that the test reads.
type record struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (r *record) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.buf.Write(b)
}

// lines returns the lines that have all the words.
func (r *record) lines(words ...string) (found []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
next:
	for line := range strings.Lines(r.buf.String()) {
		for _, w := range words {
			if !strings.Contains(line, w) {
				continue next
			}
		}
		found = append(found, line)
	}
	return found
}

const descriptors = 64

// fixture is a proxy that serves, and a dialer that knows it.
type fixture struct {
	*proxy.Proxy
	*link.Dialer
	addr    string
	names   *names
	log     *record
	metrics *prometheus.Registry
	t       testing.TB
}

// start returns a proxy that may dial what the patterns say and has given
// everything back when the test is over.
func start(t testing.TB, timeout time.Duration, patterns ...string) *fixture {
	t.Helper()
	return startWith(t, proxy.Config{}, timeout, patterns...)
}

// patient is a dial timeout that no test waits for.
const patient = 10 * time.Second

// startWith returns a proxy of which cfg says more.
func startWith(t testing.TB, cfg proxy.Config, timeout time.Duration, patterns ...string) *fixture {
	t.Helper()
	return startBeside(t, nil, cfg, timeout, patterns...)
}

// startBeside returns a proxy with a router in the same process.
func startBeside(t testing.TB, mapped func(uint16) netip.AddrPort, cfg proxy.Config, timeout time.Duration, patterns ...string) *fixture {
	t.Helper()
	ln, err := socket.Options{}.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	budget := socket.NewBudget(descriptors)
	f := &fixture{addr: ln.Addr().String(), names: new(names), log: new(record), metrics: prometheus.NewRegistry(), t: t}
	engine, err := relay.NewEngine(2, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(engine.Close)
	cfg.Allow, cfg.DialTimeout, cfg.Descriptors, cfg.States = list(t, patterns...), timeout, budget, link.NewStates(f.metrics)
	cfg.Resolve, cfg.Relay, cfg.Metrics = f.names.Resolve, engine, f.metrics
	cfg.Log = slog.New(slog.NewTextHandler(f.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	f.Proxy = proxy.New(cfg)
	f.Beside(mapped)
	f.Dialer = link.NewDialer([]link.Proxy{{Name: "p", Address: f.addr}}, link.NewStates(prometheus.NewRegistry()))
	served := make(chan error)
	go func() { served <- f.Serve(ln) }()
	t.Cleanup(func() {
		f.Shutdown(ended())
		if err := <-served; err != nil {
			t.Errorf("Serve = %v after a shutdown, want nil", err)
		}
		if !budget.TryAcquire(descriptors) {
			t.Error("descriptors are missing in the budget after Shutdown")
		}
	})
	return f
}

func list(t testing.TB, patterns ...string) *policy.List {
	t.Helper()
	l, err := policy.Parse(patterns)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// ended returns a context that has ended.
func ended() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// ask asks for a link.
func (f *fixture) ask(x ohrouter.Target, park bool) (*link.Link, error) {
	f.t.Helper()
	l, err := f.Dial(f.t.Context(), link.Want{Session: "s-1", Target: x, Park: park})
	if err == nil {
		f.t.Cleanup(l.Close)
	}
	return l, err
}

// link makes a link, which has to succeed, and returns the target's end too.
func (f *fixture) link(x *target, park bool) (*link.Link, *net.TCPConn) {
	f.t.Helper()
	l, err := f.ask(x.Target, park)
	if err != nil {
		f.t.Fatal(err)
	}
	l.Conn().SetDeadline(time.Now().Add(deadline))
	return l, x.next(f.t)
}

// wantCode checks why a target is not connected.
func (f *fixture) wantCode(x ohrouter.Target, want ohrouter.Code) {
	f.t.Helper()
	_, err := f.ask(x, false)
	if got := ohrouter.CodeOf(err); got != want {
		f.t.Errorf("link to %v: %v, with code %q, want %q", x, err, got, want)
	}
}

// dials returns how often the proxy has dialled.
func (f *fixture) dials() (n uint64) {
	f.t.Helper()
	families, err := f.metrics.Gather()
	if err != nil {
		f.t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() == "ohrouter_dial_seconds" {
			n = family.GetMetric()[0].GetHistogram().GetSampleCount()
		}
	}
	return n
}

// target is a server whose connections are in the test's hands.
type target struct {
	ohrouter.Target
	conns chan *net.TCPConn
}

// listen returns a target at an address, at any port if it is 0; nil if another
// program uses the port.
func listen(t testing.TB, ip string, port uint16) *target {
	t.Helper()
	at := netip.AddrPortFrom(netip.MustParseAddr(ip), port)
	ln, err := net.Listen("tcp", at.String())
	if port != 0 && errors.Is(err, syscall.EADDRINUSE) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().(*net.TCPAddr).AddrPort()
	x := &target{Target: ohrouter.Target{Host: ip, Port: addr.Port()}, conns: make(chan *net.TCPConn, 64)}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				close(x.conns)
				return
			}
			x.conns <- c.(*net.TCPConn)
		}
	})
	t.Cleanup(func() {
		ln.Close()
		wg.Wait()
		for c := range x.conns {
			c.Close()
		}
	})
	return x
}

// named returns the target under a name.
func (x *target) named(host string) *target {
	return &target{Target: ohrouter.Target{Host: host, Port: x.Port}, conns: x.conns}
}

func (x *target) next(t testing.TB) *net.TCPConn {
	t.Helper()
	select {
	case c := <-x.conns:
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(deadline))
		return c
	case <-time.After(deadline):
		t.Fatal("nobody connects to the target")
		return nil
	}
}

// say writes to one connection and expects it at the other.
func say(t testing.TB, from, to net.Conn, message string) {
	t.Helper()
	if _, err := io.WriteString(from, message); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(message))
	if _, err := io.ReadFull(to, got); err != nil || string(got) != message {
		t.Fatalf("read %q and %v, want %q", got, err, message)
	}
}

func wantReset(t testing.TB, who string, c net.Conn) {
	t.Helper()
	if _, err := io.Copy(io.Discard, c); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%s sees %v, want a reset", who, err)
	}
}

func wantClosed(t testing.TB, who string, c net.Conn) {
	t.Helper()
	if n, err := io.Copy(io.Discard, c); n != 0 || err != nil {
		t.Errorf("%s sees %d bytes and %v, want an orderly end", who, n, err)
	}
}
