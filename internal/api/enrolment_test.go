package api

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	ohrouter "github.com/ohrouter/oh-router"
)

// authority answers as it is told and notes what it was asked.
type authority struct {
	err    error
	answer ohrouter.Certificate

	mu    sync.Mutex // guards what follows
	asked []string
}

func (f *authority) note(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, fmt.Sprintf(format, args...))
}

func (f *authority) Invite(_ context.Context, proxy string, ttl time.Duration) (ohrouter.NewInvitation, error) {
	f.note("invite %s for %v", proxy, ttl)
	return ohrouter.NewInvitation{Proxy: proxy, Token: "ohe_canary", ExpiresAt: epoch}, f.err
}

func (f *authority) Enrol(_ context.Context, e ohrouter.Enrolment) (ohrouter.Certificate, error) {
	f.note("enrol %s with %s", e.Token, e.Request)
	return f.answer, f.err
}

func (f *authority) Renew(leaf *x509.Certificate, e ohrouter.Enrolment) (ohrouter.Certificate, error) {
	f.note("renew %v with %s%s", leaf.SerialNumber, e.Token, e.Request)
	return f.answer, f.err
}

func (f *authority) Revoke(_ context.Context, proxy string) error {
	f.note("revoke %s", proxy)
	return f.err
}

// enrolling makes an API one with the authority.
func (f *authority) enrolling(c *Config) { c.Authority, c.Revoke = f, f.Revoke }

// serveTLS returns the base URL of an API that takes certificates, and a call
// of it over a connection that shows one, or none if serial is 0.
func serveTLS(t testing.TB, h http.Handler) func(serial int64, what, body string, headers ...string) (int, string) {
	t.Helper()
	s := httptest.NewUnstartedServer(nil)
	s.Config = Server(h)
	s.TLS = &tls.Config{ClientAuth: tls.RequestClientCert} // who they are is checked before, in the server's own settings
	s.StartTLS()
	t.Cleanup(s.Close)
	return func(serial int64, what, body string, headers ...string) (int, string) {
		t.Helper()
		cfg := s.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
		if serial != 0 {
			cfg.Certificates = []tls.Certificate{selfSigned(t, serial)}
		}
		method, path, _ := strings.Cut(what, " ")
		req, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i+1 < len(headers); i += 2 {
			req.Header.Set(headers[i], headers[i+1])
		}
		resp, err := (&http.Transport{DisableKeepAlives: true, TLSClientConfig: cfg}).RoundTrip(req)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatalf("%s: read the answer: %v", what, err)
		}
		return resp.StatusCode, string(b)
	}
}

func selfSigned(t testing.TB, serial int64) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// TestEnrolment makes the calls of machines: without API tokens, on a router
// that needs them for everything else.
func TestEnrolment(t *testing.T) {
	var log bytes.Buffer
	fake := &authority{answer: ohrouter.Certificate{Proxy: "east", Certificate: "LEAF", CA: "CA", ExpiresAt: epoch}}
	call := serveTLS(t, handler(t, oneBinding(), newHolders(t).guarded, fake.enrolling, func(c *Config) {
		c.Log = slog.New(slog.NewJSONHandler(&log, nil))
	}))
	const certificate = `{"proxy":"east","certificate":"LEAF","ca":"CA","expires_at":"2026-05-04T09:30:00Z"}`
	status, body := call(0, "POST /v1/enroll", `{"token":"ohe_canary","csr":"CSR"}`)
	if status != 200 {
		t.Errorf("enrol = %d %s, want 200", status, body)
	}
	wantJSON(t, "enrol", body, certificate)
	status, body = call(7, "POST /v1/renew", `{"csr":"CSR"}`)
	if status != 200 {
		t.Errorf("renew = %d %s, want 200", status, body)
	}
	wantJSON(t, "renew", body, certificate)
	// A certificate is no API token, and one of those is no certificate.
	if status, body := call(7, "GET /v1/bindings", ""); status != 401 {
		t.Errorf("list with a certificate = %d %s, want 401", status, body)
	}
	if status, body := call(0, "POST /v1/renew", `{"csr":"CSR"}`, "Authorization", "Bearer ohr_x"); status != 401 || !strings.Contains(body, "oh-router proxy enroll") {
		t.Errorf("renew without a certificate = %d %s, want 401", status, body)
	}
	if d := cmp.Diff([]string{"enrol ohe_canary with CSR", "renew 7 with CSR"}, fake.asked); d != "" {
		t.Errorf("the authority was asked (-want +got):\n%s", d)
	}
	for _, want := range []string{`"msg":"proxy enrolled","proxy":"east","client":"127.0.0.1"`, `"msg":"certificate renewed","proxy":"east","client":"127.0.0.1"`} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log has no %s: %s", want, log.String())
		}
	}
	if strings.Contains(log.String(), "canary") {
		t.Errorf("the log has a token: %s", log.String())
	}
}

