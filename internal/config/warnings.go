package config

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"

	"github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/sysctl"
)

// warnings returns what is worth a line in the log at start.
func warnings(role Role, c Config, secured bool) []string {
	var w []string
	switch {
	case len(c.Open) > 0:
		w = append(w, "insecure is set: "+strings.Join(c.Open, "; "))
	case c.Insecure:
		w = append(w, "insecure is set, and nothing here needs it: leave it out")
	}
	w = append(w, c.unprovedLinks(role, secured)...)
	if s := openKey(c.Certificate.Key); s != "" {
		w = append(w, s)
	}
	if role == ProxyRole && len(c.Proxy.Allow.Patterns()) == 0 {
		w = append(w, "the allow-list is empty, so every target is denied: name targets with --allow, as in --allow 10.0.0.0/8:3306")
	}
	if s := excess(c.Backlog, sysctl.Numbers("net.core.somaxconn")); s != "" {
		w = append(w, s)
	}
	if role != ProxyRole {
		if s := overlap(c.Router.Ports, sysctl.Numbers("net.ipv4.ip_local_port_range"), strings.Join(sysctl.Fields("net.ipv4.ip_local_reserved_ports"), ",")); s != "" {
			w = append(w, s)
		}
	}
	return w
}

// openKey returns a warning if every user may read the file of a private key.
func openKey(file string) string {
	info, err := os.Stat(file) // what is not there is reported by who opens it
	if err != nil || runtime.GOOS == "windows" || info.Mode().Perm()&0o004 == 0 {
		return ""
	}
	return fmt.Sprintf("the private key in %s may be read by every user of this machine (mode %o), who can then be this server: chmod 600 it", file, info.Mode().Perm())
}

// strangers returns a warning for each variable that looks like a setting and
// is none of any command's.
func strangers(env map[string]string) (w []string) {
	known := map[string]bool{}
	for _, s := range settings() {
		known[s.variable()] = true
	}
	for _, flag := range []string{"config", "server", "token", "token-file", "ca-file"} {
		known[variable(flag)] = true
	}
	// What Kubernetes gives every container for a service that is named oh-router,
	// or oh-router-something.
	injected := regexp.MustCompile(`^OH_ROUTER_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)$`)
	for _, name := range slices.Sorted(maps.Keys(env)) {
		if strings.HasPrefix(name, variable("")) && !known[name] && !injected.MatchString(name) {
			w = append(w, fmt.Sprintf("the variable %.80s is no setting of any command, and ignored: is it misspelt? Variables are named like flags, as is %s like --idle-timeout",
				name, variable("idle-timeout")))
		}
	}
	return w
}

// leftOpen returns what others get that credentials would keep from them, if
// insecure lets the role start without.
func (c *Config) leftOpen(role Role, secured bool) (open []string) {
	if !c.Insecure {
		return nil
	}
	if role == ProxyRole {
		if l := c.Proxy.Listen; !secured && c.LinkSecurity != ExternalSecurity && !l.Addr().IsLoopback() {
			open = append(open, fmt.Sprintf("links at %s are neither encrypted nor authenticated, and whoever reaches it may dial what the allow-list permits", l))
		}
		if m := c.Proxy.Metrics; m.IsValid() && !m.Addr().IsLoopback() && !c.Proxy.OpenMetrics {
			open = append(open, fmt.Sprintf("metrics at %s are for whoever reaches them", m))
		}
		return open
	}
	r := c.Router
	if !secured && !r.Listen.Addr().IsLoopback() {
		open = append(open, fmt.Sprintf("calls of the API at %s, tokens included, are not encrypted", r.Listen))
	}
	if !r.Listen.Addr().IsLoopback() || !r.BindAddress.IsLoopback() {
		targets := "targets"
		if role == Up {
			targets = "any target, those on loopback of this machine included"
		}
		open = append(open, "as long as there is no API token, whoever reaches the API may map "+targets)
	}
	if far := farProxies(r.Proxies); !secured && c.LinkSecurity != ExternalSecurity && len(far) > 0 {
		open = append(open, "links to "+strings.Join(far, " and ")+" are neither encrypted nor authenticated")
	}
	return open
}

// unprovedLinks returns a warning for links whose other end proves too little.
func (c *Config) unprovedLinks(role Role, secured bool) (w []string) {
	const promise = "link_security is external, which is your word that a VPN carries links and knows who is at their ends; "
	external := c.LinkSecurity == ExternalSecurity
	if l := c.Proxy.Listen; role == ProxyRole && external && !private(l.Addr()) {
		w = append(w, fmt.Sprintf(promise+"but %s is reached from elsewhere, too, and whoever reaches it may dial what the allow-list permits: "+
			"listen on the address that this machine has inside the VPN", spelt(l.Addr())))
	}
	if role != RouterRole {
		return w
	}
	for _, p := range c.Router.Proxies {
		t, err := ohrouter.ParseTarget(p.Address)
		switch {
		case err != nil:
		case external && t.Addr().IsValid() && !private(t.Addr()):
			w = append(w, fmt.Sprintf(promise+"but %s is a public address: name the one that the proxy has inside the VPN", p.Address))
		case !external && secured && p.Name == p.Address && far(t):
			w = append(w, fmt.Sprintf("the proxy at %s has no name, so whoever has the certificate of any proxy may answer there: "+
				"name the right one, as in --proxy east=%s", p.Address, p.Address))
		}
	}
	return w
}

// farProxies returns the addresses of the proxies that are not on this machine.
func farProxies(proxies []ProxyAddress) (addresses []string) {
	for _, p := range proxies {
		if t, err := ohrouter.ParseTarget(p.Address); err == nil && far(t) {
			addresses = append(addresses, p.Address)
		}
	}
	return addresses
}

// far tells whether a target may be on another machine.
func far(t ohrouter.Target) bool { return t.Host != "localhost" && !t.Addr().IsLoopback() }

// private tells whether an address is one that the internet does not lead to: a
// VPN may have it.
func private(a netip.Addr) bool {
	shared := netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64, 0, 0}), 10) // RFC 6598
	return a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast() || shared.Contains(a)
}

// excess returns a warning if a backlog is more than the kernel's most, the one
// number of kernel; none where that is not known.
func excess(backlog int, kernel []int) string {
	if len(kernel) != 1 || backlog <= kernel[0] {
		return ""
	}
	return fmt.Sprintf("backlog is %d, but the kernel lets %d connections wait at most: raise the sysctl net.core.somaxconn", backlog, kernel[0])
}

// overlap returns a warning if ports has some of the range that the kernel
// takes ports for outgoing connections from, given as its two ends, which are
// not reserved, given as the kernel lists them; none where that is not known.
func overlap(ports Ports, kernel []int, reserved string) string {
	if len(kernel) != 2 {
		return ""
	}
	var aside []Ports
	for _, s := range splitCommas(reserved) {
		if p, err := parsePorts(s); err == nil {
			aside = append(aside, p)
		}
	}
	low, high := kernel[0], kernel[1]
	for port := max(low, int(ports.Low)); port <= min(high, int(ports.High)); port++ {
		if !slices.ContainsFunc(aside, func(p Ports) bool { return int(p.Low) <= port && port <= int(p.High) }) {
			return fmt.Sprintf("the ports %s overlap %d-%d, which the kernel uses for outgoing connections: a port in use by one cannot be mapped; "+
				"choose others, or set them aside with the sysctl net.ipv4.ip_local_reserved_ports", ports, low, high)
		}
	}
	return ""
}
