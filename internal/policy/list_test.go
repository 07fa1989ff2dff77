package policy

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ohrouter/oh-router"
)

func parse(tb testing.TB, patterns ...string) *List {
	tb.Helper()
	l, err := Parse(patterns)
	if err != nil {
		tb.Fatalf("Parse(%q): %v", patterns, err)
	}
	return l
}

func target(tb testing.TB, s string) ohrouter.Target {
	tb.Helper()
	t, err := ohrouter.ParseTarget(s)
	if err != nil {
		tb.Fatal(err)
	}
	return t
}

func TestParseGivesCanonicalForm(t *testing.T) {
	for in, want := range map[string]string{
		"any":                         "any",
		" ANY ":                       "any",
		"*:*":                         "any",
		"*:1-65535":                   "any",
		"**:443":                      "*:443",
		"10.0.0.0/8:22,80,1000-2000":  "10.0.0.0/8:22,80,1000-2000",
		"10.0.0.0/8:2000-3000,22, 23": "10.0.0.0/8:22-23,2000-3000",
		"10.0.0.0/8:1-10,5,8-12,13":   "10.0.0.0/8:1-13",
		"10.0.0.0/8:22,*":             "10.0.0.0/8:*",
		"10.0.0.5:3306":               "10.0.0.5:3306",
		"10.0.0.5/32:3306":            "10.0.0.5:3306",
		"10.0.0.5:0080":               "10.0.0.5:80",
		"0.0.0.0/0:*":                 "0.0.0.0/0:*",
		"[::1]:5432":                  "[::1]:5432",
		"[::1]/128:5432":              "[::1]:5432",
		"[2001:DB8:0::]/32:443":       "[2001:db8::]/32:443",
		"[::]/0:*":                    "[::]/0:*",
		"[::ffff:10.0.0.0]/104:80":    "10.0.0.0/8:80",
		"[::ffff:a00:5]:80":           "10.0.0.5:80",
		"[::ffff:0:0]/96:80":          "0.0.0.0/0:80",
		"DB-*.Internal.:*":            "db-*.internal:*",
		"db.internal:3306":            "db.internal:3306",
		"my_db:3306":                  "my_db:3306",
		"bücher.example:80":           "xn--bcher-kva.example:80",
		"*.bücher.example:80":         "*.xn--bcher-kva.example:80",
		"10.*.example.com:80":         "10.*.example.com:80",
		"*.*:80":                      "*.*:80",
	} {
		got := parse(t, in).String()
		if got != want {
			t.Errorf("Parse(%q).String() = %q, want %q", in, got, want)
		}
		if again := parse(t, Split(got)...).String(); again != got {
			t.Errorf("Parse(%q).String() = %q, want it unchanged", got, again)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for in, want := range map[string]string{
		"":                                     "empty",
		"10.0.0.0/8":                           "names no ports: add them, as in 10.0.0.0/8:443",
		"db.internal":                          "names no ports",
		"[::1]":                                "names no ports: add them, as in [::1]:443",
		"[::1]/128":                            "names no ports",
		":" + strings.Repeat("7,9,", 30) + "1": "*:1,7,9",
		"db.internal:":                         "ports are missing",
		":80":                                  "*:80",
		"any:443":                              "*:443",
		"db:0":                                 "not a port",
		"db:65536":                             "not a port",
		"db:+1":                                "not a port",
		"db:-1":                                "not a port",
		"db:1-":                                "not a port",
		"db:1-2-3":                             "not a port",
		"db:80,":                               "not a port",
		"db:80/tcp":                            "not a port",
		"db:http":                              "not a port",
		"db:2000-1000":                         "write 1000-2000",
		"db:80,other:90":                       "IPv6 address goes in brackets",
		"::1:5432":                             "IPv6 address goes in brackets",
		"2001:db8::/32:443":                    "IPv6 address goes in brackets",
		"[2001:db8::/32]:443":                  "[2001:db8::]/32",
		"[10.0.0.1]:80":                        "not an IPv6 address",
		"[fe80::1%eth0]:80":                    "zone",
		"[::1:80":                              "not an IPv6 address",
		"[:80":                                 "not an IPv6 address",
		"[::1]x:80":                            "not a CIDR",
		"[::1]/129:80":                         "not a CIDR",
		"10.0.0.0/33:80":                       "not a CIDR",
		"10.0.0.0/08:80":                       "not a CIDR",
		"db/8:80":                              "not a CIDR",
		"10.0.0.5/8:80":                        "write 10.0.0.0/8 for the network, or 10.0.0.5 for the one address",
		"[2001:db8::1]/32:80":                  "write [2001:db8::]/32 for the network, or [2001:db8::1] for",
		"\xd300:80":                            "not UTF-8",
		"127.1:80":                             "not one in full",
		"2130706433:80":                        "not one in full",
		"0x7f.1:80":                            "not one in full",
		"010.0.0.1:80":                         "not one in full",
		"１２７.0.0.1:80":                         "write 127.0.0.1",
		"443":                                  "it names no host: write one, as in db.internal:443, or *:443 for every host; in a list",
		"443,80":                               "*:80,443 for every host",
		"*":                                    "it names no ports: add them, as in *:443, or",
		"DB SERVER":                            "it names no ports, and host \"DB SERVER\" has a character that no host name has",
		"10.0.0.5/8":                           "it names no ports, and 10.0.0.5/8 has bits set behind its length: write 10.0.0.0/8",
		strings.Repeat("a.", 99) + "db":        strings.Repeat("a.", 99) + "db:443, or",
		"10.*:80":                              "looks like a range of addresses: write 10.0.0.0/8",
		"10.0.*:80":                            "write 10.0.0.0/16",
		"10.0.*.*:80":                          "write 10.0.0.0/16",
		"10.1.2.**.:80":                        "write 10.1.2.0/24",
		"10.0.0.0.*:80":                        "write it as a CIDR",
		"10.*.0.*:80":                          "write it as a CIDR",
		"10.*.5:80":                            "write it as a CIDR",
		"10.256.*:80":                          "write it as a CIDR",
		"10.0*:80":                             "write it as a CIDR",
		"1*:80":                                "write it as a CIDR",
		"a..*:80":                              "part of a host name",
		"-a.*:80":                              "part of a host name",
		"bü*:80":                               "beside a *",
		"d[bc]*.internal:80":                   "beside a *",
		"db?.internal:80":                      "no host name has",
		strings.Repeat("a.", 200) + "*:80":     "longer",
		"*" + strings.Repeat("ü.", 200):        "names no ports",
		"db:" + strings.Repeat("80,", 400):     "longer",
		strings.Repeat("x", maxPattern) + ":":  "longer",
	} {
		_, err := Parse([]string{"any", in})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Parse(%.60q) = %v, want an error with %q", in, err, want)
		}
		if code := ohrouter.CodeOf(err); code != ohrouter.InvalidRequest {
			t.Errorf("Parse(%.60q): code %q, want %q", in, code, ohrouter.InvalidRequest)
		}
	}
	if _, err := Parse(make([]string, maxPatterns+1)); err == nil || !strings.Contains(err.Error(), "10000") {
		t.Errorf("Parse(%d patterns) = %v, want an error with the limit", maxPatterns+1, err)
	}
}

func TestSplit(t *testing.T) {
	for in, want := range map[string][]string{
		"":                                nil,
		" , ":                             nil,
		"any":                             {"any"},
		"10.0.0.0/8:22,80,db.*:3306":      {"10.0.0.0/8:22,80", "db.*:3306"},
		"a:1, 2-3 ,*,[::1]:5,b:6":         {"a:1,2-3,*", "[::1]:5", "b:6"},
		"80,a:1":                          {"80", "a:1"},
		"10.0.0.1:1,10.0.0.2:2,any,*:443": {"10.0.0.1:1", "10.0.0.2:2", "any", "*:443"},
	} {
		if diff := cmp.Diff(want, Split(in)); diff != "" {
			t.Errorf("Split(%q) (-want +got):\n%s", in, diff)
		}
	}
}

func TestPermits(t *testing.T) {
	tests := []struct {
		allow  string
		target string
		addr   string // "" the target's own
		want   bool
	}{
		{"", "10.0.0.5:80", "", false},
		{"10.0.0.0/8:80", "10.0.0.5:80", "", true},
		{"10.0.0.0/8:80", "10.0.0.5:81", "", false},
		{"10.0.0.0/8:80", "11.0.0.5:80", "", false},
		{"10.0.0.0/8:80", "db:80", "10.0.0.5", true},
		{"10.0.0.0/8:80", "db:80", "::ffff:10.0.0.5", true},
		{"10.0.0.0/8:80", "[::ffff:10.0.0.5]:80", "", true},
		{"10.0.0.0/8:80", "10.0.0.5:80", "10.0.0.6", false},
		{"10.0.0.0/8:80", "10.0.0.5:80", "::ffff:10.0.0.5", true},
		{"[::]/0:*", "10.0.0.5:80", "", false},
		{"[::]/0:*", "[2001:db8::1]:80", "", true},
		{"[2001:db8::]/32:443", "db:443", "2001:db8::5%eth0", true},

		{"*.internal:80", "db.internal:80", "10.0.0.5", true},
		{"*.internal:80", "a.b.internal:80", "10.0.0.5", true},
		{"*.internal:80", "internal:80", "10.0.0.5", false},
		{"*.internal:80", "db.internal.example:80", "10.0.0.5", false},
		{"db-*-a*.internal:80", "db-1-a2-ab.internal:80", "10.0.0.5", true},
		{"db.internal:80", "xdb.internal:80", "10.0.0.5", false},
		{"*.*:80", "10.0.0.5:80", "", false}, // an address is not a name
		{"*a:80", "[2001:db8::a]:80", "", false},
		{"*:80", "10.0.0.5:80", "", true},
		{"any", "db:1", "2001:db8::5", true},

		// A name never opens what is special, and neither does a wider network.
		{"any,localhost:*,*:80", "localhost:80", "127.0.0.1", false},
		{"any,localhost:*,*:80", "localhost:80", "::ffff:127.0.0.1", false},
		{"any", "0.0.0.0:80", "", false},
		{"any", "[::]:80", "", false},
		{"any", "[::1]:80", "", false},
		{"any", "169.254.1.1:80", "", false},
		{"any", "db:80", "fe80::1%eth0", false},
		{"any", "224.0.0.1:80", "", false},
		{"any", "[ff02::1]:80", "", false},
		{"any", "255.255.255.255:80", "", false},
		{"any", "169.254.169.254:80", "", false},
		{"any", "[fd00:ec2::254]:80", "", false},
		{"any", "100.100.100.200:80", "", false},
		{"any", "168.63.129.16:80", "", false},
		{"any", "168.63.129.17:80", "", true},
		{"0.0.0.0/0:*", "127.0.0.1:80", "", false},
		{"126.0.0.0/7:*", "127.0.0.1:80", "", false},
		{"[::]/0:*", "[::1]:80", "", false},
		{"[::]/127:*", "[::1]:80", "", false},

		// A CIDR within the range does, for its ports.
		{"127.0.0.0/8:*", "localhost:80", "127.0.0.1", true},
		{"127.0.0.0/8:*", "localhost:80", "::ffff:127.0.0.1", true},
		{"[::ffff:127.0.0.0]/104:*", "localhost:80", "127.0.0.1", true},
		{"127.0.0.1:80", "127.0.0.1:80", "", true},
		{"127.0.0.1:80,any", "127.0.0.1:81", "", false},
		{"127.0.0.1:80", "127.0.0.2:80", "", false},
		{"[::1]:80", "localhost:80", "::1", true},
		{"[::1]:80", "localhost:80", "127.0.0.1", false},
		{"[fe80::]/10:*", "db:80", "fe80::1%eth0", true},
		{"0.0.0.0/8:*", "0.0.0.0:80", "", true},

		// The metadata service is a range of its own.
		{"169.254.0.0/16:*", "169.254.1.1:80", "", true},
		{"169.254.0.0/16:*", "169.254.169.254:80", "", false},
		{"169.254.169.254:80", "169.254.169.254:80", "", true},
		{"[fd00::]/8:*", "[fd00:ec2::254]:80", "", false},
		{"100.100.0.0/16:*", "db:80", "100.100.100.200", false},

		// What carries a special address is as special.
		{"any", "[64:ff9b::7f00:1]:80", "", false},
		{"any", "[64:ff9b::a9fe:a9fe]:80", "", false},
		{"any", "[64:ff9b::a00:5]:80", "", true},
		{"any", "[64:ff9b:1::a9fe:a9fe]:80", "", false},
		{"any", "[2002:7f00:1::5]:80", "", false},
		{"any", "[2002:a00:5::5]:80", "", true},
		{"any", "[2001:0:a00:5:0:0:80ff:fffe]:80", "", false}, // Teredo client 127.0.0.1
		{"any", "[2001:0:7f00:1:0:0:1:1]:80", "", false},      // Teredo server 127.0.0.1
		{"any", "[2001:0:a00:5:0:0:f5ff:fffa]:80", "", true},  // Teredo client 10.0.0.5
		{"any", "[::127.0.0.1]:80", "", false},
		{"any", "[::ffff:0:127.0.0.1]:80", "", false},
		{"127.0.0.0/8:*", "[64:ff9b::7f00:1]:80", "", false},
		{"[64:ff9b::]/96:*", "[64:ff9b::7f00:1]:80", "", false},
		{"[64:ff9b::7f00:0]/104:*", "[64:ff9b::7f00:1]:80", "", true},
		{"[64:ff9b::a9fe:0]/112:*", "[64:ff9b::a9fe:a9fe]:80", "", false},
		{"[64:ff9b::a9fe:a9fe]:80", "[64:ff9b::a9fe:a9fe]:80", "", true},
		{"[2002:7f00::]/24:80", "[2002:7f00:1::5]:80", "", true},
	}
	for _, tt := range tests {
		l, to := parse(t, Split(tt.allow)...), target(t, tt.target)
		addr := to.Addr()
		if tt.addr != "" {
			addr = netip.MustParseAddr(tt.addr)
		}
		if got := l.Permits(to, addr); got != tt.want {
			t.Errorf("[%s].Permits(%v, %v) = %v, want %v", l, to, addr, got, tt.want)
		}
		if tt.want && !l.PermitsName(to) {
			t.Errorf("[%s].PermitsName(%v) = false, but Permits it at %v", l, to, addr)
		}
	}
}

func TestPermitsName(t *testing.T) {
	tests := []struct {
		allow  string
		target string
		want   bool
	}{
		{"", "db:80", false},
		{"any", "db:80", true},
		{"db:80", "db:80", true},
		{"db:80", "db:81", false},
		{"db:80", "other:80", false},
		{"10.0.0.0/8:80", "db:80", true}, // its address may lie there
		{"10.0.0.0/8:80", "db:81", false},
		{"10.0.0.0/8:80", "11.0.0.5:80", false},
		{"any", "127.0.0.1:80", false},
		{"any", "10.0.0.1:80", true},
	}
	for _, tt := range tests {
		l := parse(t, Split(tt.allow)...)
		if got := l.PermitsName(target(t, tt.target)); got != tt.want {
			t.Errorf("[%s].PermitsName(%s) = %v, want %v", l, tt.target, got, tt.want)
		}
	}
}

func TestPermitsWritten(t *testing.T) {
	tests := []struct {
		allow  string
		target string
		want   bool
	}{
		{"", "db:80", false},
		{"any", "db:80", true},
		{"*.internal:80", "db.internal:80", true},
		{"*.internal:80", "db.internal:81", false},
		{"*.internal:80", "db.example:80", false},
		{"10.0.0.0/8:80", "db:80", false}, // its address may lie elsewhere
		{"10.0.0.0/8:80", "10.0.0.5:80", true},
		{"10.0.0.0/8:80", "11.0.0.5:80", false},
		{"*:80", "10.0.0.5:80", true},
		{"*:80", "127.0.0.1:80", false},
		{"127.0.0.0/8:80", "127.0.0.1:80", true},
	}
	for _, tt := range tests {
		l := parse(t, Split(tt.allow)...)
		if got := l.PermitsWritten(target(t, tt.target)); got != tt.want {
			t.Errorf("[%s].PermitsWritten(%s) = %v, want %v", l, tt.target, got, tt.want)
		}
	}
}

func TestNothingIsPermittedWithoutPatterns(t *testing.T) {
	to := ohrouter.Target{Host: "10.0.0.5", Port: 80}
	for name, l := range map[string]*List{"nil": nil, "zero": {}} {
		if l.Permits(to, to.Addr()) || l.PermitsName(to) || l.PermitsWritten(to) {
			t.Errorf("the %s list permits %v", name, to)
		}
		if got := l.String(); got != "" {
			t.Errorf("the %s list is %q, want nothing", name, got)
		}
	}
	anything := parse(t, "any")
	if anything.Permits(to, netip.Addr{}) {
		t.Error("the zero address is permitted")
	}
	if anything.Permits(ohrouter.Target{Host: "db"}, to.Addr()) {
		t.Error("port 0 is permitted")
	}
}

func TestEverything(t *testing.T) {
	l := Everything()
	for addr, want := range map[string]bool{
		"10.0.0.5": true, "2001:db8::1": true, "127.0.0.1": true, "127.8.9.1": true, "::1": true,
		"169.254.169.254": false, "169.254.1.1": false, "0.0.0.0": false, "fe80::1": false,
	} {
		if got := l.Permits(ohrouter.Target{Host: "db", Port: 80}, netip.MustParseAddr(addr)); got != want {
			t.Errorf("Everything().Permits(db:80, %s) = %v, want %v", addr, got, want)
		}
	}
	if want := []string{"any", "127.0.0.0/8:*", "[::1]:*"}; !slices.Equal(l.Patterns(), want) {
		t.Errorf("Everything().Patterns() = %q, want %q", l.Patterns(), want)
	}
}

func TestExplain(t *testing.T) {
	l := parse(t, "db:80")
	for _, tt := range []struct{ target, addr, want string }{
		{"web:80", "", "no pattern of the allow-list names web:80; --allow web:80 would permit it"},
		{"web:80", "10.0.0.5", "no pattern of the allow-list names web:80 or 10.0.0.5; --allow 10.0.0.5:80 would permit it"},
		{"db:80", "::1", "::1 is special (loopback): only a CIDR within ::1/128 opens it; --allow [::1]:80 would permit it"},
		{"db:80", "::ffff:169.254.169.254", "169.254.169.254 is special (cloud metadata): only a CIDR within 169.254.169.254/32 opens it; --allow 169.254.169.254:80 would permit it"},
	} {
		var addr netip.Addr
		if tt.addr != "" {
			addr = netip.MustParseAddr(tt.addr)
		}
		if got := l.Explain(target(t, tt.target), addr); got != tt.want {
			t.Errorf("Explain(%s, %s) = %q, want %q", tt.target, tt.addr, got, tt.want)
		}
	}
	got, want := Everything().Explain(target(t, "db:80"), netip.MustParseAddr("169.254.169.254")), "169.254.169.254 is special (cloud metadata), which 'oh-router up' does not dial"
	if got != want {
		t.Errorf("Everything().Explain = %q, want %q", got, want)
	}
}
