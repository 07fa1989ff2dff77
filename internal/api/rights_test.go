package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/access"
)

// shared returns an API with a binding of the user (b-user), one of the other
// user (b-other) and one of nobody (b-none), each with a session, and three
// proxies.
func shared(t testing.TB, h *holders, change ...func(*Config)) (*bindings, string) {
	t.Helper()
	fake := &bindings{created: true}
	var open sessions
	for _, name := range []string{"user", "other", "none"} {
		b := ohrouter.Binding{
			ID: "b-" + name, Owner: ohrouter.Optional(h.id[name]), Target: ohrouter.Target{Host: "db.internal", Port: 3306}, Port: 20007,
			State: ohrouter.BindingActive, CreatedAt: epoch, LastUsedAt: epoch,
			LastCheck: &ohrouter.Check{OK: true, Resolved: "10.9.9.9:3306", At: epoch},
			LastError: &ohrouter.Failure{Code: ohrouter.TargetDenied, Message: "10.9.9.9 is denied", At: epoch},
		}
		fake.list = append(fake.list, b)
		open = append(open, ohrouter.Session{ID: "s-" + name, BindingID: b.ID, Resolved: "10.9.9.9:3306", StartedAt: epoch})
	}
	proxies := func() []ohrouter.Proxy {
		return []ohrouter.Proxy{{Name: "east", Address: "10.8.8.8:9000", State: ohrouter.ProxyUp}}
	}
	change = append(change, h.guarded, func(c *Config) { c.Sessions, c.Proxies = open, proxies })
	return fake, serve(t, handler(t, fake, change...))
}

// TestOwnAndForeign makes every call about one thing, as each of the holders.
func TestOwnAndForeign(t *testing.T) {
	h := newHolders(t)
	_, base := shared(t, h)
	for what, want := range map[string]map[string]int{
		"GET /v1/bindings/b-user":      {"admin": 200, "viewer": 200, "user": 200, "other": 404},
		"PATCH /v1/bindings/b-user":    {"admin": 200, "viewer": 403, "user": 200, "other": 404},
		"DELETE /v1/bindings/b-user":   {"admin": 204, "viewer": 403, "user": 204, "other": 404},
		"DELETE /v1/sessions/s-user":   {"admin": 204, "viewer": 403, "user": 204, "other": 404},
		"GET /v1/bindings/b-none":      {"admin": 200, "viewer": 200, "user": 404, "other": 404},
		"DELETE /v1/bindings/b-none":   {"admin": 204, "viewer": 403, "user": 404, "other": 404},
		"GET /v1/bindings/b-absent":    {"admin": 404, "viewer": 404, "user": 404, "other": 404},
		"DELETE /v1/sessions/s-absent": {"admin": 404, "viewer": 404, "user": 404, "other": 404},
		"POST /v1/tokens":              {"admin": 422, "viewer": 403, "user": 403, "other": 403},
		"DELETE /v1/tokens/t-absent":   {"admin": 404, "viewer": 403, "user": 403, "other": 403},
	} {
		for name, want := range want {
			body := ""
			if strings.HasPrefix(what, "PATCH") {
				body = `{"max_sessions":1}`
			} else if strings.HasPrefix(what, "POST") {
				body = `{"name":"","role":"admin"}`
			}
			status, hd, got := call(t, base, what, body, h.as(name)...)
			if status != want {
				t.Errorf("%s as %s = %d %s, want %d", what, name, status, got, want)
			}
			if (hd.Get("WWW-Authenticate") != "") != (status == 403) {
				t.Errorf("%s as %s = %d with the challenge %q", what, name, status, hd.Get("WWW-Authenticate"))
			}
		}
	}
}

// TestTooManyCalls has a user who loops, beside others.
func TestTooManyCalls(t *testing.T) {
	h := newHolders(t)
	_, base := shared(t, h)
	taken := 0
	for range 1000 {
		status, hd, body := call(t, base, "GET /v1/bindings/b-user", "", h.as("user")...)
		if status == 200 {
			taken++
			continue
		}
		if status != 429 || hd.Get("Retry-After") != "1" || hd.Get("WWW-Authenticate") != "" || !strings.Contains(body, `"code":"quota_exceeded"`) {
			t.Fatalf("call %d = %d %s with %v, want 429 and when to try again", taken+1, status, body, hd)
		}
		break
	}
	if taken < 40 || taken == 1000 {
		t.Errorf("%d calls are taken, want those of two seconds and no more", taken)
	}
	for _, name := range []string{"other", "viewer", "admin"} {
		if status, _, body := call(t, base, "GET /v1/bindings", "", h.as(name)...); status != 200 {
			t.Errorf("beside it %s gets %d %s", name, status, body)
		}
	}
	if status, _, body := call(t, base, "GET /readyz", "", h.as("user")...); status != 200 {
		t.Errorf("what everybody may ask = %d %s", status, body)
	}
}

