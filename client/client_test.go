package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/client"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// call is what a server saw of one.
type call struct{ method, uri, auth, agent, contentType, body string }

// serve answers every call with the handler, and returns a client of it and
// the calls it saw.
func serve(t testing.TB, h http.HandlerFunc) (*client.Client, *[]call) {
	t.Helper()
	var calls []call
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		calls = append(calls, call{
			r.Method, r.RequestURI, r.Header.Get("Authorization"), r.Header.Get("User-Agent"),
			r.Header.Get("Content-Type"), string(body),
		})
		h(w, r)
	}))
	t.Cleanup(srv.Close)
	return dial(t, client.Config{Server: srv.URL, HTTP: srv.Client()}), &calls
}

// dial returns a client that leaves no connection behind.
func dial(t testing.TB, cfg client.Config) *client.Client {
	t.Helper()
	if cfg.HTTP == nil {
		cfg.HTTP = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	}
	c, err := client.New(cfg)
	if err != nil {
		t.Fatalf("New(%+v) = %v", cfg, err)
	}
	return c
}

// answer returns a handler that always gives the same answer.
func answer(status int, contentType, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(status)
		io.WriteString(w, body)
	}
}

func testBinding() ohrouter.Binding {
	at := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	return ohrouter.Binding{
		ID: "b1", Target: ohrouter.Target{Host: "db.internal", Port: 3306}, Proxy: "default",
		Address: "127.0.0.1:20000", Host: "127.0.0.1", Port: 20000, State: ohrouter.BindingActive,
		CreatedAt: at, LastUsedAt: at, IdleTimeout: ohrouter.Duration(5 * time.Minute),
		Allow: []netip.Prefix{}, Labels: map[string]string{"app": "shop"},
		LastCheck: &ohrouter.Check{OK: true, Resolved: "10.0.0.1:3306", Duration: ohrouter.Duration(time.Millisecond), At: at},
	}
}

func asJSON(t testing.TB, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestBind(t *testing.T) {
	want := testBinding()
	for _, status := range []int{http.StatusOK, http.StatusCreated} {
		c, calls := serve(t, answer(status, "application/json", asJSON(t, want)))
		check := false
		got, created, err := c.Bind(t.Context(), ohrouter.BindingSpec{Target: want.Target, Check: &check})
		if err != nil {
			t.Fatalf("Bind with answer %d = %v", status, err)
		}
		if created != (status == http.StatusCreated) {
			t.Errorf("Bind with answer %d: created = %v", status, created)
		}
		if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
			t.Errorf("Bind: -want +got\n%s", diff)
		}
		wantCall := call{"POST", "/v1/bindings", "", "oh-router", "application/json", `{"target":"db.internal:3306","check":false}`}
		if (*calls)[0] != wantCall {
			t.Errorf("Bind called %+v, want %+v", (*calls)[0], wantCall)
		}
	}
}

// TestCalls has what each method puts on the wire.
func TestCalls(t *testing.T) {
	binding := asJSON(t, testBinding())
	tests := []struct {
		name   string
		status int
		body   string
		do     func(context.Context, *client.Client) error
		want   call
	}{
		{"binding", 200, binding, func(ctx context.Context, c *client.Client) error {
			_, err := c.Binding(ctx, "a/b")
			return err
		}, call{method: "GET", uri: "/v1/bindings/a%2Fb"}},
		{"bindings", 200, `{"bindings":[]}`, func(ctx context.Context, c *client.Client) error {
			_, err := c.Bindings(ctx, client.Filter{})
			return err
		}, call{method: "GET", uri: "/v1/bindings"}},
		{"bindings filtered", 200, `{"bindings":null}`, func(ctx context.Context, c *client.Client) error {
			_, err := c.Bindings(ctx, client.Filter{Target: ohrouter.Target{Host: "::1", Port: 22}, Labels: []string{"a=b&c", "d=e"}})
			return err
		}, call{method: "GET", uri: "/v1/bindings?label=a%3Db%26c&label=d%3De&target=%5B%3A%3A1%5D%3A22"}},
		{"patch", 200, binding, func(ctx context.Context, c *client.Client) error {
			_, err := c.Patch(ctx, "b1", ohrouter.BindingPatch{MaxSessions: new(int), Allow: &[]netip.Prefix{}})
			return err
		}, call{method: "PATCH", uri: "/v1/bindings/b1", contentType: "application/json", body: `{"allow":[],"max_sessions":0}`}},
		{"unbind", 204, "", func(ctx context.Context, c *client.Client) error {
			return c.Unbind(ctx, "b1", 0)
		}, call{method: "DELETE", uri: "/v1/bindings/b1"}},
		{"unbind with drain", 204, "", func(ctx context.Context, c *client.Client) error {
			return c.Unbind(ctx, "b1", 90*time.Second)
		}, call{method: "DELETE", uri: "/v1/bindings/b1?drain=1m30s"}},
		{"sessions", 200, `{"sessions":[]}`, func(ctx context.Context, c *client.Client) error {
			_, err := c.Sessions(ctx, "")
			return err
		}, call{method: "GET", uri: "/v1/sessions"}},
		{"sessions of a binding", 200, `{"sessions":[]}`, func(ctx context.Context, c *client.Client) error {
			_, err := c.Sessions(ctx, "b1")
			return err
		}, call{method: "GET", uri: "/v1/sessions?binding=b1"}},
		{"kill", 204, "", func(ctx context.Context, c *client.Client) error {
			return c.Kill(ctx, "s1")
		}, call{method: "DELETE", uri: "/v1/sessions/s1"}},
		{"proxies", 200, `{"proxies":[{"name":"default"}]}`, func(ctx context.Context, c *client.Client) error {
			p, err := c.Proxies(ctx)
			if len(p) != 1 || p[0].Name != "default" {
				return fmt.Errorf("got %v", p)
			}
			return err
		}, call{method: "GET", uri: "/v1/proxies"}},
		{"invite", 201, `{"proxy":"east","token":"ohe_x"}`, func(ctx context.Context, c *client.Client) error {
			made, err := c.Invite(ctx, "east", 90*time.Minute)
			if made.Token != "ohe_x" {
				return fmt.Errorf("got %v", made)
			}
			return err
		}, call{method: "POST", uri: "/v1/proxies/east/invitations", contentType: "application/json", body: `{"ttl":"1h30m0s"}`}},
		{"invite without a ttl", 201, `{"proxy":"east","token":"ohe_x"}`, func(ctx context.Context, c *client.Client) error {
			_, err := c.Invite(ctx, "a/b", 0)
			return err
		}, call{method: "POST", uri: "/v1/proxies/a%2Fb/invitations", contentType: "application/json", body: `{}`}},
		{"revoke a certificate", 204, "", func(ctx context.Context, c *client.Client) error {
			return c.RevokeCertificate(ctx, "east")
		}, call{method: "DELETE", uri: "/v1/proxies/east/certificate"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, calls := serve(t, answer(tt.status, "application/json; charset=utf-8", tt.body))
			if err := tt.do(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			tt.want.agent = "oh-router"
			if len(*calls) != 1 || (*calls)[0] != tt.want {
				t.Errorf("called %+v, want %+v", *calls, tt.want)
			}
		})
	}
}

func TestTokenAndUserAgent(t *testing.T) {
	var got call
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = call{uri: r.RequestURI, auth: r.Header.Get("Authorization"), agent: r.Header.Get("User-Agent")}
		answer(200, "application/json", `{"proxies":[]}`)(w, r)
	}))
	defer srv.Close()
	c := dial(t, client.Config{Server: srv.URL + "/base/", Token: "ohr_secret", UserAgent: "oh-router/1.2.3"})
	if _, err := c.Proxies(t.Context()); err != nil {
		t.Fatal(err)
	}
	if want := (call{uri: "/base/v1/proxies", auth: "Bearer ohr_secret", agent: "oh-router/1.2.3"}); got != want {
		t.Errorf("called %+v, want %+v", got, want)
	}
}

