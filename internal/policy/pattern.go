package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"unicode/utf8"

	"github.com/ohrouter/oh-router"
)

// Limits of one pattern. Of a canonical one the parts are bounded, so that it
// can always be read back; what is longer than maxPattern is not looked at.
const (
	maxPattern = 2048
	maxGlob    = 253 // as a host name
	maxPorts   = 1024
)

// pattern is one line of a list: addresses or names, and ports.
type pattern struct {
	cidr  netip.Prefix // masked, never IPv4-mapped; the zero Prefix in a pattern of names
	glob  string       // canonical as a host is, with *; "" in a pattern of addresses
	ports portSet
}

// String returns the canonical form.
func (p pattern) String() string {
	switch {
	case p.glob == "*" && p.ports.all():
		return "any"
	case p.glob != "":
		return p.glob + ":" + p.ports.String()
	}
	return cidrString(p.cidr) + ":" + p.ports.String()
}

// matchesAddr tells whether p names addr, a plain one, and port.
func (p pattern) matchesAddr(addr netip.Addr, port uint16) bool {
	return p.cidr.Contains(addr) && p.ports.contains(port)
}

// matchesHost tells whether p names t by its host. Only the glob for
// everything has a say about hosts that are addresses.
func (p pattern) matchesHost(t ohrouter.Target) bool {
	return p.glob != "" && p.ports.contains(t.Port) &&
		(p.glob == "*" || !t.Addr().IsValid() && globMatches(p.glob, t.Host))
}

// parsePattern reads one pattern; the error says what is wrong with it.
func parsePattern(s string) (pattern, error) {
	s = strings.TrimSpace(s)
	switch {
	case s == "":
		return pattern{}, errors.New("it is empty")
	case len(s) > maxPattern:
		return pattern{}, fmt.Errorf("it is longer than %d characters", maxPattern)
	case !utf8.ValidString(s):
		return pattern{}, errors.New("it is not UTF-8")
	case strings.EqualFold(s, "any"):
		return pattern{glob: "*", ports: portSet{{1, maxPort}}}, nil
	}
	host, ports, err := splitPorts(s)
	if err != nil {
		return pattern{}, err
	}
	var p pattern
	if p.ports, err = parsePorts(ports); err != nil {
		return pattern{}, err
	}
	switch _, notAddr := netip.ParseAddr(host); {
	case host == "":
		return pattern{}, fmt.Errorf("it names no host; every host with these ports is *:%s", p.ports)
	case strings.EqualFold(host, "any"):
		return pattern{}, fmt.Errorf("any stands alone; every host with these ports is *:%s", p.ports)
	case host[0] == '[':
		p.cidr, err = parseBracketed(host)
	case strings.Contains(host, "/"):
		p.cidr, err = parsePrefix(host)
	case notAddr == nil:
		p.cidr, err = parsePrefix(host + "/32")
	default:
		p.glob, err = parseGlob(host)
	}
	return p, err
}

// splitPorts cuts HOST:PORTS.
func splitPorts(s string) (host, ports string, err error) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 || s[0] == '[' && i < strings.LastIndexAny(s, "]/") {
		return "", "", withoutPorts(s)
	}
	host, ports = s[:i], s[i+1:]
	if host != "" && host[0] != '[' && strings.Contains(host, ":") {
		return "", "", errors.New("an IPv6 address goes in brackets, as in [2001:db8::1]:443 or [2001:db8::]/32:443")
	}
	return host, ports, nil
}

// withoutPorts returns the error for a pattern that has a host or ports, and not
// both, with what to write where that would do.
func withoutPorts(s string) error {
	if ports, err := parsePorts(s); err == nil && !ports.all() {
		return fmt.Errorf(`it names no host: write one, as in db.internal:%s, or *:%[1]s for every host; in a list of a file, a pattern with a comma goes in quotes: "db.internal:80,443"`, ports)
	}
	if _, err := parsePattern(s + ":443"); err != nil {
		return fmt.Errorf("it names no ports, and %w", err)
	}
	return fmt.Errorf("it names no ports: add them, as in %s:443, or :* for all", s)
}

// parseBracketed reads "[IPv6]" and "[IPv6]/BITS".
func parseBracketed(s string) (netip.Prefix, error) {
	inner, rest, closed := strings.Cut(s[1:], "]")
	addr, err := netip.ParseAddr(inner)
	switch {
	case closed && strings.Contains(inner, "/") && rest == "":
		host, bits, _ := strings.Cut(inner, "/")
		return netip.Prefix{}, fmt.Errorf("the length goes behind the bracket: [%.100s]/%.10s", host, bits)
	case err != nil || !closed || !addr.Is6():
		return netip.Prefix{}, fmt.Errorf("%.100q is not an IPv6 address in brackets", s)
	case addr.Zone() != "":
		return netip.Prefix{}, fmt.Errorf("%.100q has a zone: leave it out, as it only means something on one machine", s)
	case rest == "":
		rest = "/128"
	}
	return parsePrefix(inner + rest)
}

// parsePrefix reads a CIDR. An IPv4-mapped one is IPv4.
func parsePrefix(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%.100q is not a CIDR, as in 10.0.0.0/8 or [2001:db8::]/32", s)
	}
	if m := p.Masked(); m != p {
		// Either of the two may be meant, and they differ a lot.
		return netip.Prefix{}, fmt.Errorf("%s has bits set behind its length: write %s for the network, or %s for the one address",
			p, cidrString(m), cidrString(netip.PrefixFrom(p.Addr(), p.Addr().BitLen())))
	}
	if a := p.Addr(); a.Is4In6() {
		p = netip.PrefixFrom(a.Unmap(), p.Bits()-96) // masked, so 96 bits or more
	}
	return p, nil
}

// cidrString returns p as patterns spell it.
func cidrString(p netip.Prefix) string {
	s := p.Addr().String()
	if p.Addr().Is6() {
		s = "[" + s + "]"
	}
	if p.IsSingleIP() {
		return s
	}
	return fmt.Sprintf("%s/%d", s, p.Bits())
}
