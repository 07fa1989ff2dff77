package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	ohrouter "github.com/ohrouter/oh-router"
)

func mustDecode(t testing.TB, body string, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(body), into); err != nil {
		t.Fatalf("answer %q: %v", body, err)
	}
}

// wantProblem checks that an answer is a problem and returns where it says
// something is wrong.
func wantProblem(t testing.TB, what string, status int, h http.Header, body string) (at []string) {
	t.Helper()
	var p Problem
	mustDecode(t, body, &p)
	if h.Get("Content-Type") != problemType || p.Type != "about:blank" || p.Title != http.StatusText(status) ||
		p.Status != status || p.Detail == "" || p.Code == "" {
		t.Errorf("%s = %d %s %s, want a whole problem", what, status, h.Get("Content-Type"), body)
	}
	if want := ohrouter.InvalidRequest; status != http.StatusNotFound && p.Code != want {
		t.Errorf("%s has code %s, want %s", what, p.Code, want)
	}
	for _, e := range p.Errors {
		at = append(at, e.Location)
	}
	return at
}

func many(n int, f func(i int) string) string {
	s := make([]string, n)
	for i := range s {
		s[i] = f(i)
	}
	return strings.Join(s, ",")
}

func TestBadBodies(t *testing.T) {
	base := serve(t, handler(t, oneBinding()))
	deep := strings.Repeat(`{"a":`, 9000)
	for _, tt := range []struct {
		body string
		want int
		at   string // "" any place
	}{
		{"", 400, ""},
		{" \n", 400, "body"},
		{"{", 400, "body"},
		{`{"target":"a:1"} x`, 400, "body"},
		{`{"target":"a:1"}{}`, 400, "body"},
		{`{'target':'a:1'}`, 400, "body"},
		{deep, 400, "body"},
		{strings.Repeat("[", 60000), 400, "body"},
		{"{\"target\":\"a:1\xff\"}", 400, ""},
		{"\xef\xbb\xbf{}", 400, "body"},
		{"null", 422, "body"},
		{"[]", 422, "body"},
		{`"a:1"`, 422, "body"},
		{"{}", 422, "body"},
		{`{"target":null}`, 422, "body.target"},
		{`{"target":1}`, 422, "body.target"},
		{`{"target":""}`, 422, "body.target"},
		{`{"target":"a"}`, 422, "body.target"},
		{`{"target":"a:0"}`, 422, "body.target"},
		{`{"target":"a:65536"}`, 422, "body.target"},
		{`{"target":"a b:1"}`, 422, "body.target"},
		{`{"target":"::1:22"}`, 422, "body.target"},
		{`{"target":"` + strings.Repeat("a", 5000) + `:1"}`, 422, "body.target"},
		{`{"target":"a:1","nope":1}`, 422, "body.nope"},
		{`{"target":"a:1","proxy":1}`, 422, "body.proxy"},
		{`{"target":"a:1","port":"1"}`, 422, "body.port"},
		{`{"target":"a:1","port":-1}`, 422, "body.port"},
		{`{"target":"a:1","port":65536}`, 422, "body.port"},
		{`{"target":"a:1","port":1.5}`, 422, "body.port"},
		{`{"target":"a:1","port":1e400}`, 422, "body.port"},
		{`{"target":"a:1","port":1e2}`, 422, ""},
		{`{"target":"a:1","idle_timeout":5}`, 422, "body.idle_timeout"},
		{`{"target":"a:1","idle_timeout":"5"}`, 422, "body.idle_timeout"},
		{`{"target":"a:1","idle_timeout":"-5s"}`, 422, "body.idle_timeout"},
		{`{"target":"a:1","idle_timeout":"100000h"}`, 422, "body.idle_timeout"},
		{`{"target":"a:1","ttl":"forever"}`, 422, "body.ttl"},
		{`{"target":"a:1","ttl":"999999999h"}`, 422, "body.ttl"},
		{`{"target":"a:1","allow":"10.0.0.0/8"}`, 422, "body.allow"},
		{`{"target":"a:1","allow":[null]}`, 422, "body.allow[0]"},
		{`{"target":"a:1","allow":["10.0.0.0/8","10.0.0.0/33"]}`, 422, "body.allow[1]"},
		{`{"target":"a:1","allow":["fe80::1%eth0"]}`, 422, "body.allow[0]"},
		{`{"target":"a:1","allow":[` + many(257, func(i int) string { return fmt.Sprintf(`"10.0.%d.%d"`, i/256, i%256) }) + `]}`, 422, "body.allow"},
		{`{"target":"a:1","max_sessions":-1}`, 422, "body.max_sessions"},
		{`{"target":"a:1","proxy_protocol":"v1"}`, 422, "body.proxy_protocol"},
		{`{"target":"a:1","max_sessions":99999999999999999999}`, 422, "body.max_sessions"},
		{`{"target":"a:1","labels":[]}`, 422, "body.labels"},
		{`{"target":"a:1","labels":{"a":1}}`, 422, "body.labels.a"},
		{`{"target":"a:1","labels":{"a":null}}`, 422, "body.labels.a"},
		{`{"target":"a:1","labels":{"":"x"}}`, 422, "body.labels."},
		{`{"target":"a:1","labels":{"a b":"x"}}`, 422, "body.labels.a b"},
		{`{"target":"a:1","labels":{"` + strings.Repeat("k", 64) + `":"x"}}`, 422, "body.labels." + strings.Repeat("k", 64)},
		{`{"target":"a:1","labels":{"a":"x\ny"}}`, 422, "body.labels.a"},
		{`{"target":"a:1","labels":{"a":"` + strings.Repeat("v", 256) + `"}}`, 422, "body.labels.a"},
		{`{"target":"a:1","labels":{` + many(33, func(i int) string { return fmt.Sprintf(`"k%d":""`, i) }) + `}}`, 422, "body.labels"},
		{`{"target":"a:1","check":"no"}`, 422, "body.check"},
		{strings.Repeat(" ", maxBody+1), 413, ""},
		{`{"target":"` + strings.Repeat("a", 1<<20) + `"}`, 413, ""},
	} {
		what := "POST /v1/bindings"
		status, h, body := call(t, base, what, tt.body)
		what = fmt.Sprintf("%s %.80s", what, tt.body)
		if status != tt.want {
			t.Errorf("%s = %d %s, want %d", what, status, body, tt.want)
		}
		at := wantProblem(t, what, status, h, body)
		if tt.at != "" && (len(at) != 1 || at[0] != tt.at) {
			t.Errorf("%s is wrong at %q, want %q", what, at, tt.at)
		}
		if len(body) > 4<<10 {
			t.Errorf("%s has an answer of %d bytes", what, len(body))
		}
	}
}