// TestEnrolmentRefused has what is refused before the authority is asked, and
// what the authority refuses.
func TestEnrolmentRefused(t *testing.T) {
	fake := &authority{}
	call := serveTLS(t, handler(t, oneBinding(), newHolders(t).guarded, fake.enrolling))
	const enrol, renew, good = "POST /v1/enroll", "POST /v1/renew", `{"token":"ohe_x","csr":"x"}`
	for _, tt := range []struct {
		what, body string
		headers    []string
		want       int
	}{
		{enrol, good, []string{"Origin", "https://attacker.example"}, 403},
		{enrol, good, []string{"Sec-Fetch-Site", "cross-site"}, 403},
		{renew, `{"csr":"x"}`, []string{"Sec-Fetch-Site", "cross-site"}, 403},
		{enrol, good, []string{"Content-Type", "text/plain"}, 415},
		{enrol, "", nil, 400},
		{enrol, "{", nil, 400},
		{enrol, `{"csr":"x"}`, nil, 422},
		{enrol, `{"token":"ohe_x"}`, nil, 422},
		{enrol, `{"token":1,"csr":"x"}`, nil, 422},
		{enrol, `{"token":"ohe_x","csr":"x","proxy":"west"}`, nil, 422},
		{enrol, `{"token":"` + strings.Repeat("x", 257) + `","csr":"x"}`, nil, 422},
		{enrol, `{"token":"ohe_x","csr":"` + strings.Repeat("x", maxMachineBody) + `"}`, nil, 413},
		{enrol, strings.Repeat("x", 4<<20), nil, 413},
		{renew, `{"csr":"` + strings.Repeat("x", maxMachineBody) + `"}`, nil, 413},
		{renew, good, nil, 422},
		{"GET /v1/enroll", "", nil, 405},
		{"GET /v1/renew", "", nil, 405},
		{"POST /v1/enroll/", good, nil, 401},
		{"POST /v1/Enroll", good, nil, 401},
		{"POST /v1/enroll/x", good, nil, 401},
		{"POST /v1/renew/", good, nil, 401},
	} {
		if status, body := call(7, tt.what, tt.body, tt.headers...); status != tt.want {
			t.Errorf("%s %.60s with %q = %d %s, want %d", tt.what, tt.body, tt.headers, status, body, tt.want)
		}
	}
	if len(fake.asked) > 0 {
		t.Errorf("the authority was asked %q, want nothing", fake.asked)
	}
	for _, err := range []error{
		ohrouter.Errorf(ohrouter.Unauthorized, "the enrolment token was used already"),
		ohrouter.Errorf(ohrouter.InvalidRequest, "the CSR is none"),
		io.ErrUnexpectedEOF,
	} {
		fake.err = err
		for what, body := range map[string]string{enrol: good, renew: `{"csr":"x"}`} {
			status, got := call(7, what, body)
			if want := statusOf(ohrouter.CodeOf(err)); status != want || !strings.Contains(got, ohrouter.Message(err)) {
				t.Errorf("%s that fails with %v = %d %s, want %d", what, err, status, got, want)
			}
		}
	}
}

// TestEnrolmentReported is a token that is known, and refused.
func TestEnrolmentReported(t *testing.T) {
	for proxy, want := range map[string]bool{"east": true, "": false} {
		var log bytes.Buffer
		fake := &authority{answer: ohrouter.Certificate{Proxy: proxy}, err: ohrouter.Errorf(ohrouter.Unauthorized, "used already")}
		call := serveTLS(t, handler(t, oneBinding(), fake.enrolling, func(c *Config) { c.Log = slog.New(slog.NewTextHandler(&log, nil)) }))
		if status, _ := call(0, "POST /v1/enroll", `{"token":"ohe_canary","csr":"x"}`); status != 401 {
			t.Errorf("enrol = %d, want 401", status)
		}
		said := regexp.MustCompile(`level=WARN msg="enrolment refused" proxy=east client=127\.0\.0\.1:\d+ err="used already"`)
		if got := said.Match(log.Bytes()); got != want {
			t.Errorf("refusal for %q in the log: %v (%s), want %v", proxy, got, log.String(), want)
		}
	}
}

