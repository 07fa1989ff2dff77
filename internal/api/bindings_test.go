package api

import (
	"fmt"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	ohrouter "github.com/ohrouter/oh-router"
)

const b1JSON = `{"id":"b1","owner":null,"target":"db.internal:3306","proxy":"east","address":"127.0.0.1:20007","host":"127.0.0.1","port":20007,
	"state":"active","created_at":"2026-05-04T09:30:00Z","last_used_at":"2026-05-04T09:30:00Z","idle_timeout":"5m0s",
	"expires_at":null,"allow":[],"max_sessions":0,"labels":{"team":"web"},"proxy_protocol":null,"sessions":2,"sessions_total":0,"bytes_up":0,
	"bytes_down":0,"last_check":null,"last_error":null}`

const b2JSON = `{"id":"b2","owner":null,"target":"[2001:db8::1]:22","proxy":null,"address":"127.0.0.1:20008","host":"127.0.0.1","port":20008,
	"state":"draining","created_at":"2026-05-04T09:30:00Z","last_used_at":"2026-05-04T09:30:00Z","idle_timeout":"0s",
	"expires_at":null,"allow":[],"max_sessions":0,"labels":{},"proxy_protocol":null,"sessions":0,"sessions_total":0,"bytes_up":0,
	"bytes_down":0,"last_check":null,"last_error":null}`

func TestBind(t *testing.T) {
	for _, created := range []bool{true, false} {
		fake := oneBinding()
		fake.created = created
		status, h, body := call(t, serve(t, handler(t, fake)), "POST /v1/bindings", `{"target":"DB.internal.:3306"}`)
		want, location := http.StatusOK, ""
		if created {
			want, location = http.StatusCreated, "/v1/bindings/b1"
		}
		if status != want || h.Get("Location") != location || h.Get("Content-Type") != "application/json" {
			t.Errorf("bind with created %v = %d %v, want %d with Location %q", created, status, h, want, location)
		}
		wantJSON(t, "bind", body, b1JSON)
	}
}

func TestBindSpec(t *testing.T) {
	target := ohrouter.Target{Host: "db.internal", Port: 3306}
	for _, tt := range []struct {
		body string
		want ohrouter.BindingSpec
	}{
		{`{"target":"DB.internal.:3306"}`, ohrouter.BindingSpec{Target: target}},
		{
			`{"target":"db.internal:3306","proxy":null,"port":0,"idle_timeout":"","ttl":"","allow":[],"max_sessions":0,"labels":{},"check":true,"proxy_protocol":""}`,
			ohrouter.BindingSpec{Target: target, Allow: []netip.Prefix{}, Labels: map[string]string{}, Check: new(true)},
		},
		{
			`{"target":"db.internal:3306","proxy":null,"port":null,"idle_timeout":null,"ttl":null,"allow":null,"max_sessions":null,"labels":null,"check":null,"proxy_protocol":null}`,
			ohrouter.BindingSpec{Target: target},
		},
		{
			`{"target":"db.internal:3306","proxy":"east","port":20007,"idle_timeout":"0s","ttl":"8h","max_sessions":3,
			"allow":["10.1.2.3/8","10.0.0.0/8","192.0.2.1","2001:db8::1","::ffff:192.0.2.0/120"],"labels":{"a.b/c-d_E":"é 1"},"check":false,"proxy_protocol":"v2"}`,
			ohrouter.BindingSpec{
				Target: target, Proxy: "east", Port: 20007, IdleTimeout: new(ohrouter.Duration(0)),
				TTL: ohrouter.Duration(8 * time.Hour), MaxSessions: 3, Labels: map[string]string{"a.b/c-d_E": "é 1"}, Check: new(false),
				ProxyProtocol: ohrouter.ProxyProtocolV2,
				Allow: []netip.Prefix{
					netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("192.0.2.1/32"),
					netip.MustParsePrefix("2001:db8::1/128"), netip.MustParsePrefix("192.0.2.0/24"),
				},
			},
		},
	} {
		fake := oneBinding()
		status, _, body := call(t, serve(t, handler(t, fake)), "POST /v1/bindings", tt.body)
		if status != http.StatusOK {
			t.Errorf("bind %s = %d %s, want 200", tt.body, status, body)
			continue
		}
		if d := cmp.Diff(tt.want, fake.spec, cmpopts.EquateComparable(netip.Prefix{})); d != "" {
			t.Errorf("bind %s asks for (-want +got):\n%s", tt.body, d)
		}
	}
}