func TestBadCalls(t *testing.T) {
	base := serve(t, handler(t, oneBinding()))
	const okBody = `{"target":"a:1"}`
	for _, tt := range []struct {
		what, body, contentType string
		want                    int
		at                      string
	}{
		{"POST /v1/bindings", okBody, "", 200, ""},
		{"POST /v1/bindings", okBody, "application/json; charset=utf-8", 200, ""},
		{"POST /v1/bindings", okBody, "application/json; x=a+b", 200, ""},
		{"POST /v1/bindings", okBody, "Application/JSON", 200, ""},
		{"POST /v1/bindings", okBody, "text/plain", 415, ""},
		{"POST /v1/bindings", okBody, "application/x-www-form-urlencoded", 415, ""},
		{"POST /v1/bindings", okBody, "application/merge-patch+json", 415, ""},
		{"PATCH /v1/bindings/b1", `{}`, "text/yaml", 415, ""},
		{"PATCH /v1/bindings/b1", okBody, "", 422, "body.target"},
		{"PATCH /v1/bindings/b1", `{"port":1}`, "", 422, "body.port"},
		{"PATCH /v1/bindings/b1", `{"proxy":"x"}`, "", 422, "body.proxy"},
		{"PATCH /v1/bindings/b1", `{"check":true}`, "", 422, "body.check"},
		{"PATCH /v1/bindings/b1", `{"ttl":"-1s"}`, "", 422, "body.ttl"},
		{"PATCH /v1/bindings/b1", "", "", 400, ""},
		{"PATCH /v1/bindings/b9", `{}`, "", 404, ""},
		{"DELETE /v1/bindings/b1?drain=25h", "", "", 422, "query.drain"},
		{"DELETE /v1/bindings/b1?drain=-1s", "", "", 422, "query.drain"},
		{"DELETE /v1/bindings/b1?drain=30", "", "", 422, "query.drain"},
		{"DELETE /v1/bindings/b1?drain", "", "", 422, "query.drain"},
		{"DELETE /v1/bindings/b1?drian=30s", "", "", 422, "query.drian"},
		{"GET /v1/bindings?target=nope", "", "", 422, "query.target"},
		{"GET /v1/bindings?label=team", "", "", 422, "query.label"},
		{"GET /v1/bindings?label==x", "", "", 422, "query.label"},
		{"GET /v1/bindings?%zz", "", "", 400, ""},
		{"GET /v1/bindings?a;b", "", "", 400, ""},
		{"GET /v1/bindings/", "", "", 404, ""},
		{"GET /v1/bindings/%2e%2e", "", "", 404, ""},
		{"GET /v1//bindings", "", "", 404, ""},
		{"GET /", "", "", 404, ""},
		{"GET /v2", "", "", 404, ""},
		{"GET /openapi.yaml", "", "", 404, ""},
		{"GET /docs/nope.js", "", "", 404, ""},
		{"GET /docs/embed.go", "", "", 404, ""},
		{"GET /metrics", "", "", 404, ""}, // none are configured
		{"PUT /v1/bindings", "", "", 405, ""},
		{"POST /v1/bindings/b1", "", "", 405, ""},
		{"DELETE /v1/proxies", "", "", 405, ""},
		{"BREW /livez", "", "", 405, ""},
		{"GET /livez", strings.Repeat("x", maxBody+1), "", 413, ""},
	} {
		headers := []string{"Accept", "text/html, application/cbor"}
		if tt.contentType != "" {
			headers = append(headers, "Content-Type", tt.contentType)
		}
		status, h, body := call(t, base, tt.what, tt.body, headers...)
		if status != tt.want {
			t.Errorf("%s as %q = %d %s, want %d", tt.what, tt.contentType, status, body, tt.want)
		}
		if status < 400 {
			continue
		}
		at := wantProblem(t, tt.what, status, h, body)
		if tt.at != "" && (len(at) != 1 || at[0] != tt.at) {
			t.Errorf("%s is wrong at %q, want %q", tt.what, at, tt.at)
		}
		if status == 405 && h.Get("Allow") == "" {
			t.Errorf("%s = 405 without Allow", tt.what)
		}
	}
	_, h, _ := call(t, base, "PUT /v1/bindings", "")
	if got := h.Get("Allow"); got != "GET, HEAD, POST" {
		t.Errorf("PUT /v1/bindings allows %q, want GET, HEAD, POST", got)
	}
}