func TestNewRefuses(t *testing.T) {
	tests := []struct{ server, token, say string }{
		{server: "localhost:8080", say: "is not a URL such as http://"},
		{server: "127.0.0.1:8080", say: "is not a URL such as http://"},
		{server: "ftp://example.com", say: "is not a URL such as http://"},
		{server: "http://", say: "is not a URL such as http://"},
		{server: "http://u:canary@127.0.0.1", say: "put a token into a file"},
		{server: "http://127.0.0.1/?a=b", say: "query"},
		{token: "canary\nX-Other: 1", say: "characters that no token has"},
		{token: strings.Repeat("canary", 1000), say: "bytes long"},
	}
	for _, tt := range tests {
		_, err := client.New(client.Config{Server: tt.server, Token: tt.token})
		if ohrouter.CodeOf(err) != ohrouter.InvalidRequest || !strings.Contains(fmt.Sprint(err), tt.say) {
			t.Errorf("New(%q, %q) = %v, want invalid_request with %q", tt.server, tt.token, err, tt.say)
		}
		if strings.Contains(fmt.Sprint(err), "canary") {
			t.Errorf("New shows a secret: %v", err)
		}
	}
}

func TestBadIDsAreNotSent(t *testing.T) {
	c, calls := serve(t, answer(204, "", ""))
	for _, id := range []string{"", ".", ".."} {
		if err := c.Unbind(t.Context(), id, 0); ohrouter.CodeOf(err) != ohrouter.NotFound {
			t.Errorf("Unbind(%q) = %v, want not_found", id, err)
		}
		if err := c.Kill(t.Context(), id); ohrouter.CodeOf(err) != ohrouter.NotFound {
			t.Errorf("Kill(%q) = %v, want not_found", id, err)
		}
		if err := c.RevokeCertificate(t.Context(), id); ohrouter.CodeOf(err) != ohrouter.NotFound {
			t.Errorf("RevokeCertificate(%q) = %v, want not_found", id, err)
		}
		if _, err := c.Binding(t.Context(), id); ohrouter.CodeOf(err) != ohrouter.NotFound {
			t.Errorf("Binding(%q) = %v, want not_found", id, err)
		}
	}
	if len(*calls) != 0 {
		t.Errorf("called %+v", *calls)
	}
}

// failing runs a call that must fail and checks the error's shape.
func failing(t *testing.T, c *client.Client, ctx context.Context) *ohrouter.Error {
	t.Helper()
	_, _, err := c.Bind(ctx, ohrouter.BindingSpec{Target: ohrouter.Target{Host: "db", Port: 1}})
	e, ok := errors.AsType[*ohrouter.Error](err)
	if !ok {
		t.Fatalf("Bind = %v, want an *ohrouter.Error", err)
	}
	return e
}

// closedPort is an address where nothing listens, and that the kernel gives to
// nobody.
const closedPort = "127.0.0.1:1"
