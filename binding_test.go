package ohrouter

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// at is the time in the tests' JSON.
var at = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// diffJSON compares v's JSON with want, whatever the order of the keys.
func diffJSON(t testing.TB, v any, want string) {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var g, w any
	if err := json.Unmarshal(text, &g); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(want), &w); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(w, g); d != "" {
		t.Errorf("JSON of %T (-want +got):\n%s", v, d)
	}
}

func TestBindingJSON(t *testing.T) {
	b := Binding{
		ID: "b1", Owner: "t-1", Target: Target{"db.internal", 3306}, Proxy: "lab", Pinned: true,
		Address: "10.0.0.5:20007", Host: "10.0.0.5", Port: 20007, State: BindingActive,
		CreatedAt: at, LastUsedAt: at, IdleTimeout: Duration(5 * time.Minute), ExpiresAt: &at,
		Allow: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, MaxSessions: 3, Labels: map[string]string{"team": "data"},
		ProxyProtocol: ProxyProtocolV2, Sessions: 1, SessionsTotal: 2, BytesUp: 3, BytesDown: 4,
		LastCheck: &Check{OK: true, Resolved: "10.1.0.9:3306", Duration: Duration(1500 * time.Microsecond), At: at},
		LastError: &Failure{Code: TargetRefused, Message: "nothing listens", At: at},
	}
	diffJSON(t, b, `{
		"id": "b1", "owner": "t-1", "target": "db.internal:3306", "proxy": "lab",
		"address": "10.0.0.5:20007", "host": "10.0.0.5", "port": 20007, "state": "active",
		"created_at": "2026-03-01T12:00:00Z", "last_used_at": "2026-03-01T12:00:00Z",
		"idle_timeout": "5m0s", "expires_at": "2026-03-01T12:00:00Z",
		"allow": ["10.0.0.0/8"], "max_sessions": 3, "labels": {"team": "data"}, "proxy_protocol": "v2",
		"sessions": 1, "sessions_total": 2, "bytes_up": 3, "bytes_down": 4,
		"last_check": {"ok": true, "resolved": "10.1.0.9:3306", "duration": "1.5ms", "at": "2026-03-01T12:00:00Z"},
		"last_error": {"code": "target_refused", "message": "nothing listens", "at": "2026-03-01T12:00:00Z"}
	}`)
}

func TestBindingJSONAbsent(t *testing.T) {
	b := Binding{
		ID: "b1", Target: Target{"::1", 80}, State: BindingDraining, CreatedAt: at, LastUsedAt: at,
		Allow: []netip.Prefix{}, Labels: map[string]string{},
	}
	diffJSON(t, b, `{
		"id": "b1", "owner": null, "target": "[::1]:80", "proxy":null, "address": "", "host": "", "port": 0, "state": "draining",
		"created_at": "2026-03-01T12:00:00Z", "last_used_at": "2026-03-01T12:00:00Z",
		"idle_timeout": "0s", "expires_at": null, "allow": [], "max_sessions": 0, "labels": {}, "proxy_protocol": null,
		"sessions": 0, "sessions_total": 0, "bytes_up": 0, "bytes_down": 0, "last_check": null, "last_error": null
	}`)
}

func TestSessionJSON(t *testing.T) {
	s := Session{
		ID: "s1", BindingID: "b1", Target: Target{"db.internal", 3306}, Resolved: "10.1.0.9:3306", Proxy: "lab",
		Client: netip.MustParseAddrPort("[2001:db8::7]:50000"), StartedAt: at, BytesUp: 1, BytesDown: 2,
	}
	diffJSON(t, s, `{
		"id": "s1", "binding_id": "b1", "target": "db.internal:3306", "resolved": "10.1.0.9:3306", "proxy": "lab",
		"client": "[2001:db8::7]:50000", "started_at": "2026-03-01T12:00:00Z", "bytes_up": 1, "bytes_down": 2
	}`)
}

// The program that calls the API writes specs and patches: what it leaves out
// must not stand in the JSON, or it would mean something.
func TestBindingSpecJSON(t *testing.T) {
	diffJSON(t, BindingSpec{Target: Target{"db.internal", 3306}}, `{"target": "db.internal:3306"}`)
	diffJSON(t, BindingPatch{}, `{}`)
	diffJSON(t, BindingPatch{IdleTimeout: new(Duration), Allow: &[]netip.Prefix{}}, `{"idle_timeout": "0s", "allow": []}`)

	var spec BindingSpec
	err := json.Unmarshal([]byte(`{"target":"DB.internal:3306","idle_timeout":"90s","ttl":"","allow":["10.0.0.0/8"],"check":false}`), &spec)
	if err != nil {
		t.Fatal(err)
	}
	want := BindingSpec{
		Target: Target{"db.internal", 3306}, IdleTimeout: new(Duration(90 * time.Second)),
		Allow: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, Check: new(false),
	}
	if d := cmp.Diff(want, spec, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); d != "" {
		t.Errorf("Unmarshal (-want +got):\n%s", d)
	}
}

func TestDurationText(t *testing.T) {
	for in, want := range map[string]time.Duration{"": 0, "0": 0, "90s": 90 * time.Second, "1h30m": 90 * time.Minute} {
		var d Duration
		if err := d.UnmarshalText([]byte(in)); err != nil || time.Duration(d) != want {
			t.Errorf("UnmarshalText(%q) = %v, %v, want %v", in, d, err, want)
		}
	}
	for in, why := range map[string]string{
		"5": `"5" has no unit: write 5s for seconds`, "0.5": "write 0.5s", "1d": "is not a duration such as", "abc": "is not a duration", "5h30": "is not a duration",
		".": "is not a duration", "s": "is not a duration", "99999999999999999999": "is not a duration", "99999999999h": "is too long a time",
	} {
		d := Duration(time.Second)
		if err := d.UnmarshalText([]byte(in)); CodeOf(err) != InvalidRequest || !strings.Contains(Message(err), why) || d != Duration(time.Second) {
			t.Errorf("UnmarshalText(%q) = %v, %v, want code %s, %q and the value as it was", in, d, err, InvalidRequest, why)
		}
	}
}
