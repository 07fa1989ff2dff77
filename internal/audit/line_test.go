package audit

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	ohrouter "github.com/ohrouter/oh-router"
)

// example returns an entry that has every field.
func example() Entry {
	return Entry{
		Event: SessionClosed,
		By:    Caller{Token: "t-a", Name: "ci", From: netip.MustParseAddrPort("[::ffff:192.0.2.1]:5000"), Call: "DELETE /v1/bindings/b-1"},
		Role:  "user", Token: "t-b", TokenName: "other", Owner: "t-c", OwnerName: "team",
		Binding: "b-1", Target: ohrouter.Target{Host: "2001:db8::1", Port: 22}, Port: 20000,
		Allow: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")}, Expires: time.Unix(1e9, 0),
		Session: "s-1", Client: netip.MustParseAddrPort("192.0.2.2:6000"), Router: netip.MustParseAddrPort("192.0.2.3:7000"), RouterName: "router/main",
		Proxy: "east", Resolved: netip.MustParseAddrPort("[2001:db8::1]:22"), BytesUp: 1, BytesDown: 2, Duration: 1500 * time.Millisecond,
		Outcome: ohrouter.Killed, Code: ohrouter.Forbidden, Reason: "because", Lost: 3,
	}
}

func TestLine(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 5000, time.FixedZone("", 3600))
	e := example()
	got := string(e.appendLine(nil, at))
	want := `{"time":"2026-03-01T11:00:00.000005Z","event":"session_closed",` +
		`"by":"t-a","by_name":"ci","from":"192.0.2.1:5000","call":"DELETE /v1/bindings/b-1","role":"user",` +
		`"token":"t-b","token_name":"other","owner":"t-c","owner_name":"team","binding":"b-1","target":"[2001:db8::1]:22","port":20000,` +
		`"allow":["10.0.0.0/8","2001:db8::/32"],"expires_at":"2001-09-09T01:46:40Z",` +
		`"session":"s-1","client":"192.0.2.2:6000","router":"192.0.2.3:7000","router_name":"router/main","proxy":"east","resolved":"[2001:db8::1]:22",` +
		`"bytes_up":1,"bytes_down":2,"duration":"1.5s","outcome":"killed","code":"forbidden","reason":"because","lost":3}` + "\n"
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("line (-want +got):\n%s", d)
	}
	e = Entry{Event: SessionClosed}
	if got, want := string(e.appendLine(nil, at)), `{"time":"2026-03-01T11:00:00.000005Z","event":"session_closed","bytes_up":0,"bytes_down":0,"duration":"0s"}`+"\n"; got != want {
		t.Errorf("line = %s, want %s", got, want)
	}
	e = Entry{Event: BindingEnded}
	if got, want := string(e.appendLine(nil, at)), `{"time":"2026-03-01T11:00:00.000005Z","event":"binding_ended"}`+"\n"; got != want {
		t.Errorf("line = %s, want %s", got, want)
	}
}

func TestText(t *testing.T) {
	for in, want := range map[string]string{
		"":                          `""`,
		"plain ä 語 🙂":               `"plain ä 語 🙂"`,
		"a\nb\r\t\x00\x1b[31m\x7f":  `"a\u000ab\u000d\u0009\u0000\u001b[31m\u007f"`,
		`"},{"event":"x`:            `"\"},{\"event\":\"x"`,
		`back\slash`:                `"back\\slash"`,
		"\u202egnp.exe\u2028\u200b": `"\u202egnp.exe\u2028\u200b"`,
		"\U000e0001":                `"\udb40\udc01"`,
		"\xff\xfe":                  `"` + "\ufffd\ufffd" + `"`,
		"ohr_0Aa9 and ohe_x-y_z.":   `"ohr_… and ohe_…."`,
		"/v1/tokens/ohr_abc/ohr_":   `"/v1/tokens/ohr_…/ohr_…"`,
		"ohr_ohe_abc":               `"ohr_…"`,
	} {
		if got := string(appendText(nil, in)); got != want {
			t.Errorf("text %q = %s, want %s", in, got, want)
		}
	}
	long := string(appendText(nil, strings.Repeat("語", maxText)))
	if want := `"` + strings.Repeat("語", maxText/3) + `…"`; long != want {
		t.Errorf("a long text is %s, want %d bytes of it", long, maxText)
	}
}

func FuzzText(f *testing.F) {
	for _, s := range []string{"", "a\nb", "\xff", "ohr_abcohe_def", strings.Repeat("é", maxText), "\U000e0001\u2028"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		b := appendText(nil, s)
		var back string
		if err := json.Unmarshal(b, &back); err != nil {
			t.Fatalf("%q becomes %s: %v", s, b, err)
		}
		if i := bytes.IndexFunc(b, func(r rune) bool { return !unicode.IsPrint(r) }); i >= 0 {
			t.Errorf("%q becomes %q, of which byte %d cannot be seen", s, b, i)
		}
		if len(back) > 3*maxText+len("…") { // an invalid byte becomes three
			t.Errorf("%d bytes are left of %d", len(back), len(s))
		}
		for _, prefix := range []string{"ohr_", "ohe_"} {
			for _, rest := range strings.Split(back, prefix)[1:] {
				if rest != "" && inToken(rune(rest[0])) {
					t.Errorf("%q becomes %q, which shows what is behind %s", s, back, prefix)
				}
			}
		}
	})
}

// inToken tells whether a token may have r behind its prefix, or a URL in place
// of it.
func inToken(r rune) bool {
	return r < utf8.RuneSelf && (unicode.IsLetter(r) || unicode.IsDigit(r) || r == '_' || r == '-' || r == '%')
}

func TestEventsAreNamed(t *testing.T) {
	seen := map[Event]bool{}
	for _, e := range Events() {
		if e == "" || seen[e] || strings.Trim(string(e), "abcdefghijklmnopqrstuvwxyz_") != "" {
			t.Errorf("event %q is empty, double or oddly spelt", e)
		}
		seen[e] = true
	}
}
