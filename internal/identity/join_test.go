package identity

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
)

// serve answers as the API of a router does.
func serve(t testing.TB, settings *tls.Config, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.TLS, s.EnableHTTP2 = settings, true
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.URL
}

// api is the part of the API that enrols.
func api(t testing.TB, a *Authority) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var e ohrouter.Enrolment
		if err := json.NewDecoder(r.Body).Decode(&e); err != nil {
			t.Error(err)
		}
		var answer ohrouter.Certificate
		err := error(ohrouter.Errorf(ohrouter.NotFound, "no such path"))
		switch {
		case r.Method+r.URL.Path == "POST"+EnrolPath:
			answer, err = a.Enrol(r.Context(), e)
		case r.Method+r.URL.Path == "POST"+RenewPath && len(r.TLS.PeerCertificates) > 0:
			answer, err = a.Renew(r.TLS.PeerCertificates[0], e)
		}
		if err != nil {
			w.WriteHeader(http.StatusUnauthorized)
			_ = json.NewEncoder(w).Encode(map[string]any{"code": ohrouter.CodeOf(err), "detail": ohrouter.Message(err)})
			return
		}
		_ = json.NewEncoder(w).Encode(answer)
	}
}

func TestJoin(t *testing.T) {
	a, state, _ := authority(t)
	router := opened(t, Config{Files: In(state, Router), Role: Router, Revoked: a.revocations.Revoked})
	address := serve(t, router.HTTPSServer(), api(t, a))
	there := filepath.Join(t.TempDir(), "proxy")
	token := invite(t, a, "east")
	leaf, err := Join(t.Context(), address+"/", token, there)
	if err != nil {
		t.Fatalf("Join() = %v", err)
	}
	wantMode(t, filepath.Join(there, folder), 0o700|os.ModeDir)
	for _, name := range []string{proxyFile, addressFile} {
		wantMode(t, filepath.Join(there, folder, name), 0o600)
	}
	if left, _ := os.ReadDir(filepath.Join(there, folder)); len(left) != 2 || !HasProxy(there) || HasRouter(there) || HasAuthority(there) {
		t.Errorf("the proxy has %d files, want 2: %v", len(left), left)
	}
	proxy := opened(t, Config{Files: In(there, Proxy), Role: Proxy})
	if proxy.ID() != east || !proxy.Leaf().Equal(leaf) {
		t.Errorf("the proxy is %v", proxy.ID())
	}
	if c, s := shake(t, router.LinkClient("east"), proxy.LinkServer()); c.err != nil || s.err != nil {
		t.Errorf("link to the new proxy: %v, %v", c.err, s.err)
	}

	r := &Renewer{State: there, Credentials: proxy, Log: (&record{}).log()}
	if err := r.renew(t.Context()); err != nil || proxy.Leaf().Equal(leaf) {
		t.Errorf("renew() = %v, still the same certificate: %v", err, proxy.Leaf().Equal(leaf))
	}
	again, err := Open(Config{Files: In(there, Proxy), Role: Proxy})
	if err != nil || !again.Leaf().Equal(proxy.Leaf()) {
		t.Errorf("the renewed certificate is not kept: %v", err)
	}

	_, err = Join(t.Context(), address, token, t.TempDir())
	wantSentence(t, err, ohrouter.Unauthorized, "was used at", "revoke east")
	if err := a.revocations.Revoke(t.Context(), "east"); err != nil {
		t.Fatal(err)
	}
	// The router's reset may overtake its reason.
	if err := r.renew(t.Context()); err == nil || ohrouter.CodeOf(err) != ohrouter.Unauthorized && !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		t.Errorf("renew of a revoked one = %v", err)
	}
	if _, err := Join(t.Context(), address, invite(t, a, "east"), there); err != nil {
		t.Errorf("Join of the revoked proxy with a new invitation = %v", err)
	}
}

