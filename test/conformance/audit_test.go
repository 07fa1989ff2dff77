//go:build linux

package conformance

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// withToken makes a call that shows a token, and returns the status and body.
func (s *stack) withToken(t testing.TB, secret, method, path string, body fields) (int, string) {
	t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, s.api+path, bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+secret)
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(answer)
}

// awaitEvents waits until an audit log has a line for each of these, in this
// order, with all of its words.
func awaitEvents(t testing.TB, file string, want ...string) {
	t.Helper()
	eventually(t, 5*time.Second, func() error {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		rest := want
		for line := range strings.Lines(string(text)) {
			if !json.Valid([]byte(line)) {
				return fmt.Errorf("%s has the line %q, which is no JSON", file, line)
			}
			if len(rest) > 0 && hasAll(line, rest[0]) {
				rest = rest[1:]
			}
		}
		if len(rest) > 0 {
			return fmt.Errorf("%s has no line with %s:\n%s", file, rest[0], text)
		}
		return nil
	})
}

// hasAll tells whether a line has all words.
func hasAll(line, words string) bool {
	for word := range strings.FieldsSeq(words) {
		if !strings.Contains(line, word) {
			return false
		}
	}
	return true
}

func TestAuditLog(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ofRouter, ofProxy := filepath.Join(dir, "router.jsonl"), filepath.Join(dir, "proxy.jsonl")
	s := start(t, flags{
		router: []string{"--audit-log", ofRouter, "--log-level", "debug"},
		proxy:  []string{"--audit-log", ofProxy, "--log-level", "debug"},
	})
	x := serve(t, echo)
	secret := func(by string, spec fields) string {
		t.Helper()
		status, body := s.withToken(t, by, http.MethodPost, "/v1/tokens", spec)
		var made struct{ Secret string }
		if json.Unmarshal([]byte(body), &made) != nil || status != 201 || made.Secret == "" {
			t.Fatalf("make a token: %d %s", status, body)
		}
		return made.Secret
	}
	admin := secret("", fields{"name": "root", "role": "admin"})
	user := secret(admin, fields{"name": "ci", "role": "user", "targets": []string{"127.0.0.0/8:*"}})

	status, body := s.withToken(t, user, http.MethodPost, "/v1/bindings", fields{"target": x.addr})
	var b struct{ ID, Address string }
	if json.Unmarshal([]byte(body), &b) != nil || status != 201 {
		t.Fatalf("bind: %d %s", status, body)
	}
	c, err := net.Dial("tcp", b.Address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "hello"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	s.withToken(t, user, http.MethodPost, "/v1/bindings", fields{"target": "10.0.0.1:1"})
	s.withToken(t, user+"x", http.MethodGet, "/v1/bindings", nil)
	s.withToken(t, user+"x", http.MethodGet, "/v1/bindings", nil) // is summed
	s.withToken(t, admin, http.MethodPost, "/v1/bindings", fields{"target": "10.0.0.1:1"})
	s.withToken(t, admin, http.MethodGet, "/v1/bindings/"+user, nil) // a mistake
	s.withToken(t, admin, http.MethodDelete, "/v1/bindings/"+b.ID, nil)

	awaitEvents(
		t, ofRouter,
		"server_started", `token_created "token_name":"root"`, `token_created "by_name":"root" "token_name":"ci"`,
		`binding_created "by_name":"ci" "owner_name":"ci" "binding":"`+b.ID+`"`,
		`session_opened "owner_name":"ci" "client":"`+c.LocalAddr().String()+`" "resolved":"`+x.addr+`"`,
		`call_denied "by_name":"ci" "code":"forbidden"`, `call_denied "code":"unauthorized"`, `call_denied "by_name":"root" "code":"target_denied"`,
		`binding_ended "by_name":"root" "reason":"released"`,
	)
	awaitEvents(t, ofRouter, `session_closed "bytes_up":5 "bytes_down":5 "outcome":"binding_closed"`) // before or after
	awaitEvents(t, ofProxy, "server_started", `session_opened "resolved":"`+x.addr+`"`,
		`session_refused "target":"10.0.0.1:1" "code":"target_denied"`, `session_closed "bytes_up":5`)

	// A log that is moved away, and a signal.
	if err := os.Rename(ofRouter, ofRouter+".1"); err != nil {
		t.Fatal(err)
	}
	s.router.signal(t, syscall.SIGHUP)
	eventually(t, 5*time.Second, func() error { _, err := os.Stat(ofRouter); return err })
	s.withToken(t, user, http.MethodPost, "/v1/bindings", fields{"target": x.addr})
	awaitEvents(t, ofRouter, "binding_created")

	metrics := scrapeText(t, s, admin)
	if !strings.Contains(metrics, "\nohrouter_audit_lost_total 0\n") {
		t.Error("ohrouter_audit_lost_total is not 0")
	}
	for _, p := range []*process{s.router, s.proxy} {
		p.signal(t, syscall.SIGTERM)
		if code := p.exit(t, 10*time.Second); code != 0 {
			t.Errorf("exit code %d after SIGTERM, want 0", code)
		}
	}
	awaitEvents(t, ofRouter, "server_stopped", `call_denied "code":"unauthorized" "count":1`)

	// No secret anywhere, nor a part of one that is worth something.
	for _, name := range []string{ofRouter, ofRouter + ".1", ofProxy} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		wantNoSecret(t, name, string(text), admin, user)
	}
	wantNoSecret(t, "the metrics", metrics, admin, user)
	wantNoSecret(t, "the router's log", s.router.log(t), admin, user)
	wantNoSecret(t, "the proxy's log", s.proxy.log(t), admin, user)
}

// scrapeText returns the router's metrics.
func scrapeText(t testing.TB, s *stack, secret string) string {
	t.Helper()
	status, body := s.withToken(t, secret, http.MethodGet, "/metrics", nil)
	if status != 200 {
		t.Fatalf("metrics: %d %s", status, body)
	}
	return body
}

// wantNoSecret looks for secrets, without the prefix that is no secret.
func wantNoSecret(t testing.TB, where, text string, secrets ...string) {
	t.Helper()
	for _, secret := range secrets {
		if part := secret[4:20]; strings.Contains(text, part) {
			t.Errorf("%s has a secret, beginning with ohr_%s", where, part[:4])
		}
	}
}
