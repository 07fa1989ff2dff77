package ohrouter

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
)

func TestParseTarget(t *testing.T) {
	label := strings.Repeat("a", maxLabel)
	longest := strings.Repeat(label+".", 3) + strings.Repeat("b", maxHost-3*(maxLabel+1))
	tests := []struct {
		in   string
		want Target
	}{
		{"db.internal:3306", Target{"db.internal", 3306}},
		{"DB.Internal:3306", Target{"db.internal", 3306}},
		{"db.internal.:3306", Target{"db.internal", 3306}},
		{"localhost.:1", Target{"localhost", 1}},
		{"a_b._tcp.example:65535", Target{"a_b._tcp.example", 65535}},
		{"r3---sn-apo3.example:443", Target{"r3---sn-apo3.example", 443}},
		{"1e1:0080", Target{"1e1", 80}},
		{"10.example:80", Target{"10.example", 80}},
		{"10.0.0.5:80", Target{"10.0.0.5", 80}},
		{"10.0.0.5.:80", Target{"10.0.0.5", 80}},
		{"[2001:DB8:0:0::1]:80", Target{"2001:db8::1", 80}},
		{"[::1]:80", Target{"::1", 80}},
		{"[::ffff:10.0.0.5]:80", Target{"10.0.0.5", 80}},
		{"[::FFFF:a00:5]:80", Target{"10.0.0.5", 80}},
		{"Bücher.example:80", Target{"xn--bcher-kva.example", 80}},
		{"XN--BCHER-KVA.example:80", Target{"xn--bcher-kva.example", 80}},
		{"faß.example:80", Target{"xn--fa-hia.example", 80}},
		{"１０.0。0.5:80", Target{"10.0.0.5", 80}},
		{"exam\u00adple:80", Target{"example", 80}},
		{label + ":80", Target{label, 80}},
		{longest + ":65535", Target{longest, 65535}},
		{longest + ".:65535", Target{longest, 65535}},
	}
	for _, tt := range tests {
		got, err := ParseTarget(tt.in)
		if err != nil || got != tt.want {
			t.Errorf("ParseTarget(%q) = %+v, %v, want %+v", tt.in, got, err, tt.want)
			continue
		}
		if again, err := ParseTarget(got.String()); err != nil || again != got {
			t.Errorf("ParseTarget(%q) = %+v, %v, want %+v", got.String(), again, err, got)
		}
	}
}

func TestParseTargetRefuses(t *testing.T) {
	label := strings.Repeat("a", maxLabel)
	tests := []struct {
		in, why string // why is a part of the message: it has to name what is wrong
	}{
		{"", "HOST:PORT"},
		{"db", "HOST:PORT"},
		{"2001:db8::1:80", "brackets"},
		{"[::1]", "HOST:PORT"},
		{"[::1]80", "HOST:PORT"},
		{"[[::1]]:80", "HOST:PORT"},
		{"[example]:80", "brackets"},
		{"[10.0.0.5]:80", "brackets"},
		{"[]:80", "brackets"},
		{":80", "empty"},
		{"db:", "port"},
		{"db:0", "port"},
		{"db:65536", "port"},
		{"db:+80", "port"},
		{"db:-1", "port"},
		{"db: 80", "port"},
		{"db:0x50", "port"},
		{"db:８０", "port"},
		{"db:http", "port"},
		// What resolvers take for an address, but netip does not.
		{"127.1:80", "address"},
		{"2130706433:80", "address"},
		{"0x7f.1:80", "address"},
		{"0x7f000001:80", "address"},
		{"0X7F.0.0.1:80", "address"},
		{"0x:80", "address"},
		{"0177.0.0.1:80", "address"},
		{"127.0.0.01:80", "address"},
		{"1.2.3.4.5:80", "address"},
		{"256.0.0.1:80", "address"},
		{"１２７.1:80", "address"},
		{"example.1:80", "address"},
		{"[fe80::1%eth0]:80", "zone"},
		{"[::1%25lo]:80", "zone"},
		{"db%2e:80", "zone"},
		{"[:::1]:80", "IPv6"},
		{"[1::2::3]:80", "IPv6"},
		{"db..internal:80", "empty label"},
		{".db:80", "empty label"},
		{"db..:80", "empty label"},
		{".:80", "empty label"},
		{"-db:80", "hyphen"},
		{"db-.internal:80", "hyphen"},
		{"d b:80", "character"},
		{"db/../x:80", "character"},
		{"*.internal:80", "character"},
		{"user@db:80", "character"},
		{"db\x00:80", "character"},
		{"db\n:80", "character"},
		{"xn--a:80", "DNS"},
		{"xn--localhost-:80", "DNS"},
		{"a\u200db:80", "DNS"},
		{"db\xff:80", "UTF-8"},
		{label + "a:80", "63"},
		{strings.Repeat(label+".", 3) + label + ":80", "253"},
		{strings.Repeat("a", 100_000) + ":80", "253"},
	}
	for _, tt := range tests {
		got, err := ParseTarget(tt.in)
		if CodeOf(err) != InvalidRequest || got != (Target{}) {
			t.Errorf("ParseTarget(%.80q) = %+v, %v, want code %s", tt.in, got, err, InvalidRequest)
			continue
		}
		if !strings.Contains(err.Error(), tt.why) {
			t.Errorf("ParseTarget(%.80q): %q does not say %q", tt.in, err, tt.why)
		}
		if len(err.Error()) > 4*maxHost {
			t.Errorf("ParseTarget(%.80q): the message is %d bytes long", tt.in, len(err.Error()))
		}
	}
}

