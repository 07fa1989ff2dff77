//go:build linux

package conformance

import (
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"testing"
	"time"
)

func TestRepeatedBind(t *testing.T) {
	t.Parallel()
	s := start(t, flags{})
	tg := serve(t, echo)
	full := fields{
		"target": tg.addr, "port": s.low + 1, "idle_timeout": "4m", "ttl": "1h",
		"allow": []string{"127.0.0.0/8"}, "max_sessions": 7, "labels": fields{"team": "a"},
	}
	b := decode[binding](t, s.want(t, 201, "", http.MethodPost, "/v1/bindings", full))
	if b.Port != s.low+1 || b.IdleTimeout != "4m0s" || b.ExpiresAt == nil || b.MaxSessions != 7 ||
		!slices.Equal(b.Allow, []string{"127.0.0.0/8"}) || b.Labels["team"] != "a" || b.Proxy == "" {
		t.Errorf("bind %v = %+v, want what was asked for", full, b)
	}
	tests := []struct {
		name   string
		change fields
		status int
	}{
		{"the same again", full, 200},
		{"nothing but the target", fields{}, 200},
		{"zero values", fields{"proxy": "", "port": 0, "idle_timeout": "", "ttl": "", "allow": []string{}, "max_sessions": 0, "labels": fields{}, "check": true}, 200},
		{"the proxy that serves it", fields{"proxy": b.Proxy}, 200},
		{"another spelling of a duration", fields{"idle_timeout": "240s", "ttl": "60m"}, 200},
		{"other labels", fields{"labels": fields{"team": "b"}}, 200},
		{"no check", fields{"check": false}, 200},
		{"another port", fields{"port": s.low + 2}, 409},
		{"another idle_timeout", fields{"idle_timeout": "5m"}, 409},
		{"another ttl", fields{"ttl": "2h"}, 409},
		{"another allow", fields{"allow": []string{"10.0.0.0/8"}}, 409},
		{"another max_sessions", fields{"max_sessions": 8}, 409},
		{"an unknown proxy", fields{"proxy": "nowhere"}, 409},
	}
	for _, tt := range tests {
		body := fields{"target": tg.addr}
		maps.Copy(body, tt.change)
		code := ""
		if tt.status == 409 {
			code = "conflict"
		}
		a := s.call(t, http.MethodPost, "/v1/bindings", body)
		if a.status != tt.status || a.code() != code {
			t.Errorf("bind with %s = %v, want %d %s", tt.name, a, tt.status, code)
		}
	}
	if got := s.binding(t, b.ID); got.Labels["team"] != "a" || got.Port != b.Port {
		t.Errorf("binding after that = %+v, want it unchanged", got)
	}
	s.want(t, 503, "no_proxy", http.MethodPost, "/v1/bindings", fields{"target": serve(t, echo).addr, "proxy": "nowhere"})
}

func TestPortRequests(t *testing.T) {
	t.Parallel()
	s := start(t, flags{})
	foreign, err := net.Listen("tcp", loopback(s.low+5))
	if err != nil {
		t.Fatal(err)
	}
	defer foreign.Close()
	tg := serve(t, echo)
	if b := s.bind(t, tg.addr, fields{"port": s.high}); b.Port != s.high {
		t.Errorf("bind of port %d = %+v", s.high, b)
	}
	tests := []struct {
		port   int
		status int
		code   string
	}{
		{s.high, 409, "conflict"},
		{s.low + 5, 409, "conflict"},
		{s.low - 1, 422, "invalid_request"},
		{s.high + 1, 422, "invalid_request"},
		{65536, 422, "invalid_request"},
		{-1, 422, "invalid_request"},
	}
	other := serve(t, echo)
	for _, tt := range tests {
		s.want(t, tt.status, tt.code, http.MethodPost, "/v1/bindings", fields{"target": other.addr, "port": tt.port})
	}
	if got := s.bindings(t, "?target="+other.addr); len(got) > 0 {
		t.Errorf("bindings = %+v, want none of the calls that failed", got)
	}
}

