package api

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/access"
)

// holders is a set of tokens, and the secrets that open it by the name of the
// token: "admin", "viewer", "user" and "other", a user, too.
type holders struct {
	tokens *access.Tokens
	secret map[string]string
	id     map[string]string
}

func newHolders(t testing.TB) *holders {
	t.Helper()
	tokens, err := access.Open(t.Context(), access.Config{})
	if err != nil {
		t.Fatal(err)
	}
	h := &holders{tokens: tokens, secret: map[string]string{}, id: map[string]string{}}
	for _, spec := range []ohrouter.TokenSpec{
		{Name: "admin", Role: ohrouter.Admin},
		{Name: "viewer", Role: ohrouter.Viewer},
		{Name: "user", Role: ohrouter.User, Targets: []string{"*.internal:*"}, MaxTTL: ohrouter.Duration(time.Hour)},
		{Name: "other", Role: ohrouter.User, Targets: []string{"any"}, Reasons: true},
	} {
		made, err := tokens.Create(context.Background(), spec)
		if err != nil {
			t.Fatal(err)
		}
		h.secret[spec.Name], h.id[spec.Name] = made.Secret, made.ID
	}
	return h
}

// guarded makes an API need the tokens.
func (h *holders) guarded(c *Config) { c.Access = h.tokens }

// as returns the header of a call that shows the token of that name.
func (h *holders) as(name string) []string {
	if name == "" {
		return nil
	}
	return []string{"Authorization", "Bearer " + h.secret[name]}
}

func TestHost(t *testing.T) {
	h := handler(t, oneBinding(), func(c *Config) {
		c.Advertise, c.Hosts = "Router.Example.", []string{"api.internal"}
		c.Metrics = http.NotFoundHandler()
	})
	for host, want := range map[string]int{
		"127.0.0.1:8080": 200, "10.1.2.3": 200, "[::1]:8080": 200, "[2001:db8::1]": 200, "localhost:8080": 200, "LOCALHOST.": 200,
		"router.example:8080": 200, "api.internal": 200, "API.internal.:1": 200, "": 200,
		"attacker.example": 403, "attacker.example:8080": 403, "localhost.attacker.example": 403, "127.0.0.1.attacker.example": 403,
		"xapi.internal": 403, "127.1": 403, "0x7f000001": 403, ":8080": 200, "[::1].attacker.example": 403, "api.internal@attacker.example": 403,
	} {
		for _, path := range []string{"/v1/bindings", "/route/queryServerBindStat", "/metrics", "/livez"} {
			r := httptest.NewRequest("GET", "http://127.0.0.1"+path, nil)
			r.Host = host
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			want := want
			if path == "/metrics" && want == 200 {
				want = 404
			} else if path == "/livez" {
				want = 200
			}
			if w.Code != want {
				t.Errorf("GET %s with the host %q = %d %s, want %d", path, host, w.Code, w.Body, want)
			}
		}
	}
	for scheme, more := range map[string]bool{"http": false, "https": true} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", scheme+"://host2:8443/v1/bindings", nil))
		said := w.Body.String()
		if !strings.Contains(said, `by the name \"host2\": `) || strings.Contains(said, "'oh-router ca init --host'") != more {
			t.Errorf("GET %s://host2:8443/v1/bindings = %s, want the name alone and a word of ca init: %v", scheme, said, more)
		}
	}
}