// TestEnrolmentIsBounded is a caller that nobody knows and that takes its time.
func TestEnrolmentIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		got, after := send(t, handler(t, oneBinding(), newHolders(t).guarded, (&authority{}).enrolling),
			"POST /v1/enroll HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n{")
		if !strings.HasPrefix(got, "HTTP/1.1 400 ") || after < machineTimeout || after > machineTimeout+2*discardTimeout {
			t.Errorf("half an enrolment = %.40q after %v, want 400 after %v", got, after, machineTimeout)
		}
	})
}

// TestManageProxies invites and revokes, as each of the holders.
func TestManageProxies(t *testing.T) {
	var log bytes.Buffer
	tokens, fake := newHolders(t), &authority{}
	base := serve(t, handler(t, oneBinding(), tokens.guarded, fake.enrolling, func(c *Config) { c.Log = slog.New(slog.NewJSONHandler(&log, nil)) }))
	const invite, revoke = "POST /v1/proxies/east/invitations", "DELETE /v1/proxies/east/certificate"
	for what, body := range map[string]string{invite: `{}`, revoke: ""} {
		for name, want := range map[string]int{"": 401, "user": 403, "viewer": 403, "other": 403} {
			if status, _, got := call(t, base, what, body, tokens.as(name)...); status != want {
				t.Errorf("%s as %q = %d %s, want %d", what, name, status, got, want)
			}
		}
	}
	if len(fake.asked) > 0 {
		t.Errorf("the authority was asked %q, want nothing", fake.asked)
	}
	for body, want := range map[string]int{`{"ttl":"2h"}`: 201, `{"ttl":"2"}`: 422, `{"ttl":"-1s"}`: 422, `{"for":"1h"}`: 422, "": 400} {
		status, _, got := call(t, base, invite, body, tokens.as("admin")...)
		if status != want {
			t.Errorf("%s %s = %d %s, want %d", invite, body, status, got, want)
		}
		if status == 201 {
			wantJSON(t, invite, got, `{"proxy":"east","token":"ohe_canary","expires_at":"2026-05-04T09:30:00Z"}`)
		}
	}
	if status, _, got := call(t, base, revoke, "", tokens.as("admin")...); status != 204 || got != "" {
		t.Errorf("%s = %d %s, want 204", revoke, status, got)
	}
	if d := cmp.Diff([]string{"invite east for 2h0m0s", "revoke east"}, fake.asked); d != "" {
		t.Errorf("the authority was asked (-want +got):\n%s", d)
	}
	by := `"by":"` + tokens.id["admin"]
	if !strings.Contains(log.String(), `"msg":"proxy invited","proxy":"east",`+by) || !strings.Contains(log.String(), `"msg":"certificate revoked","proxy":"east",`+by) {
		t.Errorf("the log does not tell: %s", log.String())
	}
	if strings.Contains(log.String(), "canary") {
		t.Errorf("the log has a token: %s", log.String())
	}
	fake.err = ohrouter.Errorf(ohrouter.InvalidRequest, "East is not a name")
	for what, body := range map[string]string{invite: `{}`, revoke: ""} {
		if status, _, got := call(t, base, what, body, tokens.as("admin")...); status != 422 || !strings.Contains(got, "East is not a name") {
			t.Errorf("%s = %d %s, want 422", what, status, got)
		}
	}
}

// TestNoAuthority is a router without a CA.
func TestNoAuthority(t *testing.T) {
	call := serveTLS(t, handler(t, oneBinding()))
	for what, body := range map[string]string{
		"POST /v1/enroll": `{"token":"ohe_x","csr":"x"}`, "POST /v1/renew": `{"csr":"x"}`, "POST /v1/proxies/east/invitations": `{}`,
		"DELETE /v1/proxies/east/certificate": "",
	} {
		status, got := call(7, what, body)
		if status != 404 || strings.Contains(what, "POST") && !strings.Contains(got, "stop it, run 'oh-router ca init'") {
			t.Errorf("%s = %d %s, want 404 with what to do", what, status, got)
		}
	}
}
