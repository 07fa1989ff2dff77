package router_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/audit/audittest"
	"github.com/ohrouter/oh-router/internal/relay"
	"github.com/ohrouter/oh-router/internal/router"
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

// direct is a Linker whose links lead to their targets without a proxy, or, when
// an event loop makes them, through a gate.
type direct struct {
	before func(context.Context, router.Want) error // what a Dial waits for; nil nothing
	after  func()                                   // what happens when a link is there; nil nothing
	dials  bool                                     // no loop makes a link
	down   atomic.Bool                              // what Up denies
	gate   netip.AddrPort                           // start opens it

	mu    sync.Mutex // guards what follows
	links []*directLink
	wants []router.Want
	acked uint64 // what the latest call that has failed was told
}

// directHandshake is the making of a direct's link.
type directHandshake struct {
	*direct
	want router.Want
	link *directLink
}

func (d *direct) Begin(want router.Want) router.Handshake {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.wants = append(d.wants, want)
	return &directHandshake{direct: d, want: want}
}

func (h *directHandshake) Secured(tls.ConnectionState) error { return nil }

func (h *directHandshake) Call(func()) (relay.Call, bool) {
	if h.dials || h.before != nil || h.after != nil || h.want.Park {
		return relay.Call{}, false
	}
	h.link = &directLink{at: netip.MustParseAddrPort(h.want.Target.String())}
	return relay.Call{To: h.gate, Hello: append([]byte(h.want.Target.String()+"\n"), h.want.Preamble...), ConnectWithin: deadline, AnswerWithin: deadline}, true
}

func (h *directHandshake) Answered(b []byte) (n int, err error) {
	line, _, ok := bytes.Cut(b, []byte("\n"))
	switch {
	case !ok:
		return 0, nil
	case string(line) != "connected":
		return 0, &ohrouter.Error{Code: ohrouter.TargetRefused, Message: string(line)}
	}
	h.made(h.link)
	return len(line) + 1, nil
}

func (h *directHandshake) Link() router.Link { return h.link }

func (h *directHandshake) Failed(err error, gave bool, acked uint64) error {
	h.link.Close()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.acked = acked
	if string(h.want.Proxy) == elsewhere && !gave {
		return nil
	}
	return err
}

// elsewhere names a proxy after whose failure another one is dialled.
const elsewhere = "elsewhere"

func (h *directHandshake) Dial(ctx context.Context) (router.Link, error) {
	if h.before != nil {
		if err := h.before(ctx, h.want); err != nil {
			return nil, err
		}
	}
	conn, err := socket.Options{}.Dial(context.WithoutCancel(ctx), h.want.Target.String()) // a link may come late
	if err != nil {
		return nil, &ohrouter.Error{Code: ohrouter.TargetRefused, Message: "refused", Err: err}
	}
	if !h.want.Park {
		conn.Write(h.want.Preamble)
	}
	if h.want.Early != nil {
		conn.Write(h.want.Early())
	}
	if h.after != nil {
		h.after()
	}
	l := &directLink{conn: conn, at: conn.RemoteAddr().(*net.TCPAddr).AddrPort()}
	h.made(l)
	return l, nil
}

func (d *direct) made(l *directLink) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.links = append(d.links, l)
}

// openGate serves what Call says: a line with the target, which is answered by
// "connected" or anything else.
func openGate(t testing.TB) netip.AddrPort {
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait) // behind serve's, when no more come
	at := serve(t, func(c *net.TCPConn) {
		wg.Go(func() {
			var line []byte
			for b := make([]byte, 1); !bytes.HasSuffix(line, []byte("\n")); line = append(line, b...) {
				if _, err := c.Read(b); err != nil {
					c.Close()
					return
				}
			}
			target, err := socket.Options{}.Dial(context.Background(), strings.TrimSpace(string(line)))
			if err != nil {
				io.WriteString(c, "refused\n")
				io.Copy(io.Discard, c)
				c.Close()
				return
			}
			c.SetLinger(0)
			io.WriteString(c, "connected\n")
			relay.Pipe(c, target, new(relay.Counters))
		})
	})
	return netip.MustParseAddrPort(at.String())
}

func (d *direct) Up(context.Context, string) bool { return !d.down.Load() }

// calls returns what was asked for so far.
func (d *direct) calls() []router.Want {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.wants)
}

// link returns the i-th link that was made.
func (d *direct) link(i int) *directLink {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.links[i]
}

type directLink struct {
	conn          *net.TCPConn // nil on a loop
	at            netip.AddrPort
	acked, closed atomic.Bool
	deaf          bool // Ack fails
}

func (l *directLink) Peer() (proxy string, resolved netip.AddrPort) {
	return "near", l.at
}

func (l *directLink) Alive() bool          { return !socket.Pending(l.conn) }
func (l *directLink) Take(func()) net.Conn { return l.conn }

func (l *directLink) Conn() net.Conn { return l.conn }

func (l *directLink) Ack(context.Context, *net.TCPConn) error {
	if l.deaf {
		return io.ErrClosedPipe
	}
	l.acked.Store(true)
	return nil
}

func (l *directLink) Close() {
	l.closed.Store(true)
	if l.conn != nil {
		l.conn.Close()
	}
}

