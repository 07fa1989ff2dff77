package identity

import (
	"cmp"
	"crypto/x509"
	"net/netip"
	"os"
	"slices"
	"strings"

	ohrouter "github.com/ohrouter/oh-router"
)

// maxHosts is how many names a certificate of a router has at most.
const maxHosts = 64

// hosts are what clients may call a router.
type hosts struct {
	names     []string
	addresses []netip.Addr
}

// parseHosts reads host names and addresses.
func parseHosts(items []string) (hosts, error) {
	var h hosts
	for _, item := range items {
		t, err := ohrouter.NewTarget(item, "1")
		addr := t.Addr()
		switch {
		case err != nil && strings.Contains(item, ":"):
			return h, ohrouter.Errorf(ohrouter.InvalidRequest, "%.100q is not a host: give a name or an address without a port", item)
		case err != nil:
			return h, err
		case addr.IsUnspecified():
			return h, ohrouter.Errorf(ohrouter.InvalidRequest, "nobody calls a router %s: give the name or the address that clients use", item)
		case addr.IsValid():
			h.addresses = append(h.addresses, addr)
		default:
			h.names = append(h.names, t.Host)
		}
	}
	return h, nil
}

// ownHosts returns what this machine is always called.
func ownHosts() hosts {
	h := hosts{
		names:     []string{"localhost"},
		addresses: []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()},
	}
	if name, err := os.Hostname(); err == nil {
		if own, err := parseHosts([]string{name}); err == nil { // or it is no name for others
			h = h.with(own)
		}
	}
	return h
}

// hostsOf returns the hosts of a certificate.
func hostsOf(c *x509.Certificate) hosts {
	h := hosts{names: c.DNSNames}
	for _, ip := range c.IPAddresses {
		if addr, ok := netip.AddrFromSlice(ip); ok {
			h.addresses = append(h.addresses, addr.Unmap())
		}
	}
	return h
}

// with returns h and those of other that it lacks.
func (h hosts) with(other hosts) hosts {
	return hosts{union(h.names, other.names), union(h.addresses, other.addresses)}
}

// union returns a, then those of b that a lacks.
func union[T comparable](a, b []T) []T {
	u := slices.Clone(a)
	for _, x := range b {
		if !slices.Contains(u, x) {
			u = append(u, x)
		}
	}
	return u
}

// count is how many hosts there are.
func (h hosts) count() int { return len(h.names) + len(h.addresses) }

// machineName returns a name for the router of this machine.
func machineName() string {
	host, _ := os.Hostname() // "" will do
	label, _, _ := strings.Cut(strings.ToLower(host), ".")
	if CheckName(label) != nil {
		label = ""
	}
	return cmp.Or(label, "router")
}
