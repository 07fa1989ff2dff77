package proxy

import (
	"net"
	"net/netip"
	"slices"
)

// Beside tells the proxy of a router in the same process, before Serve: mapped
// returns where that listens on a port, the zero AddrPort if it does not. A
// session to a mapped port could lead to the same port again, without end.
func (p *Proxy) Beside(mapped func(port uint16) netip.AddrPort) { p.mapped = mapped }

// own returns where the process itself listens on a port. It asks no system.
func (p *Proxy) own(port uint16) []netip.AddrPort {
	var list []netip.AddrPort
	for _, own := range p.cfg.Own {
		if own.Port() == port {
			list = append(list, own)
		}
	}
	if p.mapped != nil {
		if at := p.mapped(port); at.IsValid() {
			list = append(list, at)
		}
	}
	return list
}

// mayBeOwn tells whether an address could be one at which the process itself
// listens. It is asked on event loops.
func (p *Proxy) mayBeOwn(at netip.AddrPort) bool { return len(p.own(at.Port())) > 0 }

// isOwn tells whether a connection to an address would be one to a listener of
// the process itself: a session to that would be a loop, and who asks for one is
// never up to any good.
func (p *Proxy) isOwn(at netip.AddrPort) bool {
	addr := at.Addr().Unmap().WithZone("")
	return slices.ContainsFunc(p.own(at.Port()), func(own netip.AddrPort) bool {
		listens := own.Addr().Unmap().WithZone("")
		switch {
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
