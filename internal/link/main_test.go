package link

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	ohrouter "github.com/ohrouter/oh-router"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	database = ohrouter.Target{Host: "db.internal", Port: 3306}
	resolved = netip.MustParseAddrPort("10.0.0.5:3306")
)

// script is a connection whose peer sends these bytes and then closes. It
// takes note of what its user does.
type script struct {
	rest []byte // not read yet
	step int    // the most bytes that come at once; 0 all

	sent   bytes.Buffer
	asked  int // the most bytes that were asked for at once
	closed int
}

func (s *script) Read(p []byte) (int, error) {
	s.asked = max(s.asked, len(p))
	if len(s.rest) == 0 {
		return 0, io.EOF
	}
	if s.step > 0 && len(p) > s.step {
		p = p[:s.step]
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

func (s *script) Write(p []byte) (int, error)      { return s.sent.Write(p) }
func (s *script) Close() error                     { s.closed++; return nil }
func (s *script) LocalAddr() net.Addr              { return nil }
func (s *script) RemoteAddr() net.Addr             { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }
func (s *script) SetDeadline(time.Time) error      { return nil }
func (s *script) SetReadDeadline(time.Time) error  { return nil }
func (s *script) SetWriteDeadline(time.Time) error { return nil }

// counted is States that can be read.
type counted struct {
	*States
	reg *prometheus.Registry
}

func newStates() counted {
	reg := prometheus.NewRegistry()
	return counted{NewStates(reg), reg}
}

// now returns ohrouter_links by state.
func (c counted) now(t testing.TB) map[string]float64 {
	t.Helper()
	families, err := c.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, m := range families[0].GetMetric() {
		got[m.GetLabel()[0].GetValue()] = m.GetGauge().GetValue()
	}
	return got
}

// want fails the test unless ohrouter_links says so, warm ones left aside.
func (c counted) want(t testing.TB, handshakes, parkedLinks, activeLinks float64) {
	t.Helper()
	got := c.now(t)
	for state, n := range map[string]float64{"handshake": handshakes, "parked": parkedLinks, "active": activeLinks} {
		if got[state] != n {
			t.Errorf("ohrouter_links{state=%q} = %v, want %v (all: %v)", state, got[state], n, got)
		}
	}
}

// newLink returns the dialer's end of a link over conn.
func newLink(conn net.Conn, states *States) *Link {
	p := &proxy{Proxy: Proxy{Name: "dc1", Address: "127.0.0.1:9000"}, states: states}
	p.links.Add(1)
	states.begin()
	return &Link{conn: conn, proxy: p}
}

// ask makes the handshake of a link for what is wanted.
func ask(t testing.TB, ctx context.Context, l *Link, want Want) (answered bool, err error) {
	t.Helper()
	b, err := want.commands()
	if err != nil {
		t.Fatal(err)
	}
	return l.handshake(ctx, b, want)
}
