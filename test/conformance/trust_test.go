//go:build linux

package conformance

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// alpn is the protocol of links.
const alpn = "oh-router/1"

// commandFor returns a ConnectCommand and the AckCommand behind it.
func commandFor(port int) []byte {
	body := []byte{0xa3, 1, 0x63, 's', '-', 'x', 2, 0x69}
	body = append(body, "127.0.0.1"...)
	body = append(body, 3, 0x19, byte(port>>8), byte(port))
	frame := append([]byte{1, 1, 0, byte(len(body))}, body...)
	return append(frame, 1, 3, 0, 1, 0xa0)
}

// certificate returns that of a state directory.
func certificate(t testing.TB, state, role string) tls.Certificate {
	t.Helper()
	file := filepath.Join(state, "identity", role+".pem")
	pair, err := tls.LoadX509KeyPair(file, file)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

// asked says a ConnectCommand at a link port and returns all that comes back.
func asked(t testing.TB, link string, cfg *tls.Config, port int) string {
	t.Helper()
	var c net.Conn = connect(t, link)
	if cfg != nil {
		cfg.InsecureSkipVerify, cfg.NextProtos = true, []string{alpn} // an attacker does not mind who the proxy is
		c = tls.Client(c, cfg)
	}
	_, _ = c.Write(commandFor(port)) // may be refused already
	_ = c.SetReadDeadline(time.Now().Add(soon))
	got, err := io.ReadAll(c)
	if errors.Is(err, net.ErrClosed) || err != nil && strings.Contains(err.Error(), "timeout") {
		t.Errorf("the link stays, want its end; it says %q", got)
	}
	return string(got)
}

// Who says ConnectCommands at a proxy's link port by hand gets nowhere: without
// a router's certificate of the CA it is not heard, and with one it gets what
// the list permits and nothing else.
func TestRawCommands(t *testing.T) {
	t.Parallel()
	enrol(t)
	permitted, other := serve(t, echo), serve(t, echo)
	first := ports.take(t, 2)
	link, metrics := loopback(first), loopback(first+1)
	proxy := launch(t, "proxy", server(t, "proxy", "--listen", link, "--metrics", metrics,
		"--state", state(t, secured.proxy), "--allow", "127.0.0.0/8:"+portOf(permitted.addr)))
	proxy.awaitReady(t, "http://"+metrics)
	s := start(t, flags{secured: true, proxies: []string{link}})
	port := func(tg *target) int {
		n, err := strconv.Atoi(portOf(tg.addr))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	foreign := filepath.Join(t.TempDir(), "foreign")
	wantCode(t, command(t, nil, "ca", "init", "--state", foreign), 0, "ca", "init")
	ours := []tls.Certificate{certificate(t, secured.router, "router")}
	for name, cfg := range map[string]*tls.Config{
		"plain TCP":                 nil,
		"no certificate":            {},
		"TLS 1.2":                   {Certificates: ours, MaxVersion: tls.VersionTLS12},
		"a router of another CA":    {Certificates: []tls.Certificate{certificate(t, foreign, "router")}},
		"a proxy":                   {Certificates: []tls.Certificate{certificate(t, secured.proxy, "proxy")}},
		"a proxy behind its router": {Certificates: []tls.Certificate{chained(certificate(t, secured.proxy, "proxy"), ours[0])}},
	} {
		if got := asked(t, link, cfg, port(permitted)); strings.Contains(got, "127.0.0.1") {
			t.Errorf("%s: the proxy answers %q", name, got)
		}
	}
	if n := permitted.accepts.Load(); n != 0 {
		t.Errorf("the target has seen %d connections of strangers", n)
	}
	if got := asked(t, link, &tls.Config{Certificates: ours}, port(other)); !strings.Contains(got, "target_denied") || other.accepts.Load() != 0 {
		t.Errorf("a router asks for what the list does not have: %q, and the target has seen %d connections", got, other.accepts.Load())
	}
	wantEcho(t, connect(t, s.bind(t, permitted.addr).Address))
}

// chained returns a certificate with another as a filler behind it.
func chained(leaf, filler tls.Certificate) tls.Certificate {
	leaf.Certificate = append(slices.Clone(leaf.Certificate), filler.Certificate...)
	return leaf
}

// A proxy is who its certificate says, and no other, wherever it listens.
func TestProxyClaimsAnotherName(t *testing.T) {
	t.Parallel()
	behind := start(t, flags{secured: true})
	s := start(t, flags{secured: true, proxies: []string{"west=" + behind.link}})
	tg := serve(t, echo)
	a := s.want(t, 503, "proxy_unreachable", http.MethodPost, "/v1/bindings", fields{"target": tg.addr})
	if n := tg.accepts.Load(); n != 0 {
		t.Errorf("the target has seen %d connections", n)
	}
	if !strings.Contains(string(a.body), "proxy/east, not proxy/west") {
		t.Errorf("the answer does not say who came: %v", a)
	}
}

// Links that are open end with the certificate of their proxy.
func TestRevokedProxy(t *testing.T) {
	t.Parallel()
	s := start(t, flags{secured: true})
	e, idle := open(t, s), open(t, s)
	idle.client.CloseWrite() // in one direction it has ended
	wantEOF(t, idle.target, "target", 0)
	parked := s.bind(t, serve(t, echo).addr)
	began := time.Now()
	wantCode(t, s.cli(t, "proxy", "revoke", "east"), 0, "proxy", "revoke", "east")
	revoked := time.Now()
	for who, c := range map[string]net.Conn{"client": e.client, "target": e.target, "client of a half-closed session": idle.client} {
		wantReset(t, c, who, 0)
	}
	if took := time.Since(revoked); took > 2*time.Second {
		t.Errorf("open sessions end %v after the revocation (the command took %v), want within 2 s", took, revoked.Sub(began))
	}
	wantResetAt(t, parked.Address)
	s.want(t, 503, "proxy_unreachable", http.MethodPost, "/v1/bindings", fields{"target": serve(t, echo).addr})
	s.awaitSessions(t, 0)
}

// Frames that claim to be long cost who reads them nothing, however many.
func TestLengthBombs(t *testing.T) {
	s := start(t, flags{secured: true})
	b := s.bind(t, serve(t, echo).addr)
	wantEcho(t, connect(t, b.Address))
	ours := []tls.Certificate{certificate(t, secured.router, "router")}
	bomb := func() net.Conn {
		c := tls.Client(connect(t, s.link), &tls.Config{Certificates: ours, InsecureSkipVerify: true, NextProtos: []string{alpn}})
		if _, err := c.Write([]byte{1, 1, 0xff, 0xff}); err != nil {
			t.Fatal(err)
		}
		return c
	}
	bomb() // what the first allocates is not counted
	before := s.proxy.rss(t)
	const bombs = 200
	for range bombs {
		bomb()
	}
	if !raceEnabled {
		wantGrowth(t, "proxy", before, s.proxy.rss(t), bombs*64<<10)
	}
	wantEcho(t, connect(t, b.Address))
}

// tenant is somebody with a token.
type tenant struct {
	s      *stack
	secret string
}

func (s *stack) tenant(t testing.TB, by string, spec fields) tenant {
	t.Helper()
	status, body := s.withToken(t, by, http.MethodPost, "/v1/tokens", spec)
	var made struct{ Secret string }
	if json.Unmarshal([]byte(body), &made) != nil || status != http.StatusCreated {
		t.Fatalf("make the token %v: %d %s", spec, status, body)
	}
	return tenant{s, made.Secret}
}

// bind maps a target and returns the status and the binding.
func (a tenant) bind(t testing.TB, target string) (int, binding) {
	t.Helper()
	status, body := a.s.withToken(t, a.secret, http.MethodPost, "/v1/bindings", fields{"target": target})
	var b binding
	if err := json.Unmarshal([]byte(body), &b); err != nil {
		t.Fatalf("bind %s: %s", target, body)
	}
	return status, b
}

// Who has used up everything that was granted does not get more, and takes
// nothing from who is beside.
func TestTenantsBesideEachOther(t *testing.T) {
	t.Parallel()
	s := start(t, flags{ports: 16})
	root := s.tenant(t, "", fields{"name": "root", "role": "admin"})
	greedy := s.tenant(t, root.secret, fields{
		"name": "greedy", "role": "user", "targets": []string{"127.0.0.0/8:*"},
		"max_bindings": 3, "max_sessions": 4, "targets_per_minute": 5, "calls_per_second": 20,
	})
	other := s.tenant(t, root.secret, fields{"name": "other", "role": "user", "targets": []string{"127.0.0.0/8:*"}})
	tg := serve(t, echo)

	status, mine := other.bind(t, tg.addr)
	if status != http.StatusCreated {
		t.Fatalf("the other's bind = %d", status)
	}
	held := connect(t, mine.Address)
	wantEcho(t, held)
	works := func(when string) {
		t.Helper()
		began := time.Now()
		if err := errors.Join(exchange(held), shortSession(mine.Address)); err != nil {
			t.Errorf("%s the other's sessions: %v", when, err)
		}
		if status, b := other.bind(t, tg.addr); status != http.StatusOK || b.Address != mine.Address {
			t.Errorf("%s the other binds: %d %+v", when, status, b)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("%s the other has to wait %v", when, took)
		}
	}
	works("before all")

	var bound []binding
	for i := range 4 {
		status, b := greedy.bind(t, serve(t, echo).addr)
		if want := map[bool]int{true: http.StatusCreated, false: http.StatusTooManyRequests}[i < 3]; status != want {
			t.Errorf("bind %d = %d, want %d", i, status, want)
		}
		bound = append(bound, b)
	}
	works("with one's bindings used up")
	for i := range 4 {
		wantEcho(t, connect(t, bound[i%3].Address))
	}
	wantResetAt(t, bound[0].Address)
	works("with one's sessions used up")
	if status, _ := s.withToken(t, greedy.secret, http.MethodGet, "/v1/bindings/"+mine.ID, nil); status != http.StatusNotFound {
		t.Errorf("the other's binding is answered with %d, want 404", status)
	}
	refused := 0
	for range 200 {
		if status, _ := s.withToken(t, greedy.secret, http.MethodGet, "/v1/bindings", nil); status == http.StatusTooManyRequests {
			refused++
		}
	}
	if refused == 0 {
		t.Error("200 calls in a row are all taken, want 20 a second")
	}
	works("with one who calls without end")
}
