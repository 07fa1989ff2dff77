//go:build linux

package conformance

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestAuditOfTrust has a router and a proxy of two CAs, strangers of all kinds
// at the proxy's port, and then a proxy whose files are replaced.
func TestAuditOfTrust(t *testing.T) {
	t.Parallel()
	enrol(t)
	dir := t.TempDir()
	ofRouter, ofProxy := filepath.Join(dir, "router.jsonl"), filepath.Join(dir, "proxy.jsonl")
	identity := state(t, makeIdentities(t, filepath.Join(dir, "other")).proxy)
	s := start(t, flags{
		secured: true, router: []string{"--audit-log", ofRouter}, proxy: []string{"--audit-log", ofProxy, "--state", identity},
	})
	x := serve(t, echo)

	s.want(t, http.StatusServiceUnavailable, "proxy_unreachable", http.MethodPost, "/v1/bindings", fields{"target": x.addr})
	awaitEvents(t, ofRouter, `link_refused "proxy": "proxy_address":"`+s.link+`" "code":"unauthorized"`)
	awaitEvents(t, ofProxy, `link_refused "router":"127.0.0.1: "code":"unauthorized"`)

	for from, stranger := range map[string]struct {
		say  func(net.Conn)
		want string
	}{
		"127.0.0.2": {handshake(tls.VersionTLS12, alpn), `"code":"invalid_request" "reason": versions`},
		"127.0.0.3": {handshake(tls.VersionTLS13), `"code":"unauthorized" "reason":`},
		"127.0.0.4": {handshake(tls.VersionTLS13, "h2"), `"code":"invalid_request" h2`},
		"127.0.0.5": {handshake(tls.VersionTLS13, alpn), `"code":"unauthorized" certificate`},
		"127.0.0.6": {func(c net.Conn) { _, _ = io.WriteString(c, "GET / HTTP/1.1\r\n\r\n"); _, _ = c.Read(make([]byte, 1)) }, `"code":"unauthorized" TLS`},
		"127.0.0.7": {func(net.Conn) {}, `"code":"invalid_request" 5s`}, // silent
	} {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		c, err := d.Dial("tcp", s.link)
		if err != nil {
			t.Fatal(err)
		}
		stranger.say(c)
		if from == "127.0.0.7" {
			_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
			_, _ = io.Copy(io.Discard, c) // until it is closed
		}
		c.Close()
		awaitEvents(t, ofProxy, `link_refused "router":"`+from+`: `+stranger.want)
	}

	files, err := filepath.Glob(filepath.Join(state(t, secured.proxy), "identity", "*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("the proxy has the files %v, %v", files, err)
	}
	for _, name := range files {
		if err := os.Rename(name, filepath.Join(identity, "identity", filepath.Base(name))); err != nil {
			t.Fatal(err)
		}
	}
	awaitEvents(t, ofProxy, `certificate_changed "role":"proxy" "expires_at": proxy/east`)
	s.bind(t, x.addr)

	s.want(t, http.StatusCreated, "", http.MethodPost, "/v1/tokens", fields{"name": "short", "role": "viewer", "ttl": "1s"})
	awaitEvents(t, ofRouter, `token_expired "token_name":"short" "role":"viewer"`)
}

// handshake begins a handshake without a certificate.
func handshake(version uint16, protocols ...string) func(net.Conn) {
	return func(c net.Conn) {
		secure := tls.Client(c, &tls.Config{InsecureSkipVerify: true, MaxVersion: version, NextProtos: protocols})
		_ = secure.Handshake()
		_, _ = secure.Read(make([]byte, 1)) // the refusal
	}
}
