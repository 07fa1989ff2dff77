//go:build linux

package conformance

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// kinds says what JSON type each member of an object has; "null" beside another
// means that it may be absent.
type kinds map[string]string

var (
	bindingKinds = kinds{
		"id": "string", "owner": "string|null", "target": "string", "proxy": "string|null", "address": "string", "host": "string", "port": "number",
		"state": "string", "created_at": "time", "last_used_at": "time", "idle_timeout": "duration",
		"expires_at": "time|null", "allow": "array", "max_sessions": "number", "labels": "object", "proxy_protocol": "string|null",
		"sessions": "number", "sessions_total": "number", "bytes_up": "number", "bytes_down": "number",
		"last_check": "object|null", "last_error": "object|null",
	}
	checkKinds   = kinds{"ok": "bool", "resolved": "string", "duration": "duration", "at": "time"}
	failureKinds = kinds{"code": "string", "message": "string", "at": "time"}
	sessionKinds = kinds{
		"id": "string", "binding_id": "string", "target": "string", "resolved": "string", "proxy": "string",
		"client": "string", "started_at": "time", "bytes_up": "number", "bytes_down": "number",
	}
	problemKinds = kinds{"type": "string", "title": "string", "status": "number", "detail": "string", "code": "string"}
)

// kindOf names what a decoded JSON value is.
func kindOf(v any) []string {
	switch v := v.(type) {
	case nil:
		return []string{"null"}
	case bool:
		return []string{"bool"}
	case float64:
		return []string{"number"}
	case []any:
		return []string{"array"}
	case map[string]any:
		return []string{"object"}
	case string:
		kinds := []string{"string"}
		if _, err := time.Parse(time.RFC3339Nano, v); err == nil {
			kinds = append(kinds, "time")
		}
		if d, err := time.ParseDuration(v); err == nil && d.String() == v {
			kinds = append(kinds, "duration")
		}
		return kinds
	}
	return nil
}

// wantKinds fails the test unless an object has these members and no others.
func wantKinds(t testing.TB, what string, object any, want kinds) {
	t.Helper()
	got, ok := object.(map[string]any)
	if !ok {
		t.Errorf("%s = %v, want an object", what, object)
		return
	}
	for name, kind := range want {
		v, there := got[name]
		if !there {
			t.Errorf("%s has no %q", what, name)
		}
		if !slices.ContainsFunc(kindOf(v), func(k string) bool { return slices.Contains(strings.Split(kind, "|"), k) }) {
			t.Errorf("%s.%s = %v, want a %s", what, name, v, kind)
		}
	}
	for name := range got {
		if _, known := want[name]; !known {
			t.Errorf("%s has %q, of which the contract knows nothing", what, name)
		}
	}
}

// wantType fails the test unless an answer has the media type.
func wantType(t testing.TB, a answer, want string) {
	t.Helper()
	if got, _, _ := strings.Cut(a.header.Get("Content-Type"), ";"); got != want {
		t.Errorf("Content-Type of %v = %q, want %q", a, got, want)
	}
}

func TestShapes(t *testing.T) {
	t.Parallel()
	s := start(t, flags{})
	tg := serve(t, echo)
	a := s.want(t, 201, "", http.MethodPost, "/v1/bindings", fields{"target": tg.addr})
	wantType(t, a, "application/json")
	made := decode[map[string]any](t, a)
	wantKinds(t, "binding", made, bindingKinds)
	wantKinds(t, "last_check", made["last_check"], checkKinds)
	c := connect(t, made["address"].(string))
	wantEcho(t, c)
	list := decode[map[string]any](t, s.call(t, http.MethodGet, "/v1/bindings", nil))
	wantKinds(t, "bindings", list, kinds{"bindings": "array"})
	wantKinds(t, "binding of the list", list["bindings"].([]any)[0], bindingKinds)
	sessions := decode[map[string]any](t, s.call(t, http.MethodGet, "/v1/sessions", nil))
	wantKinds(t, "sessions", sessions, kinds{"sessions": "array"})
	wantKinds(t, "session", sessions["sessions"].([]any)[0], sessionKinds)
	proxies := decode[map[string]any](t, s.call(t, http.MethodGet, "/v1/proxies", nil))
	wantKinds(t, "proxies", proxies, kinds{"proxies": "array"})

	failing := s.bind(t, closedPort(t), fields{"check": false})
	wantResetAt(t, failing.Address)
	awaitMetric(t, s.api, outcome("target_refused"), "1")
	failed := decode[map[string]any](t, s.call(t, http.MethodGet, "/v1/bindings/"+failing.ID, nil))
	wantKinds(t, "binding without a check", failed, bindingKinds)
	wantKinds(t, "last_error", failed["last_error"], failureKinds)
}

// Empty lists are lists.
func TestEmptyLists(t *testing.T) {
	t.Parallel()
	s := start(t, flags{})
	for path, want := range map[string]string{
		"/v1/bindings": `{"bindings":[]}`, "/v1/bindings?target=127.0.0.1:1": `{"bindings":[]}`,
		"/v1/sessions": `{"sessions":[]}`, "/v1/sessions?binding=b-none": `{"sessions":[]}`,
	} {
		a := s.call(t, http.MethodGet, path, nil)
		if got := strings.TrimSpace(string(a.body)); a.status != 200 || got != want {
			t.Errorf("GET %s = %v, want %s", path, a, want)
		}
	}
}