func TestBindErrors(t *testing.T) {
	want := map[ohrouter.Code]int{
		ohrouter.InvalidRequest: 422, ohrouter.Unauthorized: 401, ohrouter.Forbidden: 403, ohrouter.TargetDenied: 403,
		ohrouter.NotFound: 404, ohrouter.Conflict: 409, ohrouter.QuotaExceeded: 429, ohrouter.TargetRefused: 502,
		ohrouter.TargetUnreachable: 502, ohrouter.TargetUnresolved: 502, ohrouter.TargetTimeout: 504,
		ohrouter.NoProxy: 503, ohrouter.ProxyUnreachable: 503, ohrouter.PortsExhausted: 503, ohrouter.Draining: 503,
		ohrouter.Internal: 500,
	}
	fake := oneBinding()
	base := serve(t, handler(t, fake))
	for _, code := range ohrouter.Codes() {
		fake.err = fmt.Errorf("bind: %w", &ohrouter.Error{Code: code, Message: "so it is", Err: http.ErrBodyNotAllowed})
		status, h, body := call(t, base, "POST /v1/bindings", `{"target":"a:1"}`)
		if status != want[code] || h.Get("Content-Type") != "application/problem+json" {
			t.Errorf("bind that fails with %s = %d %s, want %d as a problem", code, status, h.Get("Content-Type"), want[code])
		}
		wantJSON(t, string(code), body, fmt.Sprintf(`{"type":"about:blank","title":%q,"status":%d,"detail":"so it is","code":%q}`,
			http.StatusText(status), status, code))
	}
	fake.err = http.ErrBodyNotAllowed // one without a code shows nothing of itself
	_, _, body := call(t, base, "POST /v1/bindings", `{"target":"a:1"}`)
	wantJSON(t, "an error without a code", body, `{"type":"about:blank","title":"Internal Server Error","status":500,
		"detail":"internal error; the server's log has the details","code":"internal"}`)
}

func TestListBindings(t *testing.T) {
	base := serve(t, handler(t, oneBinding()))
	both := `{"bindings":[` + b1JSON + `,` + b2JSON + `]}`
	first := `{"bindings":[` + b1JSON + `]}`
	none := `{"bindings":[]}`
	for query, want := range map[string]string{
		"":                               both,
		"?target=":                       both,
		"?target=DB.internal.:3306":      first,
		"?target=%5B2001:DB8::1%5D:22":   `{"bindings":[` + b2JSON + `]}`,
		"?target=db.internal:1":          none,
		"?label=team=web":                first,
		"?label=team%3Dweb":              first,
		"?label=team=web&label=team=web": first,
		"?label=team=web&label=team=db":  none,
		"?label=team=db&label=team=web":  none,
		"?label=team=":                   none,
		"?label=team=web&target=[::1]:1": none,
	} {
		status, _, body := call(t, base, "GET /v1/bindings"+query, "")
		if status != http.StatusOK {
			t.Errorf("GET /v1/bindings%s = %d %s, want 200", query, status, body)
			continue
		}
		wantJSON(t, "GET /v1/bindings"+query, body, want)
	}
}

func TestGetBinding(t *testing.T) {
	base := serve(t, handler(t, oneBinding(), func(c *Config) { c.Advertise = "2001:db8::5" }))
	status, _, body := call(t, base, "GET /v1/bindings/b2", "")
	if status != http.StatusOK {
		t.Fatalf("GET b2 = %d %s, want 200", status, body)
	}
	var got struct{ Host, Address string }
	mustDecode(t, body, &got)
	if got.Host != "2001:db8::5" || got.Address != "[2001:db8::5]:20008" {
		t.Errorf("GET b2 is at %+v, want the advertised address, in brackets", got)
	}
	status, _, body = call(t, base, "GET /v1/bindings/b3", "")
	if status != http.StatusNotFound {
		t.Errorf("GET b3 = %d, want 404", status)
	}
	wantJSON(t, "GET b3", body, `{"type":"about:blank","title":"Not Found","status":404,"detail":"no binding has the id \"b3\"","code":"not_found"}`)
}