// TestForeignIsAbsent compares what is said of somebody else's ids with what is
// said of those that nobody has.
func TestForeignIsAbsent(t *testing.T) {
	h := newHolders(t)
	_, base := shared(t, h)
	for _, what := range []string{"GET /v1/bindings/b-", "PATCH /v1/bindings/b-", "DELETE /v1/bindings/b-", "DELETE /v1/sessions/s-", "GET /v1/sessions?binding=b-"} {
		body := ""
		if strings.HasPrefix(what, "PATCH") {
			body = `{"ttl":"9h"}` // more than is granted, which is not said either
		}
		foreignStatus, _, foreign := call(t, base, what+"other", body, h.as("user")...)
		absentStatus, _, absent := call(t, base, what+"nnnnn", body, h.as("user")...)
		if foreignStatus != absentStatus || strings.ReplaceAll(foreign, "other", "nnnnn") != absent {
			t.Errorf("%s of somebody else = %d %s, of nobody = %d %s", what, foreignStatus, foreign, absentStatus, absent)
		}
	}
}

func TestLists(t *testing.T) {
	h := newHolders(t)
	_, base := shared(t, h)
	for name, want := range map[string]string{
		"admin": "user other none", "viewer": "user other none", "user": "user", "other": "other",
	} {
		for path, prefix := range map[string]string{"/v1/bindings": `{"id":"b-`, "/v1/sessions": `{"id":"s-`} {
			_, _, body := call(t, base, "GET "+path, "", h.as(name)...)
			var got []string
			for part := range strings.SplitSeq(body, prefix) {
				if id, _, ok := strings.Cut(part, `"`); ok && !strings.HasPrefix(part, "{") {
					got = append(got, id)
				}
			}
			if s := strings.Join(got, " "); s != want {
				t.Errorf("GET %s as %s = %q, want %q", path, name, s, want)
			}
			if told := strings.Contains(body, "10.9.9.9"); told == (name == "user") {
				t.Errorf("GET %s as %s tells where a name leads: %v", path, name, told)
			}
		}
		_, _, body := call(t, base, "GET /route/queryServerBindStat", "", h.as(name)...)
		if got := strings.Count(body, "routeInfo"); got != len(strings.Fields(want)) {
			t.Errorf("the short list as %s has %d bindings, want %q", name, got, want)
		}
		_, _, body = call(t, base, "GET /v1/proxies", "", h.as(name)...)
		if told := strings.Contains(body, "10.8.8.8"); !strings.Contains(body, "east") || told != (name == "admin" || name == "viewer") {
			t.Errorf("GET /v1/proxies as %s = %s", name, body)
		}
		_, _, body = call(t, base, "GET /v1/tokens", "", h.as(name)...)
		if got := strings.Count(body, `"id"`); got != map[bool]int{true: 4, false: 1}[name == "admin"] || !strings.Contains(body, h.id[name]) {
			t.Errorf("GET /v1/tokens as %s = %s", name, body)
		}
	}
}

// TestBindForOwner binds as each holder: what is not granted is refused before
// anybody is asked.
func TestBindForOwner(t *testing.T) {
	h := newHolders(t)
	fake, base := shared(t, h)
	for _, tt := range []struct {
		name, target, more string
		want               int
	}{
		{"admin", "db.example:3306", "", 201},
		{"user", "db.internal:3306", "", 201},
		{"user", "DB.internal.:3306", `,"ttl":"1h"`, 201},
		{"user", "db.internal:3306", `,"ttl":"2h"`, 403},
		{"user", "db.example:3306", "", 403},
		{"user", "10.0.0.1:3306", "", 403},
		{"other", "db.example:3306", `,"ttl":"2h"`, 201},
		{"other", "169.254.169.254:80", "", 403},
		{"viewer", "db.internal:3306", "", 403},
	} {
		fake.spec = ohrouter.BindingSpec{}
		status, _, body := call(t, base, "POST /v1/bindings", fmt.Sprintf(`{"target":%q%s}`, tt.target, tt.more), h.as(tt.name)...)
		if status != tt.want || (fake.spec.Owner == h.id[tt.name]) != (status == 201) {
			t.Errorf("bind %s%s as %s = %d %s for %q, want %d", tt.target, tt.more, tt.name, status, body, fake.spec.Owner, tt.want)
		}
		if tt.more != "" {
			continue
		}
		if tt.want == 201 {
			tt.want = 200
		}
		host, port, _ := strings.Cut(tt.target, ":")
		status, _, body = call(t, base, "GET /route/bind/"+host+"/"+port, "", h.as(tt.name)...)
		if status != tt.want || strings.Contains(body, `"success":true`) != (status == 200) {
			t.Errorf("short bind of %s as %s = %d %s, want %d", tt.target, tt.name, status, body, tt.want)
		}
	}
}