func TestSeedCalls(t *testing.T) {
	t.Parallel()
	s := start(t, flags{ports: 2})
	tg := serve(t, echo)
	path := "/route/bind/" + strings.Replace(tg.addr, ":", "/", 1)
	var port float64
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		a := s.want(t, 200, "", method, path, nil)
		wantType(t, a, "application/json")
		got := decode[map[string]any](t, a)
		wantKinds(t, "envelope", got, kinds{"success": "bool", "data": "object", "code": "null", "message": "null"})
		data := got["data"].(map[string]any)
		wantKinds(t, "data", data, kinds{"host": "string", "port": "number"})
		if got["success"] != true || (port != 0 && port != data["port"]) {
			t.Errorf("%s %s = %v, want success and the port as before", method, path, a)
		}
		port = data["port"].(float64)
	}
	c := connect(t, loopback(int(port)))
	wantEcho(t, c)
	stat := fmt.Sprintf(`{"success":true,"data":[{"routeInfo":{"host":"127.0.0.1","port":%s},"bindAddress":{"host":"127.0.0.1","port":%v},"activeChannelCount":1}],"code":null,"message":null}`, portOf(tg.addr), port)
	wantJSON(t, s.want(t, 200, "", http.MethodGet, "/route/queryServerBindStat", nil).body, stat)

	failures := []struct {
		path, code string
		status     int
	}{
		{"/route/bind/127.0.0.1/" + portOf(closedPort(t)), "ROUTE_ERROR", 502},
		{"/route/bind/192.0.2.1/80", "ROUTE_ERROR", 403},
		{"/route/bind/127.0.0.1/0", "UNKNOWN_ERROR", 422},
		{"/route/bind/127.0.0.1/65536", "UNKNOWN_ERROR", 422},
		{"/route/bind/127.0.0.1/http", "UNKNOWN_ERROR", 422},
		{"/route/bind/not%20a%20host/80", "UNKNOWN_ERROR", 422},
	}
	for _, tt := range failures {
		a := s.call(t, http.MethodGet, tt.path, nil)
		wantEnvelope(t, a, tt.status, tt.code)
	}
	s.bind(t, serve(t, echo).addr)
	a := s.call(t, http.MethodGet, "/route/bind/"+strings.Replace(serve(t, echo).addr, ":", "/", 1), nil)
	wantEnvelope(t, a, 503, "BIND_ERROR")
	s.proxy.kill()
	a = s.call(t, http.MethodGet, "/route/bind/127.0.0.1/9", nil)
	wantEnvelope(t, a, 503, "ROUTE_ERROR")
}

// wantEnvelope fails the test unless an answer is a failure in the envelope.
func wantEnvelope(t testing.TB, a answer, status int, code string) {
	t.Helper()
	got := decode[map[string]any](t, a)
	wantKinds(t, "envelope", got, kinds{"success": "bool", "data": "null", "code": "string", "message": "string"})
	if a.status != status || got["success"] != false || got["code"] != code || got["message"] == "" {
		t.Errorf("answer %v, want %d %s with a message", a, status, code)
	}
}

// wantJSON fails the test unless two texts mean the same JSON value. Members
// that are null where the other lacks them make no difference.
func wantJSON(t testing.TB, got []byte, want string) {
	t.Helper()
	var g, w map[string]any
	if err := json.Unmarshal(got, &g); err != nil {
		t.Fatalf("answer %s: %v", got, err)
	}
	if err := json.Unmarshal([]byte(want), &w); err != nil {
		t.Fatal(err)
	}
	absent := func(_ string, v any) bool { return v == nil }
	maps.DeleteFunc(g, absent)
	maps.DeleteFunc(w, absent)
	a, _ := json.Marshal(g)
	b, _ := json.Marshal(w)
	if string(a) != string(b) {
		t.Errorf("answer %s, want %s", a, b)
	}
}

func TestOpenAPI(t *testing.T) {
	t.Parallel()
	s := start(t, flags{})
	a := s.want(t, 200, "", http.MethodGet, "/openapi.json", nil)
	doc := decode[struct {
		OpenAPI string `json:"openapi"`
		Info    struct{ Title, Version string }
		Paths   map[string]map[string]any `json:"paths"`
	}](t, a)
	if !strings.HasPrefix(doc.OpenAPI, "3.1.") || doc.Info.Title == "" || doc.Info.Version == "" {
		t.Errorf("openapi %q, info %+v, want 3.1 and a title", doc.OpenAPI, doc.Info)
	}
	for path, methods := range map[string][]string{
		"/route/bind/{host}/{port}": {"get", "post"}, "/route/queryServerBindStat": {"get"},
		"/v1/bindings": {"get", "post"}, "/v1/bindings/{id}": {"get", "patch", "delete"},
		"/v1/sessions": {"get"}, "/v1/sessions/{id}": {"delete"}, "/v1/proxies": {"get"},
		"/livez": {"get"}, "/readyz": {"get"}, "/metrics": {"get"},
	} {
		for _, method := range methods {
			if _, ok := doc.Paths[path][method]; !ok {
				t.Errorf("openapi.json has no %s %s", method, path)
			}
		}
	}
	docs := s.want(t, 200, "", http.MethodGet, "/docs", nil)
	wantType(t, docs, "text/html")
}

func TestReadyVerbose(t *testing.T) {
	t.Parallel()
	s := start(t, flags{})
	s.bind(t, serve(t, echo).addr)
	a := s.want(t, 200, "", http.MethodGet, "/readyz?verbose", nil)
	if !strings.Contains(string(a.body), s.link) && !strings.Contains(string(a.body), "proxy") {
		t.Errorf("readyz?verbose = %v, want each part, the proxy included", a)
	}
	s.proxy.kill()
	// Bindings are the router's: it accepts calls without a proxy, too.
	s.want(t, 200, "", http.MethodGet, "/readyz", nil)
}
