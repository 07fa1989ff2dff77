package ohrouter

import (
	"net"
	"net/netip"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// Target is a TCP service that clients want to reach. Its host is a name,
// which only the proxy resolves, or an IP address. A Target made by
// [ParseTarget] or [NewTarget] is canonical, so two spellings of one target
// compare equal with ==.
type Target struct {
	Host string // canonical: lower case, A-labels, no trailing dot; IPv6 without brackets
	Port uint16 // never 0
}

// Limits of a host name (RFC 1035, section 2.3.4).
const (
	maxHost  = 253
	maxLabel = 63
)

// ParseTarget reads "host:port". IPv6 addresses stand in brackets. The error
// has code [InvalidRequest] and says which part is wrong.
func ParseTarget(s string) (Target, error) {
	if len(s) > maxHost+len("[]:65535") {
		return Target{}, Errorf(InvalidRequest, "target is %d bytes long: a host name has at most %d", len(s), maxHost)
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil || (s[0] == '[' && !strings.Contains(host, ":")) {
		return Target{}, Errorf(InvalidRequest, "target %q is not HOST:PORT (an IPv6 address goes in brackets, as in [2001:db8::1]:5432)", s)
	}
	return NewTarget(host, port)
}

// NewTarget makes a target of a host, in brackets or not, and a port in
// decimal. The error has code [InvalidRequest].
func NewTarget(host, port string) (Target, error) {
	p, err := strconv.ParseUint(port, 10, 16)
	if err != nil || p == 0 || port[0] == '+' {
		return Target{}, Errorf(InvalidRequest, "port %.20q is not a number from 1 to 65535", port)
	}
	h, err := canonicalHost(host)
	if err != nil {
		return Target{}, err
	}
	return Target{Host: h, Port: uint16(p)}, nil
}

// String returns "host:port", with IPv6 addresses in brackets. [ParseTarget]
// reads it back.
func (t Target) String() string {
	return net.JoinHostPort(t.Host, strconv.Itoa(int(t.Port)))
}

// Addr returns the target's address when its host is one, else the zero Addr.
func (t Target) Addr() netip.Addr {
	a, err := netip.ParseAddr(t.Host)
	if err != nil {
		return netip.Addr{}
	}
	return a
}

// MarshalText returns what String does.
func (t Target) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText reads what [ParseTarget] does.
func (t *Target) UnmarshalText(b []byte) (err error) {
	*t, err = ParseTarget(string(b))
	return err
}

// hostProfile maps names the way browsers do before a look-up (UTS 46), but
// leaves the choice of ASCII characters to us: names with underscores are
// common behind a proxy, and so are hyphens in any place of the big sites.
var hostProfile = idna.New(idna.MapForLookup(), idna.Transitional(false), idna.BidiRule(),
	idna.StrictDomainName(false), idna.CheckHyphens(false))

// canonicalHost returns the one spelling of a host.
func canonicalHost(host string) (string, error) {
	bad := func(why string) (string, error) {
		return "", Errorf(InvalidRequest, "host %.*q %s", maxHost, host, why)
	}
	if inner, ok := strings.CutPrefix(host, "["); ok {
		if inner, ok = strings.CutSuffix(inner, "]"); !ok || !strings.Contains(inner, ":") {
			return bad("has brackets, but is not an IPv6 address")
		}
		host = inner
	}
	if a, err := netip.ParseAddr(host); err == nil && a.Is4() {
		return host, nil // netip takes the one spelling only
	}
	switch {
	case host == "":
		return "", Errorf(InvalidRequest, "the host is empty")
	case len(host) > 2*maxHost:
		return "", Errorf(InvalidRequest, "the host is %d bytes long: a name has at most %d", len(host), maxHost)
	case !utf8.ValidString(host):
		return bad("is not UTF-8")
	case strings.Contains(host, "%"):
		return bad("has a zone: addresses with zones only mean something on one machine")
	case strings.Contains(host, ":"):
		a, err := netip.ParseAddr(host)
		if err != nil {
			return bad("is not an IPv6 address")
		}
		return a.Unmap().String(), nil
	}
	name, err := hostProfile.ToASCII(host)
	if err != nil {
		return bad("is not a name that DNS can hold")
	}
	name = strings.TrimSuffix(name, ".")
	if len(name) > maxHost {
		return "", Errorf(InvalidRequest, "the host is %d bytes long: a name has at most %d", len(name), maxHost)
	}
	labels := strings.Split(name, ".")
	for _, l := range labels {
		switch {
		case l == "":
			return bad("has an empty label")
		case len(l) > maxLabel:
			return bad("has a label of more than 63 characters")
		case strings.Trim(l, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "":
			return bad("has a character that no host name has")
		case strings.HasPrefix(l, "-") || strings.HasSuffix(l, "-"):
			return bad("has a label that begins or ends with a hyphen")
		}
	}
	// Resolvers read "127.1", "2130706433" and "0x7f.1" as addresses. One
	// address must have one spelling, or a pattern would miss the others.
	if last := labels[len(labels)-1]; isNumber(last) {
		a, err := netip.ParseAddr(name)
		if err != nil {
			return bad("looks like an address, but is not one in full (as in 127.0.0.1)")
		}
		return a.String(), nil
	}
	return name, nil
}

// isNumber tells whether a resolver would take the label for a part of an
// IPv4 address (the "ends in a number" rule of the URL Standard).
func isNumber(label string) bool {
	if strings.Trim(label, "0123456789") == "" {
		return true
	}
	hex, ok := strings.CutPrefix(label, "0x")
	return ok && strings.Trim(hex, "0123456789abcdef") == ""
}
