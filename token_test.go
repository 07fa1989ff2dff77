package ohrouter_test

import (
	"encoding/json"
	"testing"

	ohrouter "github.com/ohrouter/oh-router"
)

func TestPortRange(t *testing.T) {
	for text, want := range map[string]ohrouter.PortRange{
		"20000-20099": {Low: 20000, High: 20099},
		"1-65535":     {Low: 1, High: 65535},
		"443":         {Low: 443, High: 443},
	} {
		var got ohrouter.PortRange
		if err := got.UnmarshalText([]byte(text)); err != nil || got != want {
			t.Errorf("port range %q = %v, %v, want %v", text, got, err, want)
		}
		if !got.Contains(want.Low) || !got.Contains(want.High) || got.Contains(want.Low-1) {
			t.Errorf("port range %v contains the wrong ports", got)
		}
		var again ohrouter.PortRange
		if err := again.UnmarshalText([]byte(got.String())); err != nil || again != got {
			t.Errorf("port range %v read back = %v, %v", got, again, err)
		}
	}
	for _, text := range []string{"", "-", "0-1", "2-1", "1-65536", "+1-2", "1-+2", "1-2-3", "a", " 1"} {
		var got ohrouter.PortRange
		if err := got.UnmarshalText([]byte(text)); ohrouter.CodeOf(err) != ohrouter.InvalidRequest {
			t.Errorf("port range %q = %v, %v, want %s", text, got, err, ohrouter.InvalidRequest)
		}
	}
}

func TestTokenJSON(t *testing.T) {
	b, err := json.Marshal(ohrouter.Token{ID: "t-1", Role: ohrouter.User, Grant: ohrouter.Grant{Ports: &ohrouter.PortRange{Low: 1, High: 2}}})
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"id":"t-1","name":"","role":"user","targets":null,"proxies":null,"ports":"1-2","max_ttl":"0s","max_bindings":0,` +
		`"max_sessions":0,"targets_per_minute":0,"calls_per_second":0,"reasons":false,"created_at":"0001-01-01T00:00:00Z","expires_at":null,"last_used_at":null}`
	if string(b) != want {
		t.Errorf("token = %s, want %s", b, want)
	}
}