// TestReasons lets a bind fail in every way. Who is not told gets one answer
// for all that says something about a network; the log has the reason.
func TestReasons(t *testing.T) {
	h := newHolders(t)
	var log bytes.Buffer
	fake, base := shared(t, h, func(c *Config) { c.Log = slog.New(slog.NewJSONHandler(&log, nil)) })
	answers := map[string]bool{}
	for _, code := range []ohrouter.Code{
		ohrouter.TargetDenied, ohrouter.TargetRefused, ohrouter.TargetUnreachable, ohrouter.TargetUnresolved, ohrouter.TargetTimeout,
	} {
		fake.err = ohrouter.Errorf(code, "10.9.9.9 says no")
		for _, name := range []string{"admin", "other"} {
			status, _, body := call(t, base, "POST /v1/bindings", `{"target":"db.internal:3306"}`, h.as(name)...)
			if status != statusOf(code) || !strings.Contains(body, "10.9.9.9") {
				t.Errorf("%s as %s = %d %s, want the reason", code, name, status, body)
			}
		}
		log.Reset()
		status, _, body := call(t, base, "POST /v1/bindings", `{"target":"db.internal:3306"}`, h.as("user")...)
		answers[fmt.Sprint(status, body)] = true
		status, _, body = call(t, base, "GET /route/bind/db.internal/3306", "", h.as("user")...)
		answers[fmt.Sprint(status, body)] = true
		if n := strings.Count(log.String(), `"code":"`+string(code)+`","err":"10.9.9.9 says no"`); n != 2 {
			t.Errorf("the log has the reason %d times, want 2: %s", n, log.String())
		}
	}
	fake.err = &ohrouter.Error{Code: ohrouter.Internal, Message: "10.9.9.9 broke", Err: errors.New("at 10.8.8.8")}
	log.Reset()
	if status, _, body := call(t, base, "POST /v1/bindings", `{"target":"db.internal:3306"}`, h.as("user")...); status != 500 || strings.Contains(body, "10.") {
		t.Errorf("a fault of the router as user = %d %s, want the code alone", status, body)
	}
	if !strings.Contains(log.String(), "10.8.8.8") || strings.Count(log.String(), "\n") != 1 {
		t.Errorf("the log has %s, want the fault, once", log.String())
	}
	if len(answers) != 2 { // one with and one without an envelope
		t.Errorf("a user gets %d answers, want one for all reasons: %v", len(answers), answers)
	}
}