func TestPatch(t *testing.T) {
	for body, want := range map[string]ohrouter.BindingPatch{
		`{}`: {},
		`{"idle_timeout":null,"ttl":"","allow":null,"max_sessions":null,"labels":null}`: {},
		`{"idle_timeout":"0s","ttl":"0","allow":[],"max_sessions":0,"labels":{}}`: {
			IdleTimeout: new(ohrouter.Duration(0)), TTL: new(ohrouter.Duration(0)), Allow: new([]netip.Prefix{}),
			MaxSessions: new(0), Labels: new(map[string]string{}),
		},
		`{"idle_timeout":"1h","allow":["192.0.2.1"]}`: {
			IdleTimeout: new(ohrouter.Duration(time.Hour)), Allow: new([]netip.Prefix{netip.MustParsePrefix("192.0.2.1/32")}),
		},
	} {
		fake := oneBinding()
		status, _, got := call(t, serve(t, handler(t, fake)), "PATCH /v1/bindings/b1", body)
		if status != http.StatusOK {
			t.Errorf("PATCH %s = %d %s, want 200", body, status, got)
			continue
		}
		wantJSON(t, "PATCH "+body, got, b1JSON)
		if d := cmp.Diff(want, fake.patch, cmpopts.EquateComparable(netip.Prefix{})); d != "" {
			t.Errorf("PATCH %s asks for (-want +got):\n%s", body, d)
		}
	}
}

func TestRelease(t *testing.T) {
	for query, want := range map[string]time.Duration{"": 0, "?drain=": 0, "?drain=0s": 0, "?drain=30s": 30 * time.Second, "?drain=24h": 24 * time.Hour} {
		fake := oneBinding()
		status, _, body := call(t, serve(t, handler(t, fake)), "DELETE /v1/bindings/b1"+query, "")
		if status != http.StatusNoContent || body != "" || fake.id != "b1" || fake.drain != want {
			t.Errorf("DELETE b1%s = %d %q and releases %q within %v, want 204 and %v", query, status, body, fake.id, fake.drain, want)
		}
	}
	if status, _, _ := call(t, serve(t, handler(t, oneBinding())), "DELETE /v1/bindings/b3", ""); status != http.StatusNotFound {
		t.Errorf("DELETE b3 = %d, want 404", status)
	}
}

func TestSessionsAndProxies(t *testing.T) {
	seen := epoch
	base := serve(t, handler(t, oneBinding(), func(c *Config) {
		c.Sessions = sessions{{
			ID: "s1", BindingID: "b1", Target: ohrouter.Target{Host: "db.internal", Port: 3306}, Resolved: "192.0.2.10:3306",
			Proxy: "east", Client: netip.MustParseAddrPort("127.0.0.1:5000"), StartedAt: epoch, BytesUp: 1, BytesDown: 2,
		}}
		c.Proxies = func() []ohrouter.Proxy {
			return []ohrouter.Proxy{{
				Name: "east", Address: "127.0.0.1:9000", State: ohrouter.ProxyDown, Links: 1, SeenAt: &seen,
				LastError: &ohrouter.Failure{Code: ohrouter.ProxyUnreachable, Message: "gone", At: epoch},
			}}
		}
	}))
	all := `{"sessions":[{"id":"s1","binding_id":"b1","target":"db.internal:3306","resolved":"192.0.2.10:3306","proxy":"east",
		"client":"127.0.0.1:5000","started_at":"2026-05-04T09:30:00Z","bytes_up":1,"bytes_down":2}]}`
	for path, want := range map[string]string{
		"/v1/sessions":            all,
		"/v1/sessions?binding=b1": all,
		"/v1/sessions?binding=b9": `{"sessions":[]}`,
		"/v1/proxies": `{"proxies":[{"name":"east","address":"127.0.0.1:9000","state":"down","links":1,"seen_at":"2026-05-04T09:30:00Z",
			"last_error":{"code":"proxy_unreachable","message":"gone","at":"2026-05-04T09:30:00Z"}}]}`,
	} {
		_, _, body := call(t, base, "GET "+path, "")
		wantJSON(t, "GET "+path, body, want)
	}
	for id, want := range map[string]int{"s1": http.StatusNoContent, "s2": http.StatusNotFound} {
		if status, _, _ := call(t, base, "DELETE /v1/sessions/"+id, ""); status != want {
			t.Errorf("DELETE /v1/sessions/%s = %d, want %d", id, status, want)
		}
	}
	empty := serve(t, handler(t, oneBinding()))
	_, _, body := call(t, empty, "GET /v1/proxies", "")
	wantJSON(t, "no proxies", body, `{"proxies":[]}`)
}