// The calls with the host in the path have IPv6 addresses with and without
// brackets.
func TestNewTargetBrackets(t *testing.T) {
	want := Target{"::1", 80}
	for _, host := range []string{"::1", "[::1]", "0::1"} {
		if got, err := NewTarget(host, "80"); err != nil || got != want {
			t.Errorf("NewTarget(%q, 80) = %+v, %v, want %+v", host, got, err, want)
		}
	}
	for _, host := range []string{"[::1", "::1]", "[db]", "[]", "[[::1]]", "db:1"} {
		if got, err := NewTarget(host, "80"); CodeOf(err) != InvalidRequest {
			t.Errorf("NewTarget(%q, 80) = %+v, %v, want code %s", host, got, err, InvalidRequest)
		}
	}
}

func TestTargetAddr(t *testing.T) {
	tests := []struct {
		target string
		want   netip.Addr
	}{
		{"10.0.0.5:80", netip.MustParseAddr("10.0.0.5")},
		{"[::1]:80", netip.IPv6Loopback()},
		{"db.internal:80", netip.Addr{}},
	}
	for _, tt := range tests {
		target, err := ParseTarget(tt.target)
		if err != nil {
			t.Fatal(err)
		}
		if got := target.Addr(); got != tt.want {
			t.Errorf("Addr of %v = %v, want %v", target, got, tt.want)
		}
	}
}

func TestTargetJSON(t *testing.T) {
	var got struct{ Target Target }
	if err := json.Unmarshal([]byte(`{"Target":"[2001:DB8::1]:80"}`), &got); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(got)
	if want := `{"Target":"[2001:db8::1]:80"}`; err != nil || string(text) != want {
		t.Errorf("Marshal = %s, %v, want %s", text, err, want)
	}
	if err := json.Unmarshal([]byte(`{"Target":"127.1:80"}`), &got); CodeOf(err) != InvalidRequest {
		t.Errorf("Unmarshal of an odd spelling = %v, want code %s", err, InvalidRequest)
	}
}

// Whatever is accepted has one spelling, which reads back as itself and is
// either a full address or a name that no resolver takes for one.
func FuzzParseTarget(f *testing.F) {
	for _, s := range []string{
		"db.internal:3306", "[2001:db8::1]:80", "[::ffff:10.0.0.5]:80", "127.1:80", "0x7f.1:80", "Bücher.example:80",
		"xn--bcher-kva.example:80", "localhost.:80", "１２７。0.0.1:80", "[fe80::1%lo]:1", "r3---sn.example:443", "db\xff:80",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := ParseTarget(s)
		if err != nil {
			if CodeOf(err) != InvalidRequest || got != (Target{}) {
				t.Fatalf("ParseTarget(%q) = %+v, %v, want the zero Target and code %s", s, got, err, InvalidRequest)
			}
			return
		}
		if again, err := ParseTarget(got.String()); err != nil || again != got {
			t.Fatalf("ParseTarget(%q) = %+v, but ParseTarget(%q) = %+v, %v", s, got, got.String(), again, err)
		}
		if len(got.Host) > maxHost || got.Port == 0 || got.Host != strings.ToLower(got.Host) {
			t.Fatalf("ParseTarget(%q) = %+v, which is not canonical", s, got)
		}
		labels := strings.Split(got.Host, ".")
		if !got.Addr().IsValid() && isNumber(labels[len(labels)-1]) {
			t.Fatalf("ParseTarget(%q) = %+v, which a resolver may take for an address", s, got)
		}
		if a := got.Addr(); a.Is4In6() || a.Zone() != "" {
			t.Fatalf("ParseTarget(%q) = %+v, an address with two spellings", s, got)
		}
	})
}
