package policy

import (
	"net/netip"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/ohrouter/oh-router"
)

// FuzzParse: whatever is read is written in a form that reads the same.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"any", "*:*", "10.0.0.0/8:22,80,1000-2000", "10.0.0.5/8:80", "[2001:db8::]/32:443", "[::1]:5432",
		"[::ffff:10.0.0.0]/104:80", "db-*.internal.:*", "*.bücher.example:80,90", "10.0.*:80", "１２７.0.0.1:80", "１２７.*:1",
		"a:1,2,b:3", "[fe80::1%eth0]:80", "[", "]:1", "*.。.x:1", "ﬀ*:1", "xn--*:1", "xn--a.*:1",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		l, err := Parse(Split(s))
		if err != nil {
			if ohrouter.CodeOf(err) != ohrouter.InvalidRequest {
				t.Fatalf("Parse(%q): code %q, want %q", s, ohrouter.CodeOf(err), ohrouter.InvalidRequest)
			}
			return
		}
		again, err := Parse(Split(l.String()))
		if err != nil {
			t.Fatalf("Parse(%q), the canonical form of %q: %v", l, s, err)
		}
		if diff := cmp.Diff(l, again, cmp.AllowUnexported(List{}, pattern{}, portRange{}), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
			t.Fatalf("Parse(%q) and of its canonical form differ:\n%s", s, diff)
		}
	})
}

// FuzzPermits: no spelling of names, addresses and patterns without a CIDR
// opens a special address, and the early decision never contradicts the late.
func FuzzPermits(f *testing.F) {
	f.Add("any", "localhost:80", []byte{127, 0, 0, 1})
	f.Add("10.0.0.0/8:80,*.internal:1-90", "db.internal:80", netip.MustParseAddr("::ffff:10.0.0.5").AsSlice())
	f.Add("[64:ff9b::]/96:80,*:*", "[64:ff9b::7f00:1]:80", netip.MustParseAddr("64:ff9b::7f00:1").AsSlice())
	f.Fuzz(func(t *testing.T, patterns, to string, b []byte) {
		l, err := Parse(Split(patterns))
		addr, ok := netip.AddrFromSlice(b)
		tgt, err2 := ohrouter.ParseTarget(to)
		if err != nil || err2 != nil || !ok || !l.Permits(tgt, addr) {
			return
		}
		if !l.PermitsName(tgt) {
			t.Errorf("[%s] permits %v at %v, but not its name", l, tgt, addr)
		}
		addr = addr.Unmap()
		if addr.IsLoopback() || addr.IsUnspecified() || addr.IsMulticast() || addr.IsLinkLocalUnicast() {
			for _, p := range l.patterns {
				if p.cidr.Contains(addr) && p.cidr.Bits() >= 4 {
					return
				}
			}
			t.Errorf("[%s] permits %v at %v without naming it", l, tgt, addr)
		}
	})
}

func TestGlobMatchesWhatARegexpMatches(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		glob := rapid.StringMatching(`[ab.*]{0,8}`).Draw(t, "glob")
		name := rapid.StringMatching(`[ab.]{0,10}`).Draw(t, "name")
		want := regexp.MustCompile("^" + strings.ReplaceAll(regexp.QuoteMeta(glob), `\*`, ".*") + "$").MatchString(name)
		if got := globMatches(glob, name); got != want {
			t.Fatalf("globMatches(%q, %q) = %v, want %v", glob, name, got, want)
		}
	})
}

func TestPortSetHoldsWhatItsItemsHold(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ranges := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) portRange {
			low := rapid.Uint16Range(1, 40).Draw(t, "low")
			return portRange{low, rapid.Uint16Range(low, 45).Draw(t, "high")}
		}), 1, 6).Draw(t, "ranges")
		s := make([]string, len(ranges))
		for i, r := range ranges {
			s[i] = portSet{r}.String()
		}
		set, err := parsePorts(strings.Join(s, ","))
		if err != nil {
			t.Fatal(err)
		}
		for port := range uint16(50) {
			want := false
			for _, r := range ranges {
				want = want || r.low <= port && port <= r.high
			}
			if got := set.contains(port); got != want {
				t.Fatalf("(%s).contains(%d) = %v, want %v", set, port, got, want)
			}
		}
	})
}