func TestOtherSite(t *testing.T) {
	base := serve(t, handler(t, oneBinding()))
	const bind, oldBind, read = "POST /v1/bindings", "GET /route/bind/a/1", "GET /v1/bindings"
	for _, tt := range []struct {
		what    string
		headers []string
		want    int
	}{
		{bind, nil, 200},
		{bind, []string{"Sec-Fetch-Site", "same-origin"}, 200},
		{bind, []string{"Sec-Fetch-Site", "none"}, 200},
		{bind, []string{"Origin", base}, 200},
		{bind, []string{"Sec-Fetch-Site", "cross-site"}, 403},
		{bind, []string{"Sec-Fetch-Site", "same-site"}, 403},
		{bind, []string{"Origin", "https://attacker.example"}, 403},
		{bind, []string{"Origin", "null"}, 403},
		{"DELETE /v1/bindings/b1", []string{"Sec-Fetch-Site", "cross-site"}, 403},
		{"PATCH /v1/bindings/b1", []string{"Origin", "https://attacker.example"}, 403},
		{oldBind, nil, 200},
		{oldBind, []string{"Sec-Fetch-Site", "none", "Accept-Language", "de"}, 200},
		{oldBind, []string{"Sec-Fetch-Site", "same-origin"}, 200},
		{oldBind, []string{"Sec-Fetch-Site", "cross-site"}, 403},
		{oldBind, []string{"Sec-Fetch-Site", "same-site"}, 403},
		{oldBind, []string{"Origin", "https://attacker.example"}, 403},
		{oldBind, []string{"Accept-Language", "de-DE,de;q=0.5"}, 403},                 // an image on a page, without TLS
		{oldBind, []string{"Accept-Language", "*"}, 200},                              // a program
		{oldBind, []string{"Accept-Language", "*", "User-Agent", "Mozilla/5.0"}, 403}, // a page may set that
		{"HEAD /route/bind/a/1", []string{"Sec-Fetch-Site", "cross-site"}, 403},
		{"HEAD /route/bind/a/1", []string{"Accept-Language", "de"}, 403},
		{"POST /route/bind/a/1", []string{"Origin", "https://attacker.example"}, 403},
		{read, []string{"Accept-Language", "de"}, 200},
		{read, []string{"Sec-Fetch-Site", "cross-site"}, 200}, // the page cannot see the answer
	} {
		body := ""
		if strings.HasSuffix(tt.what, "/v1/bindings") && strings.HasPrefix(tt.what, "POST") {
			body = `{"target":"a:1"}`
		}
		status, _, got := call(t, base, tt.what, body, tt.headers...)
		if status != tt.want {
			t.Errorf("%s with %q = %d %s, want %d", tt.what, tt.headers, status, got, tt.want)
		}
	}
}