func TestRequester(t *testing.T) {
	prefix := netip.MustParsePrefix
	for _, tt := range []struct {
		from, allow string
		byDefault   bool
		want        []netip.Prefix // of the spec
		otherwise   []netip.Prefix // its default
	}{
		{"10.1.2.3:50000", `["requester"]`, false, []netip.Prefix{prefix("10.1.2.3/32")}, nil},
		{"10.1.2.3:50000", `["requester","10.9.0.0/16"]`, true, []netip.Prefix{prefix("10.1.2.3/32"), prefix("10.9.0.0/16")}, []netip.Prefix{prefix("10.1.2.3/32")}},
		{"10.1.2.3:50000", `[]`, false, []netip.Prefix{}, nil},
		{"10.1.2.3:50000", `[]`, true, []netip.Prefix{}, []netip.Prefix{prefix("10.1.2.3/32")}},
		{"10.1.2.3:50000", `["0.0.0.0/0"]`, true, []netip.Prefix{prefix("0.0.0.0/0")}, []netip.Prefix{prefix("10.1.2.3/32")}},
		{"[::ffff:10.1.2.3]:50000", `["requester"]`, false, []netip.Prefix{prefix("10.1.2.3/32")}, nil},
		{"[fe80::1%eth0]:50000", `["requester"]`, false, []netip.Prefix{prefix("fe80::1/128")}, nil},
		{"@", `["requester"]`, false, []netip.Prefix{prefix("127.0.0.0/8"), prefix("::1/128")}, nil},
	} {
		fake := oneBinding()
		h := handler(t, fake, func(c *Config) { c.AllowRequester = tt.byDefault })
		r := httptest.NewRequest("POST", "http://127.0.0.1/v1/bindings", strings.NewReader(`{"target":"a:1","allow":`+tt.allow+`}`))
		r.RemoteAddr = tt.from
		r.Header.Set("X-Forwarded-For", "192.0.2.77") // says who likes to
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		opts := cmp.Options{cmpopts.EquateComparable(netip.Prefix{})}
		if d := cmp.Diff(tt.want, fake.spec.Allow, opts); d != "" || w.Code != 200 {
			t.Errorf("allow %s from %s = %d (-want +got):\n%s", tt.allow, tt.from, w.Code, d)
		}
		if d := cmp.Diff(tt.otherwise, fake.spec.DefaultAllow, opts); d != "" {
			t.Errorf("default of allow from %s (-want +got):\n%s", tt.from, d)
		}
		r = httptest.NewRequest("PATCH", "http://127.0.0.1/v1/bindings/b1", strings.NewReader(`{"allow":`+tt.allow+`}`))
		r.RemoteAddr = tt.from
		h.ServeHTTP(httptest.NewRecorder(), r)
		want := tt.want
		if tt.byDefault && len(want) == 0 {
			want = tt.otherwise
		}
		if d := cmp.Diff(want, *fake.patch.Allow, opts); d != "" {
			t.Errorf("patched allow %s from %s (-want +got):\n%s", tt.allow, tt.from, d)
		}
	}
	fake := oneBinding()
	h := handler(t, fake, func(c *Config) { c.AllowRequester = true })
	r := httptest.NewRequest("GET", "http://127.0.0.1/route/bind/a/1", nil)
	r.RemoteAddr = "10.1.2.3:1"
	h.ServeHTTP(httptest.NewRecorder(), r)
	if len(fake.spec.DefaultAllow) != 1 || fake.spec.DefaultAllow[0] != prefix("10.1.2.3/32") {
		t.Errorf("default of a short bind = %v, want the requester", fake.spec.DefaultAllow)
	}
}

func TestTokenCalls(t *testing.T) {
	var log bytes.Buffer
	fake := oneBinding()
	base := serve(t, handler(t, fake, func(c *Config) {
		c.Log = slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}))
	status, _, body := call(t, base, "POST /v1/tokens", `{"name":"ci","role":"user","targets":["any"]}`)
	if status != 409 {
		t.Errorf("a user as the first token = %d %s, want 409", status, body)
	}
	status, h, body := call(t, base, "POST /v1/tokens", `{"name":"root","role":"admin"}`)
	if status != 201 || h.Get("Cache-Control") != "no-store" {
		t.Fatalf("the first token = %d %s", status, body)
	}
	var root, ci ohrouter.NewToken
	mustDecode(t, body, &root)
	admin := []string{"Authorization", "Bearer " + root.Secret}
	if status, _, _ := call(t, base, "GET /v1/bindings", ""); status != 401 {
		t.Errorf("list without a token = %d, want 401 from the first token on", status)
	}
	status, _, body = call(t, base, "POST /v1/tokens", `{"name":"ci","role":"user","targets":["DB.internal:5432"],"proxies":["east"],"ports":"20000-20009",
		"max_ttl":"8h","ttl":"720h","max_bindings":5,"max_sessions":6,"targets_per_minute":7,"calls_per_second":8,"reasons":true}`, admin...)
	if status != 201 {
		t.Fatalf("create = %d %s", status, body)
	}
	mustDecode(t, body, &ci)
	want := ohrouter.Grant{
		Targets: []string{"db.internal:5432"}, Proxies: []string{"east"}, Ports: &ohrouter.PortRange{Low: 20000, High: 20009},
		MaxTTL: ohrouter.Duration(8 * time.Hour), MaxBindings: 5, MaxSessions: 6, TargetsPerMinute: 7, CallsPerSecond: 8, Reasons: true,
	}
	if d := cmp.Diff(want, ci.Grant); d != "" || ci.ExpiresAt == nil {
		t.Errorf("grant (-want +got):\n%s", d)
	}
	for body, want := range map[string]int{
		`{"name":"ci","role":"viewer"}`:                                         409,
		`{"name":"a"}`:                                                          422,
		`{"name":"a","role":"root"}`:                                            422,
		`{"name":"a","role":"user"}`:                                            422,
		`{"name":"a","role":"viewer","targets":["any"]}`:                        422,
		`{"name":"a","role":"user","targets":["10.0.0.1/8:1"]}`:                 422,
		`{"name":"a","role":"user","targets":["any"],"ports":"2-1"}`:            422,
		`{"name":"a","role":"user","targets":["any"],"max_ttl":"-1s"}`:          422,
		`{"name":"a","role":"user","targets":["any"],"secret":"ohr_x"}`:         422,
		`{"name":"a","role":"user","targets":["any"],"targets_per_minute":1.5}`: 422,
		`{`: 400,
	} {
		status, _, got := call(t, base, "POST /v1/tokens", body, admin...)
		if status != want {
			t.Errorf("create %s = %d %s, want %d", body, status, got, want)
		}
	}
	_, _, body = call(t, base, "GET /v1/tokens", "", admin...)
	if strings.Count(body, `"id"`) != 2 || strings.Contains(body, "secret") || strings.Contains(body, ci.Secret) {
		t.Errorf("list = %s, want two without secrets", body)
	}
	for _, want := range []int{204, 404} {
		if status, _, body := call(t, base, "DELETE /v1/tokens/"+ci.ID, "", admin...); status != want {
			t.Errorf("revoke = %d %s, want %d", status, body, want)
		}
	}
	if d := cmp.Diff([]string{ci.ID}, fake.ended); d != "" {
		t.Errorf("bindings were released of (-want +got):\n%s", d)
	}
	if status, _, _ := call(t, base, "GET /v1/bindings", "", "Authorization", "Bearer "+ci.Secret); status != 401 {
		t.Errorf("list with a revoked token = %d, want 401", status)
	}
	if status, _, _ := call(t, base, "DELETE /v1/tokens/"+root.ID, "", admin...); status != 409 {
		t.Errorf("revoke of the last admin = %d, want 409", status)
	}
	for _, secret := range []string{root.Secret, ci.Secret} {
		if strings.Contains(log.String(), secret[4:20]) {
			t.Error("the log has a secret")
		}
	}
	if !strings.Contains(log.String(), `"msg":"token created","token":"`+ci.ID) || !strings.Contains(log.String(), `"msg":"token revoked","token":"`+ci.ID) {
		t.Errorf("the log does not tell of the token: %s", log.String())
	}
}