// A port that another program has is passed over, and the range may run out.
func TestPortsRunOut(t *testing.T) {
	t.Parallel()
	s := start(t, flags{ports: 3})
	foreign, err := net.Listen("tcp", loopback(s.low))
	if err != nil {
		t.Fatal(err)
	}
	defer foreign.Close()
	got := map[int]bool{}
	for range 2 {
		b := s.bind(t, serve(t, echo).addr)
		got[b.Port] = true
		wantEcho(t, connect(t, b.Address))
	}
	if len(got) != 2 || got[s.low] {
		t.Errorf("ports = %v, want %d and %d", got, s.low+1, s.low+2)
	}
	tg := serve(t, echo)
	s.want(t, 503, "ports_exhausted", http.MethodPost, "/v1/bindings", fields{"target": tg.addr})
	foreign.Close()
	if b := s.bind(t, tg.addr); b.Port != s.low {
		t.Errorf("bind = %+v, want port %d, which is free now", b, s.low)
	}
	awaitMetric(t, s.api, "ohrouter_ports_free", "0")
	awaitMetric(t, s.api, "ohrouter_bindings", "3")
}

func TestTargetsAreCanonical(t *testing.T) {
	t.Parallel()
	s := start(t, flags{ports: 30, proxy: []string{"--allow", "any"}})
	tests := []struct{ given, want string }{
		{"DB.Internal:3306", "db.internal:3306"},
		{"db.internal.:3306", "db.internal:3306"},
		{"127.0.0.1:9", "127.0.0.1:9"},
		{"[0:0::0:1]:9", "[::1]:9"},
		{"[2001:DB8:0:0::1]:443", "[2001:db8::1]:443"},
		{"bücher.example:80", "xn--bcher-kva.example:80"},
		{"XN--BCHER-KVA.example:80", "xn--bcher-kva.example:80"},
	}
	for _, tt := range tests {
		b := s.bind(t, tt.given, fields{"check": false})
		if b.Target != tt.want {
			t.Errorf("bind %q has target %q, want %q", tt.given, b.Target, tt.want)
		}
		if again := s.bind(t, tt.want, fields{"check": false}); again.ID != b.ID {
			t.Errorf("bind %q and %q are two bindings", tt.given, tt.want)
		}
	}
}

func TestListsAndFilters(t *testing.T) {
	t.Parallel()
	s := start(t, flags{})
	a := s.bind(t, serve(t, echo).addr, fields{"labels": fields{"team": "a", "env": "test"}})
	b := s.bind(t, serve(t, echo).addr, fields{"labels": fields{"team": "b", "env": "test"}})
	c := s.bind(t, serve(t, echo).addr)
	tests := []struct {
		query string
		want  []string
	}{
		{"", []string{a.ID, b.ID, c.ID}},
		{"?target=" + b.Target, []string{b.ID}},
		{"?target=127.0.0.1:1", nil},
		{"?label=team=a", []string{a.ID}},
		{"?label=env=test", []string{a.ID, b.ID}},
		{"?label=env=", nil},
		{"?label=env=test&label=team=b", []string{b.ID}},
		{"?label=team=a&target=" + b.Target, nil},
	}
	for _, tt := range tests {
		var got []string
		for _, b := range s.bindings(t, tt.query) {
			got = append(got, b.ID)
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("GET /v1/bindings%s = %v, want %v", tt.query, got, tt.want)
		}
	}
	conn := connect(t, a.Address)
	wantEcho(t, conn)
	open := s.sessions(t, a.ID)
	if len(open) != 1 || open[0].BindingID != a.ID || open[0].Client != conn.LocalAddr().String() ||
		open[0].Target != a.Target || open[0].Resolved != a.Target || open[0].Proxy != a.Proxy {
		t.Errorf("sessions of the binding = %+v, want one from %v", open, conn.LocalAddr())
	}
	if got := s.sessions(t, b.ID); len(got) > 0 {
		t.Errorf("sessions of another binding = %+v, want none", got)
	}
}

