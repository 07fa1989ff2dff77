//go:build linux

package conformance

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// identities is what "ca init" and "proxy enroll" have made.
type identities struct {
	router, proxy string // their state directories, to be copied
	ca, token     string // files of the former
	web           *http.Client
}

// secured are the identities of all stacks that have some; enrol makes them.
var (
	secured  *identities
	enrolled sync.Once
)

// isSecured tells whether a test runs as a part of TestOverTLS.
func isSecured(t testing.TB) bool { return strings.HasPrefix(t.Name(), "TestOverTLS/") }

// enrol has the identities made if that was not done yet.
func enrol(t testing.TB) {
	t.Helper()
	enrolled.Do(func() { secured = makeIdentities(t, filepath.Join(scratch, "identities")) })
	if secured == nil {
		t.Fatal("there are no identities: another test has failed to make them")
	}
}

// makeIdentities makes a CA, starts its router, and has a proxy enrol, the way
// that operators do.
func makeIdentities(t testing.TB, dir string) *identities {
	t.Helper()
	s := &identities{router: filepath.Join(dir, "router"), proxy: filepath.Join(dir, "proxy")}
	s.ca, s.token = filepath.Join(s.router, "identity", "ca.pem"), filepath.Join(s.router, "admin.token")
	invitation := filepath.Join(dir, "east.token")
	run := func(args ...string) string {
		t.Helper()
		r := command(t, nil, args...)
		wantCode(t, r, 0, args...)
		return r.stdout
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(invitation, []byte(run("ca", "init", "--state", s.router, "--invite", "east")), 0o600); err != nil {
		t.Fatal(err)
	}
	s.web = webOf(t, s.ca, s.token)
	first := ports.take(t, 2)
	api := "https://" + loopback(first)
	r := launch(t, "router that enrols", server(t, "router", "--listen", loopback(first), "--state", s.router, "--proxy", loopback(first+1)))
	eventually(t, 2*soon, func() error {
		resp, err := s.web.Get(api + "/readyz")
		if err == nil {
			resp.Body.Close()
		}
		return err
	})
	run("proxy", "enroll", "--router", api, "--token-file", invitation, "--state", s.proxy)
	r.signal(t, syscall.SIGTERM)
	if code := r.exit(t, soon); code != 0 {
		t.Fatalf("the router that enrolled ends with %d", code)
	}
	return s
}

// webOf returns a client that trusts a CA and shows a token.
func webOf(t testing.TB, ca, token string) *http.Client {
	t.Helper()
	pem, err := os.ReadFile(ca)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := os.ReadFile(token)
	if err != nil {
		t.Fatal(err)
	}
	trusted := x509.NewCertPool()
	trusted.AppendCertsFromPEM(pem)
	c := *web
	c.Transport = bearer{
		secret: strings.TrimSpace(string(secret)),
		next:   &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: trusted, MinVersion: tls.VersionTLS13}},
	}
	return &c
}

// bearer shows a token with every call.
type bearer struct {
	secret string
	next   http.RoundTripper
}

func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+b.secret)
	return b.next.RoundTrip(r)
}

// state returns a copy of a state directory for a stack of its own.
func state(t testing.TB, of string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "state")
	if err := os.CopyFS(dir, os.DirFS(of)); err != nil {
		t.Fatal(err)
	}
	// The copy has the rights of new files; keys are for their owner alone.
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		return os.Chmod(path, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
	return dir
}
