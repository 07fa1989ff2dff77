package link

import (
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
)

func TestSecureLinks(t *testing.T) {
	c := newCerts(t)
	f := newFar(t, &c)
	n := newNear(t, &c, Pool{}, f.Proxy)
	for _, want := range []Want{
		{Session: "s-1", Target: database},
		{Session: "s-1", Target: database, Early: ahead("SELECT 1")},
		{Session: "s-1", Target: database, Early: ahead(strings.Repeat("x", 4096))},
		{Session: "s-1", Target: database, Preamble: []byte("PROXY "), Early: ahead("SELECT 1")},
		{Session: "s-1", Target: database, Park: true},
	} {
		l, err := n.Dial(t.Context(), want)
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := l.Conn().(*tls.Conn); !ok {
			t.Fatalf("the link is a %T", l.Conn())
		}
		if want.Park {
			if !l.Alive() {
				t.Error("a parked link is not alive")
			}
			if err := l.Ack(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
		}
		sent := string(want.Preamble)
		if want.Early != nil {
			sent += string(want.Early())
		}
		long := strings.Repeat("payload ", 1<<17)
		f.carry(t, l, long, sent+long)
	}
}

// TestPlainAndSecureDoNotMix has one side that has TLS and one that has not.
func TestPlainAndSecureDoNotMix(t *testing.T) {
	c := newCerts(t)
	for _, tt := range []struct {
		name          string
		router, proxy *certs
	}{
		{"router without TLS", nil, &c},
		{"proxy without TLS", &c, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFar(t, tt.proxy)
			n := newNear(t, tt.router, Pool{Max: 8}, f.Proxy)
			begin := time.Now()
			_, err := n.Dial(t.Context(), Want{Session: "s-1", Target: database, Early: ahead("SELECT 1")})
			if ohrouter.CodeOf(err) != ohrouter.ProxyUnreachable {
				t.Errorf("Dial = %v, want %s", err, ohrouter.ProxyUnreachable)
			}
			if _, err := n.warm(t.Context(), n.known()[0]); err == nil {
				t.Error("there is a warm link")
			}
			if took := time.Since(begin); took > Timeout*4/5 {
				t.Errorf("it took %v to know", took)
			}
			f.wantPayload(t)
			f.states.gone(t)
		})
	}
}

func TestWarmBesideALoop(t *testing.T) {
	states := newStates()
	here, drained := netip.IPv6Loopback(), make(chan struct{})
	close(drained)
	crowd := make(map[netip.Addr]int)
	crowd[here] = maxPerSource
	warm := encode(t, typeWarm, warmCommand{})
	for _, tt := range []struct {
		name string
		a    *Acceptor
		sent []byte
		n    int
		err  error
	}{
		{"warm", &Acceptor{}, warm, len(warm), nil},
		{"a command behind it", &Acceptor{}, append(slices.Clone(warm), connectFrame(t, false)...), len(warm), nil},
		{"nothing", &Acceptor{}, nil, headerSize, nil},
		{"not complete", &Acceptor{}, warm[:len(warm)-1], len(warm), nil},
		{"not a map", &Acceptor{}, []byte{Version, byte(typeWarm), 0, 1, 0xf6}, 0, ErrNotPipelined},
		{"another frame", &Acceptor{}, connectFrame(t, false), 0, ErrNotPipelined},
		{"too many", &Acceptor{parked: crowd}, warm, 0, ErrNotPipelined},
		{"draining", &Acceptor{Draining: drained}, warm, 0, ErrNotPipelined},
	} {
		tt.a.States, tt.a.Patience = states.States, time.Second
		r, n, ready, err := tt.a.Warm(tt.sent, here)
		if n != tt.n || !errors.Is(err, tt.err) || (r != nil) != (err == nil && n <= len(tt.sent)) {
			t.Errorf("%s: Warm = %v, %d, %v; want %d, %v", tt.name, r, n, err, tt.n, tt.err)
		}
		if r != nil {
			var m warmResponse
			if _, err := frames.take(ready, typeReady, &m); err != nil || m.Code != "" || m.Patience != 1000 {
				t.Errorf("%s: answer %+v, %v", tt.name, m, err)
			}
			if got := states.now(t)["warm"]; got != 1 || tt.a.parked[here] != 1 {
				t.Errorf("%s: %v warm links, %d of the source", tt.name, got, tt.a.parked[here])
			}
			r.Close()
			r.Close()
		}
		states.gone(t)
		if left := tt.a.parked[here]; left != 0 && left != maxPerSource {
			t.Errorf("%s: %d links of the source are left", tt.name, left)
		}
	}
}

