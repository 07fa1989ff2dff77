//go:build linux

package conformance

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// wantProblem fails the test unless an answer is a 4xx problem with a known shape.
func wantProblem(t testing.TB, what string, a answer) {
	t.Helper()
	if a.status < 400 || a.status > 499 {
		t.Errorf("%.200s = %v, want a 4xx", what, a)
		return
	}
	wantType(t, a, "application/problem+json")
	var got map[string]any
	if err := json.Unmarshal(a.body, &got); err != nil {
		t.Errorf("%.200s = %v: %v", what, a, err)
		return
	}
	for name := range problemKinds {
		if _, ok := got[name]; !ok {
			t.Errorf("%.200s: problem %v has no %q", what, a, name)
		}
	}
	if got["status"] != float64(a.status) || got["code"] == "" {
		t.Errorf("%.200s: problem %v has another status, or no code", what, a)
	}
}

// post sends a body as it is.
func (s *stack) post(t testing.TB, method, path, contentType string, body []byte) answer {
	t.Helper()
	a, err := request(method, s.api+path, contentType, bytes.NewReader(body))
	if err != nil {
		t.Fatalf("%s %s %.100q: %v", method, path, body, err)
	}
	return a
}

func TestBadBodies(t *testing.T) {
	t.Parallel()
	s := start(t, flags{})
	b := s.bind(t, serve(t, echo).addr)
	deep := strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000)
	tests := []struct {
		body   string
		status int
	}{
		{"", 400},
		{" ", 400},
		{"{", 400},
		{"nonsense", 400},
		{`{"target":"a:1"`, 400},
		{`{"target":"a:1"}}`, 400},
		{`{"target":"a:1"} {"target":"b:1"}`, 400},
		{"\x00\x01\x02", 400},
		{"{'target':'a:1'}", 400},
		{`{"target":"a:1",}`, 400},
		{"null", 422},
		{"[]", 422},
		{`"a:1"`, 422},
		{"1", 422},
		{"true", 422},
		{"{}", 422},
		{`{"labels":` + deep + `}`, 0},
		{`{"target":null}`, 422},
		{`{"target":""}`, 422},
		{`{"target":1}`, 422},
		{`{"target":["a:1"]}`, 422},
		{`{"target":{}}`, 422},
		{`{"target":"a:1","unknown":1}`, 422},
		{`{"target":"a:1","":1}`, 422},
		{`{"target":"a:1","port":"80"}`, 422},
		{`{"target":"a:1","port":1.5}`, 422},
		{`{"target":"a:1","port":1e99}`, 422},
		{`{"target":"a:1","port":99999999999999999999999}`, 422},
		{`{"target":"a:1","port":-1}`, 422},
		{`{"target":"a:1","port":true}`, 422},
		{`{"target":"a:1","idle_timeout":"x"}`, 422},
		{`{"target":"a:1","idle_timeout":5}`, 422},
		{`{"target":"a:1","idle_timeout":"-5s"}`, 422},
		{`{"target":"a:1","idle_timeout":"999999999h"}`, 422},
		{`{"target":"a:1","idle_timeout":"5"}`, 422},
		{`{"target":"a:1","ttl":"-1s"}`, 422},
		{`{"target":"a:1","ttl":"1e3s"}`, 422},
		{`{"target":"a:1","ttl":{}}`, 422},
		{`{"target":"a:1","allow":"10.0.0.0/8"}`, 422},
		{`{"target":"a:1","allow":[""]}`, 422},
		{`{"target":"a:1","allow":["10.0.0.0/99"]}`, 422},
		{`{"target":"a:1","allow":[1]}`, 422},
		{`{"target":"a:1","allow":[null]}`, 422},
		{`{"target":"a:1","allow":["fe80::1%eth0/64"]}`, 422},
		{`{"target":"a:1","max_sessions":-1}`, 422},
		{`{"target":"a:1","max_sessions":1e400}`, 0},
		{`{"target":"a:1","max_sessions":"2"}`, 422},
		{`{"target":"a:1","labels":[]}`, 422},
		{`{"target":"a:1","labels":{"a":1}}`, 422},
		{`{"target":"a:1","labels":"a"}`, 422},
		{`{"target":"a:1","check":"yes"}`, 422},
		{`{"target":"a:1","check":0}`, 422},
		{`{"target":"a:1","proxy":1}`, 422},
	}
	for _, tt := range tests {
		a := s.post(t, http.MethodPost, "/v1/bindings", "application/json", []byte(tt.body))
		wantProblem(t, "bind "+tt.body, a)
		if tt.status != 0 && a.status != tt.status || a.code() != "invalid_request" {
			t.Errorf("bind %.100s = %v, want %d invalid_request", tt.body, a, tt.status)
		}
		wantProblem(t, "patch "+tt.body, s.post(t, http.MethodPatch, "/v1/bindings/b-none", "application/json", []byte(tt.body)))
	}
	if got := s.bindings(t, ""); len(got) != 1 || got[0].ID != b.ID {
		t.Errorf("bindings after bad calls = %+v, want the first alone", got)
	}
}