func TestPatch(t *testing.T) {
	t.Parallel()
	s := start(t, flags{})
	b := s.bind(t, serve(t, echo).addr, fields{"labels": fields{"team": "a"}})
	path := "/v1/bindings/" + b.ID
	patch := func(change fields) binding {
		t.Helper()
		return decode[binding](t, s.want(t, 200, "", http.MethodPatch, path, change))
	}
	if got := patch(fields{"idle_timeout": "90s"}); got.IdleTimeout != "1m30s" || got.Labels["team"] != "a" {
		t.Errorf("after idle_timeout: %+v", got)
	}
	if got := patch(fields{"ttl": "1h"}); got.ExpiresAt == nil || time.Until(*got.ExpiresAt) > time.Hour {
		t.Errorf("after ttl: %+v", got)
	}
	if got := patch(fields{"labels": fields{"env": "b"}}); !maps.Equal(got.Labels, map[string]string{"env": "b"}) {
		t.Errorf("after labels: %+v", got)
	}
	if got := patch(fields{"max_sessions": 1}); got.MaxSessions != 1 || got.IdleTimeout != "1m30s" {
		t.Errorf("after max_sessions: %+v", got)
	}
	held := connect(t, b.Address)
	wantEcho(t, held)
	wantResetAt(t, b.Address)
	patch(fields{"max_sessions": 0, "allow": []string{"127.0.0.9/32"}})
	wantResetAt(t, b.Address)
	wantEcho(t, connectFrom(t, "127.0.0.9", b.Address))
	wantEcho(t, held)
	if got := patch(fields{}); got.Port != b.Port || !slices.Equal(got.Allow, []string{"127.0.0.9/32"}) {
		t.Errorf("after nothing: %+v", got)
	}
	if got := s.binding(t, b.ID); got.ExpiresAt == nil || got.Labels["env"] != "b" {
		t.Errorf("binding = %+v, want what PATCH returned", got)
	}
	for _, bad := range []fields{
		{"target": "127.0.0.1:1"},
		{"port": s.low},
		{"idle_timeout": "-1s"},
		{"idle_timeout": 5},
		{"ttl": "soon"},
		{"max_sessions": -1},
		{"max_sessions": "1"},
		{"allow": []string{"nobody"}},
		{"allow": "127.0.0.1"},
		{"labels": []string{"a"}},
		{"nonsense": 1},
	} {
		s.want(t, 422, "invalid_request", http.MethodPatch, path, bad)
	}
	s.want(t, 404, "not_found", http.MethodPatch, "/v1/bindings/b-none", fields{"ttl": "1h"})
}

// A shorter idle timeout or ttl works on a binding that waits for a longer one.
func TestPatchShortensLife(t *testing.T) {
	t.Parallel()
	s := start(t, flags{})
	for _, change := range []fields{{"idle_timeout": "300ms"}, {"ttl": "300ms"}} {
		b := s.bind(t, serve(t, echo).addr)
		s.want(t, 200, "", http.MethodPatch, "/v1/bindings/"+b.ID, change)
		s.awaitGone(t, b.ID, 5*time.Second)
	}
}

func TestAllow(t *testing.T) {
	t.Parallel()
	s := start(t, flags{})
	tg := serve(t, echo)
	b := s.bind(t, tg.addr, fields{"allow": []string{"127.0.0.2/32", "127.1.0.0/16"}, "check": false})
	for range 3 {
		wantResetAt(t, b.Address)
	}
	if err := wantAccepts(tg, 0); err != nil {
		t.Errorf("after clients that may not connect: %v", err)
	}
	awaitMetric(t, s.api, outcome("source_denied"), "3")
	for _, from := range []string{"127.0.0.2", "127.1.2.3"} {
		wantEcho(t, connectFrom(t, from, b.Address))
	}
}

func TestMaxSessions(t *testing.T) {
	t.Parallel()
	s := start(t, flags{})
	b := s.bind(t, serve(t, echo).addr, fields{"max_sessions": 2})
	first, second := connect(t, b.Address), connect(t, b.Address)
	wantEcho(t, first)
	wantEcho(t, second)
	wantResetAt(t, b.Address)
	awaitMetric(t, s.api, outcome("session_limit"), "1")
	first.Close()
	s.awaitSessions(t, 1)
	wantEcho(t, connect(t, b.Address))
	wantEcho(t, second)
}

func TestAdvertisedHost(t *testing.T) {
	t.Parallel()
	s := start(t, flags{router: []string{"--advertise", "router.example"}})
	b := s.bind(t, serve(t, echo).addr)
	if want := fmt.Sprintf("router.example:%d", b.Port); b.Address != want || b.Host != "router.example" {
		t.Errorf("binding = %+v, want address %s", b, want)
	}
	wantEcho(t, connect(t, loopback(b.Port)))
}