// forgetting is a store of tokens that calls before for each that it is to
// forget.
type forgetting struct{ before func(id string) }

func (forgetting) LoadTokens(context.Context) ([]access.Record, error) { return nil, nil }
func (forgetting) PutToken(context.Context, access.Record) error       { return nil }

func (f forgetting) DeleteToken(_ context.Context, id string) error {
	f.before(id)
	return nil
}

// TestRevocationWaitsForNoDisk has a token's bindings ended, and the token
// refused, before the store is asked to forget it.
func TestRevocationWaitsForNoDisk(t *testing.T) {
	fake := oneBinding()
	var tokens *access.Tokens
	asked := 0
	tokens, err := access.Open(t.Context(), access.Config{Store: forgetting{func(id string) {
		asked++
		_, valid := tokens.Token(id)
		if d := cmp.Diff([]string{id}, fake.ended); d != "" || valid {
			t.Errorf("when the store is asked the token is valid: %v, and bindings were released of (-want +got):\n%s", valid, d)
		}
	}}})
	if err != nil {
		t.Fatal(err)
	}
	base := serve(t, handler(t, fake, func(c *Config) { c.Access = tokens }))
	var made [2]ohrouter.NewToken
	for i, name := range []string{"root", "other"} {
		if made[i], err = tokens.Create(t.Context(), ohrouter.TokenSpec{Name: name, Role: ohrouter.Admin}); err != nil {
			t.Fatal(err)
		}
	}
	status, _, body := call(t, base, "DELETE /v1/tokens/"+made[1].ID, "", "Authorization", "Bearer "+made[0].Secret)
	if status != 204 || asked != 1 {
		t.Errorf("revoke = %d %s, and the store was asked %d times", status, body, asked)
	}
}

// TestRevokedTwice has a call that revokes a token while another one does: both
// have, and one of them is written down.
func TestRevokedTwice(t *testing.T) {
	h := newHolders(t)
	var log bytes.Buffer
	fake := oneBinding()
	base := serve(t, handler(t, fake, h.guarded, func(c *Config) { c.Log = slog.New(slog.NewJSONHandler(&log, nil)) }))
	revoke := func() {
		if status, _, body := call(t, base, "DELETE /v1/tokens/"+h.id["user"], "", h.as("admin")...); status != 204 {
			t.Errorf("revoke = %d %s, want 204", status, body)
		}
	}
	var other atomic.Bool
	fake.ending = func() {
		if other.CompareAndSwap(false, true) {
			revoke()
		}
	}
	revoke()
	if n := strings.Count(log.String(), "token revoked"); n != 1 {
		t.Errorf("the log tells %d times of the revocation: %s", n, log.String())
	}
}