func TestBadTargets(t *testing.T) {
	t.Parallel()
	s := start(t, flags{})
	for _, target := range []string{
		"a", ":80", "a:", "a:0", "a:65536", "a:-1", "a:+80", "a:080x", "a: 80", "a:80 ", " a:80", "a:http", "a:1:2", "a b:80", "a/b:80",
		"http://a:80", "user@a:80", "[::1", "::1:80", "[::1]", "[::1]80", "[a]:80", "[::1%eth0]:80", "256.1.1.1:80", "1.2.3:80", "0x7f.1:80",
		"2130706433:80", "127.1:80", "a..b:80", ".a:80", "-a:80x", "a\x00b:80", "a\nb:80", "a\tb:80", "*:80", "*.a:80", "a%00b:80", "💥💥\u202e:80",
		strings.Repeat("a", 64) + ".b:80", strings.Repeat("a.", 130) + "b:80", strings.Repeat("a", 100_000) + ":80", "\xff\xfe:80", "a:８０",
	} {
		body, _ := json.Marshal(fields{"target": target, "check": false})
		a := s.post(t, http.MethodPost, "/v1/bindings", "application/json", body)
		wantProblem(t, "bind "+target, a)
		if a.code() != "invalid_request" {
			t.Errorf("bind %.100q = %v, want invalid_request", target, a)
		}
	}
	if got := s.bindings(t, ""); len(got) > 0 {
		t.Errorf("bindings after bad targets = %+v, want none", got)
	}
}

func TestBadPathsAndQueries(t *testing.T) {
	t.Parallel()
	s := start(t, flags{})
	b := s.bind(t, serve(t, echo).addr)
	long := strings.Repeat("x", 3000)
	tests := []struct {
		method, path string
		status       int
	}{
		{"GET", "/nothing", 404},
		{"GET", "/v1", 404},
		{"GET", "/v1/", 404},
		{"GET", "/v2/bindings", 404},
		{"GET", "/v1/bindings/x/y", 404},
		{"GET", "/v1/bindings/" + long, 0},
		{"GET", "/v1/bindings/%00", 0},
		{"GET", "/v1/bindings/%2e%2e%2f%2e%2e", 0},
		{"GET", "/v1/bindings/%ff%fe", 0},
		{"GET", "/v1/bindings/b%2fc", 0},
		{"DELETE", "/v1/bindings/none", 404},
		{"PATCH", "/v1/bindings/none", 0},
		{"DELETE", "/v1/sessions/none", 404},
		{"DELETE", "/v1/sessions/%e2%80%ae", 404},
		{"GET", "/v1/bindings?target=", 0},
		{"GET", "/v1/bindings?target=nonsense", 422},
		{"GET", "/v1/bindings?label=nonsense", 422},
		{"GET", "/v1/bindings?target=a:1&target=b:1&target=" + long, 0},
		{"PUT", "/v1/bindings", 405},
		{"DELETE", "/v1/bindings", 405},
		{"POST", "/v1/bindings/" + b.ID, 405},
		{"PUT", "/v1/bindings/" + b.ID, 405},
		{"POST", "/v1/sessions", 405},
		{"POST", "/v1/proxies", 405},
		{"GET", "/v1/sessions/none", 0},
		{"TRACE", "/v1/bindings", 405},
		{"BREW", "/v1/bindings", 405},
		{"POST", "/livez", 405},
		{"DELETE", "/metrics", 405},
		{"PUT", "/route/bind/a/80", 405},
		{"GET", "/route/bind", 404},
		{"GET", "/route/bind/a", 404},
		{"DELETE", "/v1/bindings/" + b.ID + "?drain=soon", 422},
		{"DELETE", "/v1/bindings/" + b.ID + "?drain=-1s", 422},
		{"DELETE", "/v1/bindings/" + b.ID + "?drain=5", 422},
		{"DELETE", "/v1/bindings/" + b.ID + "?drain=9999999h", 422},
	}
	for _, tt := range tests {
		a := s.post(t, tt.method, tt.path, "", nil)
		what := tt.method + " " + tt.path
		if tt.status == 0 { // anything sensible: a list that is empty, or a problem
			if a.status >= 500 || a.status < 200 {
				t.Errorf("%.100s = %v", what, a)
			}
			continue
		}
		if a.status != tt.status {
			t.Errorf("%.100s = %v, want %d", what, a, tt.status)
		}
		if !strings.HasPrefix(tt.path, "/route/") {
			wantProblem(t, what, a)
		}
		if a.status == 405 && a.header.Get("Allow") == "" {
			t.Errorf("%.100s = %v has no Allow", what, a)
		}
	}
	if got := s.binding(t, b.ID); got.State != "active" {
		t.Errorf("binding after bad calls = %+v, want it active", got)
	}
}