func TestPipelined(t *testing.T) {
	states := newStates()
	want := Want{Session: "s-1", Target: database}
	commands, err := want.commands()
	if err != nil {
		t.Fatal(err)
	}
	parked := connectFrame(t, true)
	upper := encode(t, typeConnect, connectCommand{Host: "DB", Port: 1})
	for _, tt := range []struct {
		name string
		a    *Acceptor
		sent []byte
		n    int
		err  error
	}{
		{"pipelined", &Acceptor{}, commands, len(commands), nil},
		{"pipelined, payload behind it", &Acceptor{}, append(slices.Clone(commands), "SELECT 1"...), len(commands), nil},
		{"nothing", &Acceptor{}, nil, headerSize, nil},
		{"a header", &Acceptor{}, commands[:headerSize], len(commands) - len(frames.ack), nil},
		{"no AckCommand yet", &Acceptor{}, commands[:len(commands)-len(frames.ack)], len(commands), nil},
		{"not complete", &Acceptor{}, commands[:len(commands)-1], len(commands), nil},
		{"with TLS", &Acceptor{TLS: &tls.Config{MinVersion: tls.VersionTLS13}}, commands, len(commands), nil},
		{"parked", &Acceptor{}, parked, 0, ErrNotPipelined},
		{"warm", &Acceptor{}, encode(t, typeWarm, warmCommand{}), 0, ErrNotPipelined},
		{"another frame", &Acceptor{}, append(connectFrame(t, false), parked...), 0, ErrNotPipelined},
		{"TLS", &Acceptor{}, []byte{0x16, 3, 1, 0, 0}, 0, ErrNotPipelined},
		{"host in upper case", &Acceptor{}, upper, len(upper) + len(frames.ack), nil},
		{"host in upper case, complete", &Acceptor{}, append(slices.Clone(upper), frames.ack...), 0, ErrNotPipelined},
	} {
		tt.a.States = states.States
		r, n, err := tt.a.Pipelined(tt.sent, nil)
		if n != tt.n || !errors.Is(err, tt.err) || (r != nil) != (err == nil && n <= len(tt.sent)) {
			t.Errorf("%s: Pipelined = %v, %d, %v; want %d, %v", tt.name, r, n, err, tt.n, tt.err)
		}
		here := netip.IPv6Loopback()
		warm, _, _, _ := tt.a.Warm(encode(t, typeWarm, warmCommand{}), here)
		again, m, werr := tt.a.Pipelined(tt.sent, warm)
		if m != n || !errors.Is(werr, tt.err) || (again == warm) != (r != nil) {
			t.Errorf("%s: Pipelined on a warm link = %v, %d, %v; want as on another", tt.name, again, m, werr)
		}
		if waits := tt.a.parked[here] == 1; waits == (r != nil) {
			t.Errorf("%s: the link is among those that wait: %v", tt.name, waits)
		}
		warm.Close()
		if r != nil {
			states.want(t, 1, 0, 0)
			var m connectResponse
			if _, err := frames.take(r.Answer(resolved), typeResponse, &m); err != nil || m.Resolved != resolved.String() {
				t.Errorf("answer %+v, %v", m, err)
			}
			states.want(t, 0, 0, 1)
			r.Close()
		}
		states.want(t, 0, 0, 0)
	}
}

// TestSecondAttempt has settings that fail, and others for a second attempt.
func TestSecondAttempt(t *testing.T) {
	c, other := newCerts(t), newCerts(t)
	f := newFar(t, &c)
	good, bad := c.client(), other.client()
	for _, tt := range []struct {
		name          string
		first, second *tls.Config
		address       string
		attempts      int32 // connections
		asked         string
		ok, resumes   bool
	}{
		{"good at once", good, bad, f.Address, 1, "first", true, false},
		{"good, but nothing is resumed", good, c.client(), f.Address, 2, "first, again, again", true, true},
		{"good then", bad, good, f.Address, 2, "first, again, again", true, false},
		{"bad then", bad, other.client(), f.Address, 2, "first, again, again", false, false},
		{"the same", bad, bad, f.Address, 1, "first, again", false, false},
		{"nobody listens", good, bad, unreachable(t), 0, "first", false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := Proxy{Name: "far", Address: tt.address}
			n := newNear(t, &c, Pool{}, p)
			var asked []string
			n.TLS = func(of Proxy, again bool) (*tls.Config, bool) {
				if of != p {
					t.Errorf("asked for the settings of %v, want %v", of, p)
				}
				if again {
					asked = append(asked, "again")
					return tt.second, false
				}
				asked = append(asked, "first")
				return tt.first, tt.resumes
			}
			before := f.accepted.Load()
			l, err := n.Dial(t.Context(), Want{Session: "s-1", Target: database})
			if got := f.accepted.Load() - before; got != tt.attempts || strings.Join(asked, ", ") != tt.asked {
				t.Errorf("%d attempts, asked %v; want %d, %s", got, asked, tt.attempts, tt.asked)
			}
			if (err == nil) != tt.ok {
				t.Errorf("Dial = %v, want success %v", err, tt.ok)
			}
			if err == nil {
				f.carry(t, l, "", "")
			}
		})
	}
}

