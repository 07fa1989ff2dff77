package config

import (
	"fmt"
	"net/netip"
)

// Identified tells whether a state directory has the identity of a role, with
// which it need not stay on loopback.
type Identified func(role Role, state string) bool

// secured tells whether a role has credentials: certificates of its own, or an
// identity in its state directory.
func (c *Config) secured(role Role, has Identified) bool {
	state := c.Router.State
	if role == ProxyRole {
		state = c.Proxy.State
	}
	return c.Certificate.Cert != "" || role != Up && state != "" && has != nil && has(role, state)
}

// checkRouter works out what follows from other settings and returns what a
// router would not be safe with. dials tells whether it dials the proxies
// that are configured.
func checkRouter(c *Config, v values, dials, secured bool) (problems []error) {
	r := &c.Router
	asked := r.BindAddress.IsValid()
	if !asked {
		r.BindAddress = r.Listen.Addr()
	}
	if r.Advertise == "" && r.BindAddress.IsValid() && !r.BindAddress.IsUnspecified() {
		r.Advertise = r.BindAddress.String()
	}
	if c.Insecure || secured {
		return nil
	}
	remedy := found("make one with 'oh-router ca init'", v["router.state"])
	if !dials { // up has none
		remedy = "run 'oh-router router' and 'oh-router proxy', which can have one"
	}
	if asked {
		problems = append(problems, onLoopback(v["router.bind_address"], r.BindAddress, "127.0.0.1", remedy)...)
	}
	problems = append(problems, onLoopback(v["router.listen"], r.Listen.Addr(), "127.0.0.1:8080", remedy)...)
	if !dials || c.LinkSecurity == ExternalSecurity {
		return problems
	}
	for _, address := range farProxies(r.Proxies) { // what does not parse has been reported
		problems = append(problems, v["router.proxy"].problem(fmt.Errorf(
			"%s is not a loopback address, and there is no certificate to secure links with: %s, say --link-security external if a VPN such as WireGuard carries them, or accept the risk with --insecure", address, remedy)))
	}
	return problems
}

// checkProxy returns what a proxy would not be safe with, or could not do.
func checkProxy(c *Config, v values, secured bool) (problems []error) {
	if l, m := c.Proxy.Listen, c.Proxy.Metrics; m.Port() != 0 && m.Port() == l.Port() && meet(l.Addr(), m.Addr()) {
		problems = append(problems, v["proxy.metrics"].problem(fmt.Errorf("links arrive at %s already (--listen): choose another port for metrics", l)))
	}
	if c.Insecure {
		return problems
	}
	if !secured && c.LinkSecurity != ExternalSecurity {
		problems = append(problems, onLoopback(v["proxy.listen"], c.Proxy.Listen.Addr(), "127.0.0.1:9000",
			found("get one with 'oh-router proxy enroll'", v["proxy.state"])+", say --link-security external if a VPN such as WireGuard carries the links")...)
	}
	if a := c.Proxy.Metrics.Addr(); a.IsValid() && !a.IsLoopback() && !c.Proxy.OpenMetrics {
		problems = append(problems, v["proxy.metrics"].problem(fmt.Errorf(
			"%s is not a loopback address, and metrics are served to everybody, in the clear: say --open-metrics if whoever reaches it may read them, or use one such as 127.0.0.1:9100", spelt(a))))
	}
	return problems
}

// meet tells whether listeners at two addresses cannot have the same port.
func meet(a, b netip.Addr) bool {
	return a == b || a.IsUnspecified() && (a.Is6() || b.Is4()) || b.IsUnspecified() && (b.Is6() || a.Is4())
}

// found returns how to get a certificate so that the role finds it, which has
// been told where its state is.
func found(how string, state given) string {
	switch state.items[0] {
	case "":
		return how
	case "none":
		return how + " and leave out --state none"
	}
	return how + " and the same --state"
}

// onLoopback returns a problem if addr is one that other machines reach. The
// zero Addr is none, or has been reported.
func onLoopback(g given, addr netip.Addr, better, remedy string) []error {
	if !addr.IsValid() || addr.IsLoopback() {
		return nil
	}
	return []error{g.problem(fmt.Errorf(
		"%s is not a loopback address, and there is no certificate to secure it with: %s, use one such as %s, or accept the risk with --insecure", spelt(addr), remedy, better))}
}

// spelt returns an address as a person may know it.
func spelt(a netip.Addr) string {
	if a.IsUnspecified() {
		return a.String() + " (all addresses)"
	}
	return a.String()
}