// TestNobodyIsAnswered makes every call without a token, and with ones that are
// none: only the paths for everybody answer, and the others tell nothing.
func TestNobodyIsAnswered(t *testing.T) {
	tokens := newHolders(t)
	fake := oneBinding()
	fake.bound = func(context.Context) { t.Error("a bind was made") }
	part := func(context.Context) []Part { return []Part{{Name: "proxy east", Detail: "10.0.0.9", OK: true}} }
	metrics := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { plain(w, 200, "up 1\n") })
	base := serve(t, handler(t, fake, tokens.guarded, func(c *Config) { c.Parts, c.Metrics = part, metrics }))
	for _, header := range [][]string{
		nil,
		{"Authorization", "Bearer ohr_canary"},
		{"Authorization", "Bearer " + tokens.secret["admin"] + "x"},
		{"Authorization", "Basic " + tokens.secret["admin"]},
		{"Authorization", tokens.secret["admin"]},
		{"Authorization", "Bearer"},
		{"Cookie", "token=" + tokens.secret["admin"]},
	} {
		for _, what := range []string{
			"GET /v1/bindings", "POST /v1/bindings", "GET /v1/bindings/b1", "PATCH /v1/bindings/b1", "DELETE /v1/bindings/b1",
			"GET /v1/sessions", "DELETE /v1/sessions/s1", "GET /v1/proxies", "POST /v1/proxies/east/invitations", "DELETE /v1/proxies/east/certificate", "GET /v1/nothing", "PUT /v1/bindings", "GET /",
			"GET /route/bind/db.internal/3306", "POST /route/bind/db.internal/3306", "GET /route/queryServerBindStat", "GET /metrics",
			"GET /v1/bindings?access_token=" + tokens.secret["admin"], "OPTIONS /v1/bindings", "GET /docs/../v1/bindings", "GET //livez",
		} {
			status, h, body := call(t, base, what, "", header...)
			if what == "GET /docs/../v1/bindings" { // below /docs there is nothing to guard
				if status != 404 {
					t.Errorf("%s = %d, want 404", what, status)
				}
				continue
			}
			if status != 401 || !strings.HasPrefix(h.Get("WWW-Authenticate"), `Bearer realm="oh-router"`) {
				t.Errorf("%s with %.20q = %d %q, want 401", what, header, status, h.Get("WWW-Authenticate"))
			}
			if strings.Contains(body, "canary") || strings.Contains(body, tokens.secret["admin"][4:]) || strings.Contains(body, "b1") {
				t.Errorf("%s tells %s", what, body)
			}
			if strings.Contains(what, " /route/") == strings.Contains(body, `"status"`) {
				t.Errorf("%s = %s: the wrong shape", what, body)
			}
		}
		for what, want := range map[string]string{
			"GET /livez": "ok\n", "GET /readyz": "ok\n", "GET /readyz?verbose": "the parts are shown with a token\nreadyz check passed\n",
		} {
			if status, _, body := call(t, base, what, "", header...); status != 200 || body != want {
				t.Errorf("%s = %d %q, want %q", what, status, body, want)
			}
		}
		for _, what := range []string{"GET /docs", "GET /openapi.json"} {
			if status, _, _ := call(t, base, what, "", header...); status != 200 {
				t.Errorf("%s = %d, want 200", what, status)
			}
		}
	}
	for name, want := range map[string]int{"admin": 200, "viewer": 200, "user": 403} {
		if status, _, _ := call(t, base, "GET /metrics", "", tokens.as(name)...); status != want {
			t.Errorf("GET /metrics as %s = %d, want %d", name, status, want)
		}
		_, _, body := call(t, base, "GET /readyz?verbose", "", tokens.as(name)...)
		if strings.Contains(body, "10.0.0.9") != (want == 200) {
			t.Errorf("GET /readyz?verbose as %s = %q", name, body)
		}
	}
	status, h, _ := call(t, base, "GET /v1/bindings", "", "Authorization", "bEaReR  "+tokens.secret["admin"])
	if status != 200 || h.Get("WWW-Authenticate") != "" {
		t.Errorf("another spelling of Bearer = %d, want 200", status)
	}
	open := serve(t, handler(t, fake, tokens.guarded, func(c *Config) { c.Metrics, c.OpenMetrics = metrics, true }))
	if status, _, body := call(t, open, "GET /metrics", ""); status != 200 || body != "up 1\n" {
		t.Errorf("open metrics = %d %q, want them", status, body)
	}
}

// TestTwoTokens shows more than one, which of them counts nobody knows.
func TestTwoTokens(t *testing.T) {
	tokens := newHolders(t)
	r := httptest.NewRequest("GET", "http://127.0.0.1/v1/bindings", nil)
	r.Header["Authorization"] = []string{"Bearer " + tokens.secret["admin"], "Bearer " + tokens.secret["user"]}
	w := httptest.NewRecorder()
	handler(t, oneBinding(), tokens.guarded).ServeHTTP(w, r)
	if w.Code != 401 {
		t.Errorf("two tokens = %d, want 401", w.Code)
	}
}

// TestRevokedAtOnce is a token that ends between two calls.
func TestRevokedAtOnce(t *testing.T) {
	tokens := newHolders(t)
	base := serve(t, handler(t, oneBinding(), tokens.guarded))
	for _, want := range []int{200, 401} {
		if status, _, _ := call(t, base, "GET /v1/bindings", "", tokens.as("user")...); status != want {
			t.Errorf("list = %d, want %d", status, want)
		}
		_ = tokens.tokens.Revoke(t.Context(), tokens.id["user"]) // the second time it is gone
	}
}