// TestJoinRefuses shows that a token goes to nobody but the router that it is
// for, and is not spent for nothing.
func TestJoinRefuses(t *testing.T) {
	a, state, _ := authority(t)
	router := opened(t, Config{Files: In(state, Router), Role: Router})
	other := credentials(t, ca(t), main1, nil)
	never := func(http.ResponseWriter, *http.Request) { t.Error("the token was sent") }
	token := invite(t, a, "east")

	leafOnly := router.HTTPSServer()
	leafOnly.GetConfigForClient = nil
	leafOnly.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &router.current.Load().link, nil }
	// A leaf of another CA, with the right CA as a filler.
	forged := router.HTTPSServer()
	forged.GetConfigForClient = nil
	forged.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		c := other.current.Load().link
		c.Certificate = append(c.Certificate, a.ca.cert.Raw)
		return &c, nil
	}
	// A proxy of the right CA that says it is a router.
	c, key := leaf(t, a.ca, east, nil)
	asProxy := router.HTTPSServer()
	asProxy.GetConfigForClient = nil
	asProxy.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		return &tls.Certificate{Certificate: [][]byte{c.Raw, a.ca.cert.Raw}, PrivateKey: key}, nil
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := "https://" + ln.Addr().String()
	ln.Close()
	plain := httptest.NewServer(http.HandlerFunc(never))
	defer plain.Close()

	for _, tt := range []struct{ name, url, token, say string }{
		{"another CA", serve(t, other.HTTPSServer(), never), token, "not of the CA that the enrolment token is for"},
		{"without the CA", serve(t, leafOnly, never), token, "not of the CA that the enrolment token is for"},
		{"forged", serve(t, forged, never), token, "router/main is not signed by the CA"},
		{"a proxy", serve(t, asProxy, never), token, "the peer is proxy/east, and a router is wanted"},
		{"HTTP", plain.URL, token, "is not encrypted"},
		{"HTTP, said to be HTTPS", strings.Replace(plain.URL, "http:", "https:", 1), token, "does not speak TLS"},
		{"nobody there", closed, token, "call the router at " + closed},
		{"no URL", "router.example:8443", token, "has to begin with https://"},
		{"a password in the URL", "https://a:b@127.0.0.1", token, "has to begin with https://"},
		{"no token", closed, "ohe_x", "not an enrolment token"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Join(t.Context(), tt.url, tt.token, t.TempDir())
			if err == nil || !strings.Contains(err.Error(), tt.say) || strings.Contains(err.Error(), token) {
				t.Errorf("Join() = %v, want it to say %q, and no token", err, tt.say)
			}
		})
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Join(t.Context(), serve(t, router.HTTPSServer(), never), token, file); err == nil {
		t.Error("Join with nowhere to keep the key = nil, want an error")
	}
	if _, err := Join(t.Context(), serve(t, router.HTTPSServer(), api(t, a)), token, t.TempDir()); err != nil {
		t.Errorf("Join after all that = %v: the token has been spent", err)
	}
}

// TestJoinBadAnswers has a router that answers nonsense.
func TestJoinBadAnswers(t *testing.T) {
	a, state, _ := authority(t)
	router := opened(t, Config{Files: In(state, Router), Role: Router})
	token := invite(t, a, "east")
	stranger := enrolled(t, a, "east")
	good := ohrouter.Certificate{Proxy: "east", Certificate: string(certificatePEM(stranger)), CA: string(certificatePEM(a.ca.cert))}
	changed := func(change func(*ohrouter.Certificate)) any { c := good; change(&c); return c }
	for name, tt := range map[string]struct {
		status int
		answer any
		say    string
	}{
		"another key":   {200, good, "for another key"},
		"another CA":    {200, changed(func(c *ohrouter.Certificate) { c.CA = string(certificatePEM(ca(t).cert)) }), "another CA"},
		"no CA":         {200, changed(func(c *ohrouter.Certificate) { c.CA = "" }), "the CA's certificate"},
		"no leaf":       {200, changed(func(c *ohrouter.Certificate) { c.Certificate = "" }), "the certificate"},
		"text":          {200, "hello", "not that of an oh-router"},
		"huge":          {200, strings.Repeat("x", maxAnswer), "more than 64 KiB"},
		"redirect":      {307, "", "HTTP status 307"},
		"no problem":    {500, "", "HTTP status 500"},
		"unknown code":  {500, map[string]string{"code": "x"}, "HTTP status 500"},
		"says too much": {429, map[string]string{"code": "quota_exceeded", "detail": strings.Repeat("y", 2000)}, strings.Repeat("y", 500)},
	} {
		address := serve(t, router.HTTPSServer(), func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "https://127.0.0.1:1/")
			w.WriteHeader(tt.status)
			_ = json.NewEncoder(w).Encode(tt.answer)
		})
		there := t.TempDir()
		_, err := Join(t.Context(), address, token, there)
		if err == nil || !strings.Contains(err.Error(), tt.say) || len(err.Error()) > 1000 || HasProxy(there) {
			t.Errorf("%s: Join() = %v, want it to say %q and keep nothing", name, err, tt.say)
		}
	}
}

