package audit

import (
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// maxText is how much of a text is in a line.
const maxText = 512

// appendLine appends the line of an event that happened at a time.
func (e *Entry) appendLine(b []byte, at time.Time) []byte {
	l := line{append(b, '{')}
	l.text("time", at.UTC().Format(time.RFC3339Nano))
	l.text("event", string(e.Event))
	l.text("by", e.By.Token)
	l.text("by_name", e.By.Name)
	l.addrPort("from", e.By.From)
	l.text("call", e.By.Call)
	l.text("role", e.Role)
	l.text("token", e.Token)
	l.text("token_name", e.TokenName)
	l.text("owner", e.Owner)
	l.text("owner_name", e.OwnerName)
	l.text("binding", e.Binding)
	if e.Target.Host != "" {
		l.text("target", e.Target.String())
	}
	if e.Port != 0 {
		l.number("port", uint64(e.Port))
	}
	l.prefixes("allow", e.Allow)
	if !e.Expires.IsZero() {
		l.text("expires_at", e.Expires.UTC().Format(time.RFC3339Nano))
	}
	l.text("session", e.Session)
	l.addrPort("client", e.Client)
	l.addrPort("router", e.Router)
	l.text("router_name", e.RouterName)
	l.text("proxy", e.Proxy)
	l.text("proxy_address", e.Address)
	l.addrPort("resolved", e.Resolved)
	if e.Event == SessionClosed {
		l.number("bytes_up", e.BytesUp)
		l.number("bytes_down", e.BytesDown)
		l.text("duration", e.Duration.String())
	}
	l.text("outcome", string(e.Outcome))
	l.text("code", string(e.Code))
	l.text("reason", e.Reason)
	if e.Count > 0 {
		l.number("count", e.Count)
	}
	if e.Lost > 0 {
		l.number("lost", e.Lost)
	}
	return append(l.b, '}', '\n')
}

// line is an object that is being written.
type line struct{ b []byte }

func (l *line) key(k string) {
	if l.b[len(l.b)-1] != '{' {
		l.b = append(l.b, ',')
	}
	l.b = append(l.b, '"')
	l.b = append(l.b, k...)
	l.b = append(l.b, '"', ':')
}

func (l *line) text(k, v string) {
	if v == "" {
		return
	}
	l.key(k)
	l.b = appendText(l.b, v)
}

func (l *line) number(k string, n uint64) {
	l.key(k)
	l.b = strconv.AppendUint(l.b, n, 10)
}

func (l *line) addrPort(k string, a netip.AddrPort) {
	if a.IsValid() {
		l.text(k, netip.AddrPortFrom(a.Addr().Unmap(), a.Port()).String())
	}
}

func (l *line) prefixes(k string, list []netip.Prefix) {
	if len(list) == 0 {
		return
	}
	l.key(k)
	for i, p := range list {
		sep := byte(',')
		if i == 0 {
			sep = '['
		}
		l.b = appendText(append(l.b, sep), p.String())
	}
	l.b = append(l.b, ']')
}

// appendText appends a JSON string: what cannot be seen is escaped, not only
// what JSON demands, what is long is cut, and a token of ours is not shown,
// wherever somebody has put it.
func appendText(b []byte, s string) []byte {
	s = Hide(s)
	if len(s) > maxText {
		s = strings.ToValidUTF8(s[:maxText], "") + "…"
	}
	b = append(b, '"')
	for _, r := range s { // invalid bytes are U+FFFD
		switch {
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case unicode.IsPrint(r):
			b = utf8.AppendRune(b, r)
		case r > 0xFFFF:
			high, low := utf16.EncodeRune(r)
			b = appendEscape(appendEscape(b, high), low)
		default:
			b = appendEscape(b, r)
		}
	}
	return append(b, '"')
}

func appendEscape(b []byte, r rune) []byte {
	const hex = "0123456789abcdef"
	return append(b, '\\', 'u', hex[r>>12&15], hex[r>>8&15], hex[r>>4&15], hex[r&15])
}

// Hide returns s without what follows the beginning of a token, API or
// enrolment: somebody may have put one where it does not belong.
func Hide(s string) string { return secret.ReplaceAllString(s, "$1…") }

// secret is what begins like a token, and may be hidden already.
var secret = regexp.MustCompile(`(oh[re]_)[A-Za-z0-9_%-]*…?`)