// TestManyErrors keeps an answer from growing with what is wrong.
func TestManyErrors(t *testing.T) {
	body := `{"target":"a:1","allow":[` + many(15000, func(int) string { return "1" }) + `]}`
	status, h, got := call(t, serve(t, handler(t, oneBinding())), "POST /v1/bindings", body)
	if at := wantProblem(t, "many errors", status, h, got); len(at) != maxFieldErrors || len(got) > 4<<10 {
		t.Errorf("15,000 wrong values are %d errors in %d bytes, want %d", len(at), len(got), maxFieldErrors)
	}
}

// raw writes to the server by hand and returns what it answers until it hangs up.
func raw(t *testing.T, base, request string) string {
	t.Helper()
	u, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", u.Host)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(bodyTimeout / 2)); err != nil { // a hang is a failure
		t.Fatal(err)
	}
	go func() { _, _ = io.WriteString(c, request) }() // ends with the connection
	b, err := io.ReadAll(c)
	if err != nil && (len(b) == 0 || errors.Is(err, os.ErrDeadlineExceeded)) {
		t.Errorf("%.80q = %.80q, then %v", request, b, err)
	}
	return string(b)
}

func TestRawRequests(t *testing.T) {
	base := serve(t, handler(t, oneBinding()))
	for request, want := range map[string]string{
		"POST /v1/bindings HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n":                            "400",
		"POST /v1/bindings HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n{":                                         "400",
		"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: " + strings.Repeat("x", 2*maxHeader) + "\r\n\r\n":                        "431",
		"GET /" + strings.Repeat("x", 2*maxHeader) + " HTTP/1.1\r\nHost: localhost\r\n\r\n":                                    "431",
		"GET / HTTP/1.1\r\nConnection: close\r\n\r\n":                                                                          "400",
		"CONNECT 127.0.0.1:1 HTTP/1.1\r\nHost: 127.0.0.1:1\r\nConnection: close\r\n\r\n":                                       "404",
		"GET http://other/livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n":                                      "200",
		"GET //livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n":                                                 "404",
		"POST /v1/bindings HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 1000000\r\n\r\n":             "413",
		"POST /v1/bindings HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 16\r\n\r\n{\"target\":\"a:1\"}": "200",
	} {
		got := raw(t, base, request)
		if !strings.HasPrefix(got, "HTTP/1.1 "+want) {
			t.Errorf("%.80q = %.80q, want %s", request, got, want)
		}
	}
}

func TestServerLimits(t *testing.T) {
	s := Server(http.NotFoundHandler())
	if s.ReadHeaderTimeout != 5*time.Second || s.MaxHeaderBytes != 16<<10 || s.IdleTimeout <= 0 {
		t.Errorf("Server has %v for headers of %d bytes and %v idle", s.ReadHeaderTimeout, s.MaxHeaderBytes, s.IdleTimeout)
	}
	if s.ReadTimeout != 0 || s.WriteTimeout != 0 {
		t.Errorf("Server cuts calls after %v and %v: a bind may take longer", s.ReadTimeout, s.WriteTimeout)
	}
}

// panicking is a handler's worst day.
type panicking struct{ sessions }

func (panicking) Sessions(string) []ohrouter.Session { panic("boom") }

