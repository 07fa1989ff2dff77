package policy

import (
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"testing"

	"github.com/ohrouter/oh-router"
)

// forms returns an IPv4 address in every form that is judged by it. Behind it
// stands what gateways pass over, if anything does.
func forms(v4 string) map[string]netip.Addr {
	a := netip.MustParseAddr(v4).As4()
	w := func(x, y byte) string { return fmt.Sprintf("%x", uint16(x)<<8|uint16(y)) }
	low, high := w(a[2], a[3]), w(a[0], a[1])
	list := map[string]netip.Addr{"itself": netip.AddrFrom4(a)}
	for form, s := range map[string]string{
		"mapped":          "::ffff:" + v4,
		"compatible":      "::" + v4,
		"translated":      "::ffff:0:" + v4,
		"NAT64":           "64:ff9b::" + v4,
		"own NAT64 in 96": "64:ff9b:1:fffe::" + v4,
		"own NAT64 in 64": fmt.Sprintf("64:ff9b:1:1:%x:%s:%x:808", a[0], w(a[1], a[2]), uint16(a[3])<<8|8),
		"own NAT64 in 56": fmt.Sprintf("64:ff9b:1:%s:%x:%s:808:808", w(1, a[0]), a[1], low),
		"own NAT64 in 48": fmt.Sprintf("64:ff9b:1:%s:%x:%x:808:808", high, a[2], uint16(a[3])<<8),
		"6to4":            "2002:" + high + ":" + low + "::1",
		"Teredo's server": "2001:0:" + high + ":" + low + ":0:0:f5ff:fffa",
		"Teredo's client": "2001:0:a00:5:0:0:" + w(^a[0], ^a[1]) + ":" + w(^a[2], ^a[3]),
	} {
		list[form] = netip.MustParseAddr(s)
	}
	return list
}

// wide is as much as a list can permit without naming anything special.
var wide = []string{"any", "*:*", "*.*:*", "0.0.0.0/0:*", "128.0.0.0/1:*", "[::]/0:*", "[::]/1:*", "[fc00::]/7:*", "[fd00::]/16:*", "[64:ff9b:1::]/48:*", "[2000::]/3:*"}

func TestSpecialInEveryForm(t *testing.T) {
	l := parse(t, wide...)
	for _, v4 := range []string{
		"127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3", "169.254.0.1", "224.0.0.1", "239.255.255.255", "255.255.255.255",
		"169.254.169.254", "169.254.170.2", "169.254.170.23", "169.254.169.252", "169.254.42.42", "169.254.0.23",
		"168.63.129.16", "192.0.0.192", "100.100.100.200",
	} {
		for form, addr := range forms(v4) {
			zeros := netip.MustParsePrefix("0.0.0.0/8").Contains(netip.MustParseAddr(v4))
			if zeros && slices.Contains([]string{"own NAT64 in 64", "own NAT64 in 56", "own NAT64 in 48"}, form) {
				continue // padding of the fourth form looks the same
			}
			closed(t, l, fmt.Sprintf("%s (%s)", v4, form), addr)
		}
	}
	for form, addr := range forms("10.0.0.5") {
		if to := (ohrouter.Target{Host: addr.String(), Port: 80}); !l.Permits(to, addr) {
			t.Errorf("%v, which is 10.0.0.5 (%s), is not permitted", addr, form)
		}
	}
}

func TestSpecialIPv6(t *testing.T) {
	l := parse(t, wide...)
	for _, s := range []string{
		"::", "::1", "fe80::1", "febf::1", "ff02::1", "ff0e::1",
		"fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254", "fd00:c1::a9fe:a9fe", "fd00:42::42",
		"fd00:a9fe:a9fe::1", "fd00:100::100:200", "fe80::a9fe:a9fe",
	} {
		closed(t, l, s, netip.MustParseAddr(s))
	}
	for _, s := range []string{"fd00:ec2::253", "fd00:42::43", "fc00::1", "2001:db8::1"} {
		addr := netip.MustParseAddr(s)
		if !l.Permits(ohrouter.Target{Host: s, Port: 80}, addr) {
			t.Errorf("%s is not permitted", s)
		}
	}
	linkLocal := parse(t, "[fe80::]/10:*", "169.254.0.0/16:*")
	for _, s := range []string{"fe80::a9fe:a9fe", "169.254.170.2", "169.254.170.23", "169.254.42.42"} {
		closed(t, linkLocal, s, netip.MustParseAddr(s))
	}
}

// closed fails unless a list keeps addr closed, and one that names it, and
// only it, does not.
func closed(t *testing.T, l *List, what string, addr netip.Addr) {
	t.Helper()
	literal, name := ohrouter.Target{Host: plain(addr).String(), Port: 80}, ohrouter.Target{Host: "db.internal", Port: 80}
	if l.Permits(literal, addr) || l.PermitsName(literal) || l.PermitsWritten(literal) || l.Permits(name, addr) {
		t.Errorf("%s: [%s] permits %v", what, l, addr)
	}
	exact := parse(t, literal.String())
	if !exact.Permits(literal, addr) || !exact.Permits(name, addr) {
		t.Errorf("%s: [%s] does not permit %v", what, exact, addr)
	}
}

// TestDocsSpecial: the tables of docs/allow-list.md have what those of the code
// have, in the same order.
func TestDocsSpecial(t *testing.T) {
	b, err := os.ReadFile("../../docs/allow-list.md")
	if err != nil {
		t.Fatal(err)
	}
	var documented []string
	for _, row := range regexp.MustCompile("(?m)^\\| ([a-z -]+) \\| `([0-9a-f.:/\\[\\]]+)` \\|").FindAllStringSubmatch(string(b), -1) {
		documented = append(documented, row[1]+" "+row[2])
	}
	var want []string
	for _, s := range specials {
		want = append(want, s.kind+" "+cidrString(s.prefix))
	}
	if !slices.Equal(documented, want) {
		t.Errorf("the table of special addresses in docs/allow-list.md is\n%q\nwant\n%q", documented, want)
	}
	documented, want = nil, nil
	for _, row := range regexp.MustCompile("(?m)^\\| [A-Z0-9][^|]+ \\| `([0-9a-f:/\\[\\]]+)` \\| RFC").FindAllStringSubmatch(string(b), -1) {
		documented = append(documented, row[1])
	}
	for _, e := range embeddings {
		if s := cidrString(e.prefix); !slices.Contains(want, s) {
			want = append(want, s)
		}
	}
	if !slices.Equal(documented, want) {
		t.Errorf("the table of forms in docs/allow-list.md is\n%q\nwant\n%q", documented, want)
	}
}
