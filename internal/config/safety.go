package config

import (
	"fmt"
	"net/netip"

	"github.com/ohrouter/oh-router"
)

// checkRouter works out what follows from other settings and returns what a
// router would not be safe with. dials tells whether it dials the proxies
// that are configured.
func checkRouter(c *Config, v values, dials bool) (problems []error) {
	r := &c.Router
	if !r.BindAddress.IsValid() {
		r.BindAddress = r.Listen.Addr()
	} else if !c.Insecure {
		problems = append(problems, onLoopback(v["router.bind_address"], r.BindAddress, "127.0.0.1")...)
	}
	if r.Advertise == "" && r.BindAddress.IsValid() && !r.BindAddress.IsUnspecified() {
		r.Advertise = r.BindAddress.String()
	}
	if c.Insecure {
		return problems
	}
	problems = append(problems, onLoopback(v["router.listen"], r.Listen.Addr(), "127.0.0.1:8080")...)
	if !dials {
		return problems
	}
	for _, p := range r.Proxies {
		t, err := ohrouter.ParseTarget(p.Address)
		if err != nil || t.Host == "localhost" || t.Addr().IsLoopback() {
			continue // what does not parse has been reported
		}
		problems = append(problems, v["router.proxy"].problem(fmt.Errorf(
			"%s is not a loopback address, and links carry no credentials yet: reach the proxy through SSH or a VPN that ends on loopback, or accept the risk with --insecure", p.Address)))
	}
	return problems
}

// checkProxy returns what a proxy would not be safe with.
func checkProxy(c *Config, v values) (problems []error) {
	if c.Insecure {
		return nil
	}
	problems = onLoopback(v["proxy.listen"], c.Proxy.Listen.Addr(), "127.0.0.1:9000")
	return append(problems, onLoopback(v["proxy.metrics"], c.Proxy.Metrics.Addr(), "127.0.0.1:9100")...)
}

// onLoopback returns a problem if addr is one that other machines reach. The
// zero Addr is none, or has been reported.
func onLoopback(g given, addr netip.Addr, better string) []error {
	if !addr.IsValid() || addr.IsLoopback() {
		return nil
	}
	said := addr.String()
	if addr.IsUnspecified() {
		said += " (all addresses)"
	}
	return []error{g.problem(fmt.Errorf(
		"%s is not a loopback address, and links and API carry no credentials yet: use one such as %s, or accept the risk with --insecure", said, better))}
}
