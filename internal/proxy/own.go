package proxy

import (
	"net"
	"net/netip"
	"slices"
)

// mayBeOwn tells whether an address could be one at which the proxy itself
// listens. It asks nobody.
func (p *Proxy) mayBeOwn(at netip.AddrPort) bool {
	return slices.ContainsFunc(p.cfg.Own, func(own netip.AddrPort) bool { return own.Port() == at.Port() })
}

// isOwn tells whether a connection to an address would be one to a listener of
// the proxy itself: a link to that would be a loop, and who asks for one is
// never up to any good.
func (p *Proxy) isOwn(at netip.AddrPort) bool {
	if !p.mayBeOwn(at) {
		return false
	}
	addr := at.Addr().Unmap().WithZone("")
	return slices.ContainsFunc(p.cfg.Own, func(own netip.AddrPort) bool {
		listens := own.Addr().Unmap().WithZone("")
		switch {
		case own.Port() != at.Port():
			return false
		case addr.IsUnspecified(): // systems connect it to the machine itself
			return listens.IsUnspecified() || listens.IsLoopback()
		case listens.IsUnspecified():
			return ofThisMachine(addr)
		}
		return addr == listens
	})
}

// ofThisMachine tells whether an address is one of the machine's own. When that
// cannot be known, it is.
func ofThisMachine(addr netip.Addr) bool {
	if addr.IsLoopback() {
		return true
	}
	own, err := net.InterfaceAddrs()
	return err != nil || slices.ContainsFunc(own, func(a net.Addr) bool {
		n, ok := a.(*net.IPNet)
		if !ok {
			return false
		}
		ip, ok := netip.AddrFromSlice(n.IP)
		return ok && ip.Unmap() == addr
	})
}
