package access

import (
	"slices"
	"strings"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/policy"
)

// Limits of a token's fields.
const (
	maxName     = 63
	maxTTL      = 10 * 365 * 24 * time.Hour
	maxPatterns = 256
	maxProxies  = 64
	maxQuota    = 1_000_000
	maxPerMin   = 10_000 // what the window has to remember
	maxPerSec   = 10_000
)

// The quotas of a user that is made without any. They are room for a person or
// a service, too little to look for open ports, and leave a router something
// for others. Viewers, who have no grant, make calls at the pace of users.
const (
	defaultBindings         = 100
	defaultSessions         = 1000
	defaultTargetsPerMinute = 60
	defaultCallsPerSecond   = 20
)

// tokenOf returns the token that a spec describes, without its id. The error
// has code [ohrouter.InvalidRequest].
func tokenOf(spec ohrouter.TokenSpec, now time.Time) (ohrouter.Token, error) {
	t := ohrouter.Token{Name: spec.Name, Role: spec.Role, CreatedAt: now}
	t.Targets, t.Proxies = []string{}, []string{}
	switch {
	case strings.HasPrefix(spec.Name, prefix) || strings.HasPrefix(spec.Name, "ohe_"):
		return t, invalid("the name is a token itself: revoke that, and choose a name")
	case spec.Name == "" || len(spec.Name) > maxName || strings.ContainsFunc(spec.Name, notInName) || strings.HasPrefix(spec.Name, "t-"):
		return t, invalid("name %.80q is not a name for a token: 1 to %d letters, digits and ._- that do not begin as an id does, with t-", spec.Name, maxName)
	case !slices.Contains(ohrouter.Roles(), spec.Role):
		return t, invalid("role %.40q is none: there are admin, user and viewer", spec.Role)
	case spec.TTL < 0 || time.Duration(spec.TTL) > maxTTL:
		return t, invalid("ttl %s is not between 0s and %v", spec.TTL, maxTTL)
	}
	if spec.TTL > 0 {
		t.ExpiresAt = new(now.Add(time.Duration(spec.TTL)))
	}
	if spec.Role == ohrouter.User {
		grant, err := grantOf(spec)
		t.Grant = grant
		return t, err
	}
	if len(spec.Targets) > 0 || len(spec.Proxies) > 0 || spec.Ports != nil || spec.MaxTTL != 0 || spec.Reasons ||
		spec.MaxBindings != nil || spec.MaxSessions != nil || spec.TargetsPerMinute != nil || spec.CallsPerSecond != nil {
		return t, invalid("the role %s has no grant: targets, proxies, ports and quotas are for the role user", spec.Role)
	}
	return t, nil
}

// grantOf returns the grant of a user.
func grantOf(spec ohrouter.TokenSpec) (ohrouter.Grant, error) {
	g := ohrouter.Grant{Proxies: []string{}, Ports: spec.Ports, MaxTTL: spec.MaxTTL, Reasons: spec.Reasons}
	targets, err := policy.Parse(spec.Targets)
	switch {
	case err != nil:
		return g, invalid("targets: %s", ohrouter.Message(err))
	case len(spec.Targets) == 0:
		return g, invalid("a user needs targets that it may map: patterns such as db.internal:5432, 10.0.0.0/8:* or any")
	case len(spec.Targets) > maxPatterns:
		return g, invalid("%d targets are more than the %d that a token may have", len(spec.Targets), maxPatterns)
	case len(spec.Proxies) > maxProxies:
		return g, invalid("%d proxies are more than the %d that a token may have", len(spec.Proxies), maxProxies)
	case spec.Ports != nil && (spec.Ports.Low == 0 || spec.Ports.High < spec.Ports.Low):
		return g, invalid("ports %v is not a range such as 20000-20099", spec.Ports)
	case spec.MaxTTL < 0 || time.Duration(spec.MaxTTL) > maxTTL:
		return g, invalid("max_ttl %s is not between 0s and %v", spec.MaxTTL, maxTTL)
	}
	g.Targets = targets.Patterns()
	for _, name := range spec.Proxies {
		if name == "" || len(name) > 253 {
			return g, invalid("proxy %.80q is not a name", name)
		}
		if !slices.Contains(g.Proxies, name) {
			g.Proxies = append(g.Proxies, name)
		}
	}
	for _, q := range []struct {
		name      string
		to        *int
		asked     *int
		otherwise int
		most      int
	}{
		{"max_bindings", &g.MaxBindings, spec.MaxBindings, defaultBindings, maxQuota},
		{"max_sessions", &g.MaxSessions, spec.MaxSessions, defaultSessions, maxQuota},
		{"targets_per_minute", &g.TargetsPerMinute, spec.TargetsPerMinute, defaultTargetsPerMinute, maxPerMin},
		{"calls_per_second", &g.CallsPerSecond, spec.CallsPerSecond, defaultCallsPerSecond, maxPerSec},
	} {
		*q.to = q.otherwise
		if q.asked != nil {
			*q.to = *q.asked
		}
		if *q.to < 0 || *q.to > q.most {
			return g, invalid("%s is %d: it must lie between 0, which is no limit, and %d", q.name, *q.to, q.most)
		}
	}
	return g, nil
}

func invalid(format string, args ...any) error {
	return ohrouter.Errorf(ohrouter.InvalidRequest, format, args...)
}

func notInName(r rune) bool { return notDigit(r) && !strings.ContainsRune("._-", r) }
