package access

import (
	"slices"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/policy"
)

// reach is how far a right goes.
type reach int

const (
	none reach = iota
	own        // what belongs to the caller, or is granted to it
	all
)

// rights is what a role may do.
type rights struct {
	mapTargets    reach // make bindings: own is within the grant
	seeBindings   reach // and their sessions
	change        reach // patch and release bindings, cut sessions
	seeProxies    reach // own is the granted ones, by name and state alone
	seeTokens     reach
	manageTokens  reach // create and revoke
	manageProxies reach // invite, and revoke their certificates
	seeReasons    reach // why a target cannot be reached, where its name leads: own is if granted
	seeMetrics    reach // and the parts of /readyz
	call          reach // how often: all without limit, own as granted, none at the pace of new users
}

// rightsOf is the table of all rights. A role that is not in it has none.
func rightsOf(role ohrouter.Role) rights {
	switch role {
	case ohrouter.Admin:
		return rights{
			mapTargets: all, seeBindings: all, change: all, seeProxies: all,
			seeTokens: all, manageTokens: all, manageProxies: all, seeReasons: all, seeMetrics: all, call: all,
		}
	case ohrouter.User:
		return rights{
			mapTargets: own, seeBindings: own, change: own, seeProxies: own,
			seeTokens: own, manageTokens: none, manageProxies: none, seeReasons: own, seeMetrics: none, call: own,
		}
	case ohrouter.Viewer:
		return rights{
			mapTargets: none, seeBindings: all, change: none, seeProxies: all,
			seeTokens: own, manageTokens: none, manageProxies: none, seeReasons: all, seeMetrics: all, call: none,
		}
	}
	return rights{}
}

// Caller is who makes a call, and what that may do. The zero Caller may do
// nothing.
type Caller struct {
	token   ohrouter.Token
	targets *policy.List
}

// Anybody returns the caller of a router that needs no tokens: it does
// everything, and what it makes has no owner.
func Anybody() Caller { return Caller{token: ohrouter.Token{Role: ohrouter.Admin}} }

// Owner returns whose the bindings are that the caller makes: the id of its
// token, "" without tokens.
func (c Caller) Owner() string { return c.token.ID }

// Name returns the name of the caller's token; "" without tokens.
func (c Caller) Name() string { return c.token.Name }

// Role returns the caller's role; "" of one that may do nothing.
func (c Caller) Role() ohrouter.Role { return c.token.Role }

// SeesBinding tells whether the caller may know of a binding of that owner, and
// of its sessions.
func (c Caller) SeesBinding(owner string) bool {
	return c.within(rightsOf(c.token.Role).seeBindings, owner)
}

// SeesToken tells whether the caller may know of a token.
func (c Caller) SeesToken(id string) bool { return c.within(rightsOf(c.token.Role).seeTokens, id) }

// SeesMetrics tells whether the caller may read the metrics, and what /readyz
// says of each part.
func (c Caller) SeesMetrics() bool { return rightsOf(c.token.Role).seeMetrics == all }

// SeesReasons tells whether the caller may know why a target cannot be reached
// and to which address a name leads. Another gets one answer for all reasons.
func (c Caller) SeesReasons() bool {
	r := rightsOf(c.token.Role).seeReasons
	return r == all || r == own && c.token.Reasons
}

// SeesProxy returns what the caller may know of a proxy, if anything.
func (c Caller) SeesProxy(p ohrouter.Proxy) (ohrouter.Proxy, bool) {
	switch rightsOf(c.token.Role).seeProxies {
	case all:
		return p, true
	case own:
		return ohrouter.Proxy{Name: p.Name, State: p.State}, c.mayUse(p.Name)
	}
	return ohrouter.Proxy{}, false
}

// Changes returns nil when the caller may change a binding of that owner, end
// it and cut its sessions. It is asked about what the caller sees. The error
// has code [ohrouter.Forbidden].
func (c Caller) Changes(owner string) error {
	if c.within(rightsOf(c.token.Role).change, owner) {
		return nil
	}
	return ohrouter.Errorf(ohrouter.Forbidden, "the token's role is %s, which changes nothing", c.token.Role)
}

// ManagesTokens returns nil when the caller may make and revoke tokens. The
// error has code [ohrouter.Forbidden].
func (c Caller) ManagesTokens() error {
	if rightsOf(c.token.Role).manageTokens == all {
		return nil
	}
	return ohrouter.Errorf(ohrouter.Forbidden, "the token's role is %s; tokens are for an admin to make and revoke", c.token.Role)
}

// ManagesProxies returns nil when the caller may invite proxies and revoke their
// certificates. The error has code [ohrouter.Forbidden].
func (c Caller) ManagesProxies() error {
	if rightsOf(c.token.Role).manageProxies == all {
		return nil
	}
	return ohrouter.Errorf(ohrouter.Forbidden, "the token's role is %s; proxies are for an admin to invite and revoke", c.token.Role)
}

// callsPerSecond returns how many calls the caller may make; 0 any number.
func (c Caller) callsPerSecond() int {
	switch rightsOf(c.token.Role).call {
	case all:
		return 0
	case own:
		return c.token.CallsPerSecond
	}
	return defaultCallsPerSecond
}

// MayBind returns nil when the caller may make the binding. It looks at what
// was asked for: no name is resolved and nothing is connected to. The error has
// code [ohrouter.Forbidden] and speaks of the caller's own grant alone.
func (c Caller) MayBind(spec ohrouter.BindingSpec) error {
	switch rightsOf(c.token.Role).mapTargets {
	case all:
		return nil
	case none:
		return ohrouter.Errorf(ohrouter.Forbidden, "the token's role is %s, which maps no targets", c.token.Role)
	}
	g := c.token.Grant
	switch {
	case !c.targets.PermitsWritten(spec.Target):
		return ohrouter.Errorf(ohrouter.Forbidden, "the token's grant does not have the target %s", spec.Target)
	case spec.Proxy != "" && !c.mayUse(spec.Proxy):
		return ohrouter.Errorf(ohrouter.Forbidden, "the token's grant does not have the proxy %.40q", spec.Proxy)
	case spec.Port != 0 && g.Ports != nil && !g.Ports.Contains(spec.Port):
		return ohrouter.Errorf(ohrouter.Forbidden, "the token's grant has the ports %s, not %d", g.Ports, spec.Port)
	case g.MaxTTL > 0 && spec.TTL > g.MaxTTL:
		return ohrouter.Errorf(ohrouter.Forbidden, "the token's grant has bindings of at most %s, not %s", g.MaxTTL, spec.TTL)
	}
	return nil
}

// MayPatch returns nil when the caller may change a binding of its own in this
// way. The error has code [ohrouter.Forbidden].
func (c Caller) MayPatch(p ohrouter.BindingPatch) error {
	most := c.token.MaxTTL
	if rightsOf(c.token.Role).change == own && most > 0 && p.TTL != nil && (*p.TTL == 0 || *p.TTL > most) {
		return ohrouter.Errorf(ohrouter.Forbidden, "the token's grant has bindings of at most %s", most)
	}
	return nil
}

func (c Caller) mayUse(proxy string) bool {
	return len(c.token.Proxies) == 0 || slices.Contains(c.token.Proxies, proxy)
}

// within tells whether a right covers what belongs to an owner. What has no
// owner was made before there were tokens, and is nobody's own.
func (c Caller) within(r reach, owner string) bool {
	return r == all || r == own && owner != "" && owner == c.token.ID
}