// TestRefusedUnread is a call without a token whose body never comes: the
// answer waits for nothing, and the connection is not held.
func TestRefusedUnread(t *testing.T) {
	for _, header := range []string{
		"Content-Length: 60000\r\n", "Content-Length: 100000000\r\n", "Transfer-Encoding: chunked\r\n",
		"Expect: 100-continue\r\nContent-Length: 60000\r\n",
	} {
		synctest.Test(t, func(t *testing.T) {
			c := dial(t, handler(t, oneBinding(), newHolders(t).guarded))
			start := time.Now()
			if _, err := io.WriteString(c, "POST /v1/bindings HTTP/1.1\r\nHost: localhost\r\n"+header+"\r\n"); err != nil {
				t.Fatal(err)
			}
			b := make([]byte, 4<<10)
			n, err := c.Read(b)
			if took := time.Since(start); err != nil || took > 0 || !strings.HasPrefix(string(b[:n]), "HTTP/1.1 401 ") {
				t.Errorf("answer %.40q, %v after %v, want 401 at once", b[:n], err, took)
			}
			_, _ = io.Copy(io.Discard, c)
			if took := time.Since(start); took > 2*discardTimeout {
				t.Errorf("the connection is held for %v, want %v", took, discardTimeout)
			}
		})
	}
}

// TestRefusedReadsLittle is a body that comes where nobody wants it.
func TestRefusedReadsLittle(t *testing.T) {
	for _, call := range []string{
		"POST /v1/bindings HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60000\r\n\r\n",
		"POST /v1/bindings HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000000\r\n\r\n",
		"POST /v1/bindings HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer ohr_wrong\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\n",
		"POST /v1/enroll HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60000\r\n\r\n",
		"GET /livez HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60000\r\n\r\n",
	} {
		synctest.Test(t, func(t *testing.T) {
			c := dial(t, handler(t, oneBinding(), newHolders(t).guarded))
			if _, err := io.WriteString(c, call); err != nil {
				t.Fatal(err)
			}
			answer := make(chan []byte)
			go func() {
				b, _ := io.ReadAll(c)
				answer <- b
			}()
			taken := 0
			for {
				n, err := c.Write(make([]byte, 256))
				if taken += n; err != nil {
					break
				}
			}
			const most = maxUnread + 8<<10 // and the buffers of net/http
			if b := <-answer; taken > most || !strings.HasPrefix(string(b), "HTTP/1.1 4") {
				t.Errorf("%.60q: %d bytes of the body are read, and the answer is %.40q; want %d at most, and a refusal", call, taken, b, most)
			}
		})
	}
}

// TestConnectionsOfStrangers are kept for those alone who have shown a token.
func TestConnectionsOfStrangers(t *testing.T) {
	for _, tt := range []struct {
		call   string
		status string
		kept   bool
	}{
		{"GET /livez", "200", false},
		{"GET /openapi.json", "200", false},
		{"GET /v1/bindings", "401", false},
		{"GET /nonsense", "401", false},
		{"GET /livez with a token", "200", true},
		{"GET /v1/bindings with a token", "200", true},
	} {
		synctest.Test(t, func(t *testing.T) {
			told := 0
			who := newHolders(t)
			call, _, shows := strings.Cut(tt.call, " with")
			header := ""
			if shows {
				header = "Authorization: Bearer " + who.secret["admin"] + "\r\n"
			}
			h := handler(t, oneBinding(), who.guarded, func(c *Config) { c.Known = func(context.Context) { told++ } })
			got, after := send(t, h, call+" HTTP/1.1\r\nHost: localhost\r\n"+header+"\r\n")
			if !strings.HasPrefix(got, "HTTP/1.1 "+tt.status) || (after >= idleTimeout) != tt.kept || (told == 1) != tt.kept {
				t.Errorf("%s: %.20q, the connection ends after %v, and Known was told %d times; want %s, kept %v", tt.call, got, after, told, tt.status, tt.kept)
			}
		})
	}
}