func TestPanic(t *testing.T) {
	var log bytes.Buffer
	h := handler(t, oneBinding(), func(c *Config) {
		c.Sessions = panicking{}
		c.Log = slog.New(slog.NewJSONHandler(&log, nil))
	})
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "http://127.0.0.1/v1/sessions", nil))
	wantJSON(t, "panic", w.Body.String(), `{"type":"about:blank","title":"Internal Server Error","status":500,
		"detail":"internal error; the server's log has the details","code":"internal"}`)
	for _, want := range []string{`"level":"ERROR"`, "boom", "bad_test.go"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log of a panic has no %s: %s", want, log.String())
		}
	}
}

func TestAccessLog(t *testing.T) {
	var log bytes.Buffer
	h := handler(t, oneBinding(), func(c *Config) {
		c.Log = slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	r := httptest.NewRequest("GET", "http://127.0.0.1/v1/bindings/b1?drain=canary", nil)
	r.Header.Set("Authorization", "Bearer canary")
	h.ServeHTTP(httptest.NewRecorder(), r)
	var line map[string]any
	mustDecode(t, log.String(), &line)
	delete(line, "time")
	delete(line, "duration")
	want := map[string]any{
		"level": "DEBUG", "msg": "API request", "method": "GET", "path": "/v1/bindings/b1", "status": 422.0, "client": "192.0.2.1:1234",
	}
	if d := cmp.Diff(want, line); d != "" {
		t.Errorf("log of a request (-want +got):\n%s", d)
	}
}

// TestForeignTextsInLog has callers who write log lines of their own.
func TestForeignTextsInLog(t *testing.T) {
	const forged = "%0atime=2026-01-01T00:00:00Z%20level=INFO%20msg=forged%0d%1b[2J"
	var text, lines bytes.Buffer
	options := &slog.HandlerOptions{Level: slog.LevelDebug}
	calls := 0
	for _, log := range []*slog.Logger{slog.New(slog.NewTextHandler(&text, options)), slog.New(slog.NewJSONHandler(&lines, options))} {
		base := serve(t, handler(t, oneBinding(), (&authority{}).enrolling, func(c *Config) { c.Log = log }))
		calls = 0
		for what, body := range map[string]string{
			"GET /v1/" + forged: "", "DELETE /v1/proxies/" + forged + "/certificate": "", "POST /v1/proxies/" + forged + "/invitations": "{}",
			"GET /route/bind/" + forged + "/1": "", "DELETE /v1/bindings/" + forged: "", "GET /v1/bindings?target=" + forged: "",
		} {
			_, _, answer := call(t, base, what, body)
			if strings.Count(answer, "\n") > 1 || strings.ContainsAny(answer, "\r\x1b\x00") {
				t.Errorf("%s = %q, want one line", what, answer)
			}
			calls++
		}
	}
	for _, log := range []string{text.String(), lines.String()} {
		if n := strings.Count(log, "\n"); n != calls+2 { // two of them tell what they did
			t.Errorf("%d lines for %d calls, want two more:\n%s", n, calls, log)
		}
		if strings.ContainsAny(log, "\r\x1b\x00") {
			t.Errorf("the log moves the cursor: %q", log)
		}
	}
}

func FuzzBind(f *testing.F) {
	for _, s := range []string{`{}`, `{"target":"a:1"}`, `{"target":"[::1]:1","allow":["::/0"],"labels":{"a":"b"},"ttl":"1h"}`, `[`, "null", "\x00", `{"port":1e999}`} {
		f.Add([]byte(s))
	}
	h := handler(f, oneBinding())
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, what := range []string{"POST /v1/bindings", "PATCH /v1/bindings/b1"} {
			method, path, _ := strings.Cut(what, " ")
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest(method, path, bytes.NewReader(body)))
			if w.Code >= 500 || !json.Valid(w.Body.Bytes()) {
				t.Errorf("%s %q = %d %s", what, body, w.Code, w.Body)
			}
		}
	})
}

func FuzzRoute(f *testing.F) {
	for _, s := range []string{"a/1", "[::1]/22", "%2F/1", "../x", "a/b/c", "a/1?x=%zz", ""} {
		f.Add(s)
	}
	h := handler(f, oneBinding())
	f.Fuzz(func(t *testing.T, rest string) {
		u, err := url.ParseRequestURI("/route/bind/" + rest)
		if err != nil {
			return // refused by the server before a handler sees it
		}
		r := httptest.NewRequest("GET", "/", nil)
		r.URL = u
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		var e struct{ Success *bool }
		if err := json.Unmarshal(w.Body.Bytes(), &e); w.Code >= 500 || err != nil || e.Success == nil || *e.Success != (w.Code == 200) {
			t.Errorf("GET %s = %d %s", u, w.Code, w.Body)
		}
	})
}