// target is a server whose connections are in the test's hands.
type target struct {
	ohrouter.Target
	conns chan *net.TCPConn
}

func newTarget(t testing.TB) *target {
	t.Helper()
	x := &target{conns: make(chan *net.TCPConn, 1024)}
	x.Target = serve(t, func(c *net.TCPConn) { x.conns <- c })
	t.Cleanup(func() {
		for {
			select {
			case c := <-x.conns:
				c.Close()
			default:
				return
			}
		}
	})
	return x
}

// serve calls handle for every connection to the target that it returns.
func serve(t testing.TB, handle func(*net.TCPConn)) ohrouter.Target {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			handle(c.(*net.TCPConn))
		}
	})
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	addr := ln.Addr().(*net.TCPAddr).AddrPort()
	return ohrouter.Target{Host: addr.Addr().String(), Port: addr.Port()}
}

// next returns the target's next connection.
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

// fixture is a router in a test.
type fixture struct {
	*router.Router
	linker  *direct
	audited *audittest.Stream
	metrics *prometheus.Registry
	budget  socket.Budget
	t       testing.TB
}

// start returns a router with so many descriptors, which it has to have given
// back when the test is over.
func start(t testing.TB, descriptors int, linker router.Linker) *fixture {
	t.Helper()
	f := &fixture{metrics: prometheus.NewRegistry(), budget: socket.NewBudget(descriptors), audited: audittest.New(t), t: t}
	if d, ok := linker.(*direct); ok {
		f.linker, d.gate = d, openGate(t)
	}
	engine, err := relay.NewEngine(2, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(engine.Close)
	f.Router = router.New(router.Config{
		BindAddress: netip.MustParseAddr("127.0.0.1"), Linker: linker, Relay: engine, Park: time.Hour,
		Descriptors: f.budget, Audit: f.audited.Log, Log: slog.New(slog.DiscardHandler), Metrics: f.metrics,
	})
	t.Cleanup(func() {
		f.Shutdown(ended())
		if !f.budget.TryAcquire(descriptors) {
			t.Error("descriptors are missing in the budget after Shutdown")
		}
	})
	return f
}

// ended returns a context that has ended.
func ended() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// open opens a binding of a target and returns its address.
func (f *fixture) open(b ohrouter.Binding) string {
	f.t.Helper()
	if err := f.Open(b); err != nil {
		f.t.Fatal(err)
	}
	return f.Addr(b.ID)
}

// check makes the check of a bind, which has to succeed.
func (f *fixture) check(b ohrouter.Binding) {
	f.t.Helper()
	if _, _, err := f.Check(f.t.Context(), b); err != nil {
		f.t.Fatal(err)
	}
}

// count returns the value of a metric, of all labels or of the one given.
func (f *fixture) count(name, label string) (sum float64) {
	f.t.Helper()
	families, err := f.metrics.Gather()
	if err != nil {
		f.t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, m := range family.GetMetric() {
			if label != "" && (len(m.GetLabel()) != 1 || m.GetLabel()[0].GetValue() != label) {
				continue
			}
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return sum
}

// wantOutcome waits for the one session that there was to have ended so.
func (f *fixture) wantOutcome(want ohrouter.Outcome) {
	f.t.Helper()
	until(f.t, "a session ends", func() bool { return f.count("ohrouter_sessions_total", "") > 0 })
	for _, o := range ohrouter.Outcomes() {
		n := f.count("ohrouter_sessions_total", string(o))
		if (o == want) != (n == 1) {
			f.t.Errorf("%v sessions ended as %s, want one as %s", n, o, want)
		}
	}
}

func connect(t testing.TB, addr string) *net.TCPConn {
	t.Helper()
	return connectFrom(t, "", addr)
}

// connectFrom connects from an address of this machine; "" is any.
func connectFrom(t testing.TB, from, addr string) *net.TCPConn {
	t.Helper()
	var d net.Dialer
	if from != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
	}
	c, err := d.DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(deadline))
	return c.(*net.TCPConn)
}

// wantReset checks that c is reset, not closed.
func wantReset(t testing.TB, who string, c net.Conn) {
	t.Helper()
	if _, err := io.Copy(io.Discard, c); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%s sees %v, want a reset", who, err)
	}
}

// wantTurnedAway checks that whoever connects is reset, be it so soon that the
// connect says so.
func wantTurnedAway(t testing.TB, addr string) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	switch {
	case err == nil:
		c.SetDeadline(time.Now().Add(deadline))
		wantReset(t, "client", c)
		c.Close()
	case !errors.Is(err, syscall.ECONNRESET):
		t.Errorf("connect to %s: %v, want a reset", addr, err)
	}
}

// wantClosed checks that c ends in order.
func wantClosed(t testing.TB, who string, c net.Conn) {
	t.Helper()
	if n, err := io.Copy(io.Discard, c); n != 0 || err != nil {
		t.Errorf("%s sees %d bytes and %v, want an orderly end", who, n, err)
	}
}

// wantGone checks that c has ended, in order or not.
func wantGone(t testing.TB, who string, c net.Conn) {
	t.Helper()
	if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%s is still connected", who)
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
