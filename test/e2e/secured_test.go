package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestOverTLS runs clients and servers over links with certificates, as between
// two machines.
func TestOverTLS(t *testing.T) {
	t.Run("nginx", TestNginx)
	t.Run("redis", TestRedis)
	t.Run("ssh", TestSSH)
}

// isSecured tells whether a test runs as a part of TestOverTLS.
func isSecured(t testing.TB) bool { return strings.HasPrefix(t.Name(), "TestOverTLS/") }

// secure makes a CA and has the proxy of a pair enrol, by a router that has
// nothing else to do.
func (p *pair) secure(t testing.TB, routerState string) {
	t.Helper()
	dir := t.TempDir()
	proxyState, invitation := filepath.Join(dir, "proxy"), filepath.Join(dir, "east.token")
	run := func(args ...string) string {
		cmd := exec.CommandContext(t.Context(), ohRouter, args...)
		cmd.Env = environment()
		return succeed(t, cmd)
	}
	if err := os.WriteFile(invitation, []byte(run("ca", "init", "--state", routerState, "--invite", "east")), 0o600); err != nil {
		t.Fatal(err)
	}
	p.ca, p.token = filepath.Join(routerState, "identity", "ca.pem"), filepath.Join(routerState, "admin.token")
	pem, err := os.ReadFile(p.ca)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := os.ReadFile(p.token)
	if err != nil {
		t.Fatal(err)
	}
	trusted := x509.NewCertPool()
	trusted.AppendCertsFromPEM(pem)
	p.scheme, p.secret, p.tls = "https", strings.TrimSpace(string(secret)), &tls.Config{RootCAs: trusted}
	router, port := serve(t, program{
		name: "router that enrols",
		command: func(port int) *exec.Cmd {
			return server(t, "router", []string{"--listen", loopback(port), "--state", routerState})
		},
		ready: p.ready,
		stop:  syscall.SIGTERM,
	})
	run("proxy", "enroll", "--router", "https://"+loopback(port), "--token-file", invitation, "--state", proxyState)
	router.stop(t, syscall.SIGTERM)
	p.proxyFlags = []string{"--state", proxyState}
}

// ready asks the router whether it is.
func (p *pair) ready(ctx context.Context, port int) error {
	_, err := p.callAt(ctx, http.MethodGet, p.scheme+"://"+loopback(port)+"/readyz")
	return err
}