func TestMediaTypesAndSizes(t *testing.T) {
	t.Parallel()
	s := start(t, flags{})
	body := []byte(`{"target":"` + serve(t, echo).addr + `"}`)
	for _, contentType := range []string{"text/plain", "application/xml", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "nonsense", "application/cbor"} {
		a := s.post(t, http.MethodPost, "/v1/bindings", contentType, body)
		wantProblem(t, contentType, a)
		if a.status != 415 || a.code() != "invalid_request" {
			t.Errorf("bind as %s = %v, want 415 invalid_request", contentType, a)
		}
	}
	if a := s.post(t, http.MethodPost, "/v1/bindings", "application/json; charset=utf-8", body); a.status != 201 {
		t.Errorf("bind as JSON with a charset = %v, want 201", a)
	}
	huge := []byte(`{"target":"a:1","labels":{"a":"` + strings.Repeat("x", 64<<20) + `"}}`)
	a, err := request(http.MethodPost, s.api+"/v1/bindings", "application/json", bytes.NewReader(huge))
	if err == nil && (a.status != 413 || a.code() != "invalid_request") {
		t.Errorf("bind with a 64 MB body = %v, want 413 invalid_request", a)
	}
	// Without a length it is as large.
	a, err = request(http.MethodPost, s.api+"/v1/bindings", "application/json", struct{ io.Reader }{bytes.NewReader(huge)})
	if err == nil && (a.status != 413 || a.code() != "invalid_request") {
		t.Errorf("bind with a 64 MB chunked body = %v, want 413 invalid_request", a)
	}
	many := fields{}
	for i := range 5000 {
		many[fmt.Sprintf("label-%d", i)] = strings.Repeat("y", 10)
	}
	wantProblem(t, "5,000 labels", s.call(t, http.MethodPost, "/v1/bindings", fields{"target": "127.0.0.1:9", "labels": many}))
	if got := s.router.rss(t); !raceEnabled && got > 200<<20 {
		t.Errorf("router has %d MB resident after large bodies", got>>20)
	}
}

// raw sends bytes to the API and returns the status line of the answer, "" if
// the connection is closed without one.
func raw(t testing.TB, s *stack, limit time.Duration, sent ...string) string {
	t.Helper()
	c := connect(t, s.api[len("http://"):])
	_ = c.SetDeadline(time.Now().Add(limit))
	for _, part := range sent {
		if _, err := c.Write([]byte(part)); err != nil {
			break // it may answer, and close, before it has read all
		}
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if ne, ok := err.(net.Error); ok && ne.Timeout() {
		t.Errorf("%.60q: no answer and no end within %v", sent, limit)
	}
	return strings.TrimSpace(line)
}

func TestBadHTTP(t *testing.T) {
	t.Parallel()
	s := start(t, flags{})
	const host = "Host: 127.0.0.1\r\n"
	for name, sent := range map[string]string{
		"huge header":        "GET /v1/bindings HTTP/1.1\r\n" + host + "X: " + strings.Repeat("x", 4<<20) + "\r\n\r\n",
		"many headers":       "GET /v1/bindings HTTP/1.1\r\n" + host + strings.Repeat("X: y\r\n", 400_000) + "\r\n",
		"huge path":          "GET /" + strings.Repeat("x", 4<<20) + " HTTP/1.1\r\n" + host + "\r\n",
		"no version":         "GET /v1/bindings\r\n\r\n",
		"odd version":        "GET /v1/bindings HTTP/9.9\r\n" + host + "\r\n",
		"two lengths":        "POST /v1/bindings HTTP/1.1\r\n" + host + "Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
		"negative length":    "POST /v1/bindings HTTP/1.1\r\n" + host + "Content-Length: -2\r\n\r\n{}",
		"huge length":        "POST /v1/bindings HTTP/1.1\r\n" + host + "Content-Type: application/json\r\nContent-Length: 9000000000000000000\r\n\r\n{}",
		"length and chunks":  "POST /v1/bindings HTTP/1.1\r\n" + host + "Content-Length: 2\r\nTransfer-Encoding: nonsense\r\n\r\n{}",
		"bad chunk":          "POST /v1/bindings HTTP/1.1\r\n" + host + "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}",
		"null in a header":   "GET /v1/bindings HTTP/1.1\r\n" + host + "X: a\x00b\r\n\r\n",
		"no host":            "GET /v1/bindings HTTP/1.1\r\n\r\n",
		"absolute elsewhere": "GET http://elsewhere.example/v1/nothing HTTP/1.1\r\n" + host + "\r\n",
		"CONNECT":            "CONNECT 127.0.0.1:22 HTTP/1.1\r\n" + host + "\r\n",
	} {
		line := raw(t, s, 2*soon, sent)
		// 501 and 505 are HTTP's own words for codings and versions that nobody knows.
		if line != "" && !strings.Contains(line, " 4") && !strings.Contains(line, " 501") && !strings.Contains(line, " 505") {
			t.Errorf("%s: %q, want a 4xx or the connection closed", name, line)
		}
	}
	wantResponsive(t, s.api+"/v1/bindings")
}

// A client that sends its header or body slowly, or never, is not waited for.
func TestSlowloris(t *testing.T) {
	t.Parallel()
	for name, sent := range map[string]string{
		"header": "GET /v1/bindings HTTP/1.1\r\nHost: a\r\nX: ",
		"body":   "POST /v1/bindings HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			raw(t, start(t, flags{}), 40*time.Second, sent)
		})
	}
}