// TestRenewer lets a proxy run for a month beside a router that is off at
// times, until it is off for too long.
func TestRenewer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		by := ca(t)
		list := newMemory()
		revocations, err := LoadRevocations(t.Context(), list)
		if err != nil {
			t.Fatal(err)
		}
		a := &Authority{ca: by, trust: newTrust([]*x509.Certificate{by.cert}), store: list, revocations: revocations}
		state := t.TempDir()
		dir, err := makeFolder(state)
		if err != nil {
			t.Fatal(err)
		}
		key, err := newKey()
		if err != nil {
			t.Fatal(err)
		}
		first, err := by.issue(order{id: east, key: key.Public(), life: ProxyLife})
		if err != nil {
			t.Fatal(err)
		}
		if err := keep(dir, key, first, by.cert); err != nil {
			t.Fatal(err)
		}
		var log record
		c := opened(t, Config{Files: In(state, Proxy), Role: Proxy, Log: log.log()})
		var calls atomic.Int32
		var down atomic.Bool
		// pass lets time go by, with a look at the files now and then.
		pass := func(d time.Duration, each func()) {
			for end := time.Now().Add(d); time.Now().Before(end); each() {
				time.Sleep(min(time.Hour, time.Until(end)))
				synctest.Wait()
				c.refresh()
			}
		}
		nothing := func() {}
		r := &Renewer{State: state, Credentials: c, Log: log.log(), ask: func(_ context.Context, e ohrouter.Enrolment) (ohrouter.Certificate, error) {
			calls.Add(1)
			if down.Load() {
				return ohrouter.Certificate{}, errors.New("nobody there")
			}
			return a.Renew(c.Leaf(), e)
		}}
		go r.Run(t.Context())
		pass(30*24*time.Hour, func() {
			if left := time.Until(c.Leaf().NotAfter); left < ProxyLife/3-time.Hour {
				t.Fatalf("%v left of the proxy's certificate", left)
			}
		})
		if n := calls.Load(); n < 2 || n > 4 || log.count("not renewed") > 0 {
			t.Errorf("%d calls in 30 days, %d failures, want about 3 and none", n, log.count("not renewed"))
		}
		down.Store(true)
		calls.Store(0)
		pass(time.Until(renewAfter(c.Leaf()).Add(24*time.Hour)), nothing)
		if n, warned := calls.Load(), log.count("level=WARN msg=\"certificate not renewed"); n < 24 || n > 150 || warned != int(n) {
			t.Errorf("%d calls within about a day without a router, and %d warnings", n, warned)
		}
		down.Store(false)
		pass(time.Hour, nothing)
		if left := time.Until(c.Leaf().NotAfter); left < ProxyLife-time.Hour {
			t.Errorf("%v left once the router is back", left)
		}
		down.Store(true)
		pass(ProxyLife+time.Hour, nothing)
		if log.count("enrol it again") == 0 || log.count("ends soon") != 1 {
			t.Errorf("%d lines that say what to do after the end, %d before, want some and 1", log.count("enrol it again"), log.count("ends soon"))
		}
		// Somebody does it.
		second, err := by.issue(order{id: east, key: key.Public(), life: ProxyLife})
		if err != nil {
			t.Fatal(err)
		}
		if err := keep(dir, key, second, by.cert); err != nil {
			t.Fatal(err)
		}
		down.Store(false)
		c.refresh()
		calls.Store(0)
		pass(24*time.Hour, nothing)
		if n := calls.Load(); !c.Leaf().Equal(second) || n > 0 {
			t.Errorf("the new certificate in use: %v, %d calls, want true and 0", c.Leaf().Equal(second), n)
		}
	})
}