// TestRefusalIsExplained has a proxy that does not accept the router's
// certificate, which the router learns in place of the first answer.
func TestRefusalIsExplained(t *testing.T) {
	c, other := newCerts(t), newCerts(t)
	f := newFar(t, &c)
	explained := make(chan error, 1000)
	f.Explain = func(err error) error {
		explained <- err
		return ohrouter.Errorf(ohrouter.Unauthorized, "explained: %v", err)
	}
	n := newNear(t, &c, Pool{Max: 8}, f.Proxy)
	settings := c.client()
	settings.Certificates = []tls.Certificate{other.router}
	n.TLS = always(settings)
	n.Explain = func(_ Proxy, err error) error {
		if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "remote error" {
			return ohrouter.Errorf(ohrouter.Unauthorized, "explained")
		}
		return err
	}
	for _, want := range []Want{
		{Session: "s-1", Target: database, Park: true},
		{Session: "s-1", Target: database, Early: ahead("SELECT 1")},
		{Session: "s-1", Target: database, Early: ahead(strings.Repeat("x", 1<<20))}, // more than is taken
	} {
		for range 10 {
			_, err := n.Dial(t.Context(), want)
			if want := "no secure link to proxy far at " + f.Address + ": explained"; ohrouter.Message(err) != want {
				t.Fatalf("Dial = %q (%v), want %q", ohrouter.Message(err), err, want)
			}
			if err := <-explained; err == nil {
				t.Error("the proxy had nothing to explain")
			}
			if s := n.Proxies()[0]; s.State != ohrouter.ProxyDown || s.LastError == nil {
				t.Errorf("proxy %s, %v; want it down", s.State, s.LastError)
			}
		}
	}
	if _, err := n.warm(t.Context(), n.known()[0]); !strings.HasSuffix(ohrouter.Message(err), ": explained") {
		t.Errorf("warm = %v, want it explained", err)
	}
	f.states.gone(t)
}

// TestAttemptAfterARefusal has a proxy refuse what the first settings prove,
// which the router learns when its handshake is over.
func TestAttemptAfterARefusal(t *testing.T) {
	c, other := newCerts(t), newCerts(t)
	f := newFar(t, &c)
	n := newNear(t, &c, Pool{}, f.Proxy)
	first, again := c.client(), c.client()
	first.Certificates = []tls.Certificate{other.router}
	n.TLS = func(_ Proxy, second bool) (*tls.Config, bool) {
		if second {
			return again, false
		}
		return first, false
	}
	n.Explain = func(Proxy, error) error { return ohrouter.Errorf(ohrouter.Unauthorized, "explained") }
	for i := range 4 {
		l, err := n.Dial(t.Context(), Want{Session: "s-1", Target: database, Early: ahead("SELECT")})
		if (err == nil) != (i%2 == 1) {
			t.Fatalf("attempt %d: %v", i, err)
		}
		if err == nil {
			f.carry(t, l, " 1", "SELECT 1")
		}
	}
}

// TestWatchIsNotDeceived has a proxy that takes connections, and that one of the
// two does not trust: it is not up before somebody tries to use it.
func TestWatchIsNotDeceived(t *testing.T) {
	c, other := newCerts(t), newCerts(t)
	log, _ := newLog()
	for _, tt := range []struct {
		name          string
		router, proxy certs
		want          ohrouter.ProxyState
	}{
		{"both trusted", c, c, ohrouter.ProxyUp},
		{"the proxy is of another CA", c, other, ohrouter.ProxyDown},
		{"the router is of another CA", certs{pool: c.pool, router: other.router, proxy: c.proxy}, c, ohrouter.ProxyDown},
	} {
		f := newFar(t, &tt.proxy)
		n := newNear(t, &tt.router, Pool{}, f.Proxy)
		for range 2 {
			n.probe(t.Context(), log)
			if s := n.Proxies()[0]; s.State != tt.want || s.Links != 0 {
				t.Errorf("%s: the proxy is %s with %d links, want %s (%v)", tt.name, s.State, s.Links, tt.want, s.LastError)
			}
		}
		f.states.gone(t)
	}
}
