package registry

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
)

// checked returns the spec in its one spelling, or an error with code
// [ohrouter.InvalidRequest].
func (r *Registry) checked(spec ohrouter.BindingSpec) (ohrouter.BindingSpec, error) {
	if spec.Target.Host == "" || spec.Target.Port == 0 {
		return spec, ohrouter.Errorf(ohrouter.InvalidRequest, "a binding needs a target, HOST:PORT")
	}
	if spec.Port != 0 && !r.ports.contains(spec.Port) {
		return spec, ohrouter.Errorf(ohrouter.InvalidRequest, "port %d is outside the router's range %s (--ports)", spec.Port, r.ports)
	}
	if p := spec.ProxyProtocol; p != "" && p != ohrouter.ProxyProtocolV2 {
		return spec, ohrouter.Errorf(ohrouter.InvalidRequest, "proxy_protocol %.40q is none: there is %s", p, ohrouter.ProxyProtocolV2)
	}
	if err := limits(spec.IdleTimeout, &spec.TTL, &spec.MaxSessions); err != nil {
		return spec, err
	}
	var err error
	if spec.Allow, err = canonical(spec.Allow); err != nil {
		return spec, err
	}
	spec.DefaultAllow, err = canonical(spec.DefaultAllow)
	return spec, err
}

// limits refuses negative values; nil stands for not given.
func limits(idle, ttl *ohrouter.Duration, sessions *int) error {
	switch {
	case idle != nil && *idle < 0:
		return ohrouter.Errorf(ohrouter.InvalidRequest, "idle_timeout is %s: it cannot be negative; 0 means never", *idle)
	case ttl != nil && *ttl < 0:
		return ohrouter.Errorf(ohrouter.InvalidRequest, "ttl is %s: it cannot be negative; 0 means none", *ttl)
	case sessions != nil && *sessions < 0:
		return ohrouter.Errorf(ohrouter.InvalidRequest, "max_sessions is %d: it cannot be negative; 0 means no limit", *sessions)
	}
	return nil
}

// canonical returns the one spelling of a set of prefixes: masked, IPv4-mapped
// ones as IPv4, sorted, each once. An empty set is nil.
func canonical(allow []netip.Prefix) ([]netip.Prefix, error) {
	var set []netip.Prefix
	for _, p := range allow {
		if !p.IsValid() {
			return nil, ohrouter.Errorf(ohrouter.InvalidRequest, "allow holds something that is not a CIDR such as 10.0.0.0/8")
		}
		if p.Addr().Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
		set = append(set, p.Masked())
	}
	slices.SortFunc(set, netip.Prefix.Compare)
	return slices.Compact(set), nil
}

// wantsCheck tells whether the call asks for a check; it does by default.
func wantsCheck(spec ohrouter.BindingSpec) bool { return spec.Check == nil || *spec.Check }

// stored returns a new binding's facts as the spec and the defaults make them.
func (r *Registry) stored(spec ohrouter.BindingSpec) *Stored {
	r.mu.Lock()
	idle := ohrouter.Duration(r.idleTimeout)
	r.mu.Unlock()
	if spec.IdleTimeout != nil {
		idle = *spec.IdleTimeout
	}
	return &Stored{
		ID:          newID(),
		Proxy:       spec.Proxy,
		Pinned:      spec.Proxy != "",
		IdleTimeout: idle,
		TTL:         spec.TTL,
		Allow:       spec.Allow,
		MaxSessions: spec.MaxSessions,
		Labels:      spec.Labels,

		ProxyProtocol: spec.ProxyProtocol,
	}
}

// agrees returns nil when the binding is what the spec asks for, else the
// conflict. What the spec leaves out, or gives as zero, is as it is.
func (f *facts) agrees(spec ohrouter.BindingSpec) error {
	differs := func(field string, has any, some, patch bool) error {
		with := "without " + field
		if some {
			with = fmt.Sprintf("with %s %v", field, has)
		}
		how := "unbind it first"
		if patch {
			how = fmt.Sprintf("PATCH /v1/bindings/%s changes it, or unbind it first", f.kept.ID)
		}
		return ohrouter.Errorf(ohrouter.Conflict, "%s is bound already as %s, %s; %s", f.target, f.kept.ID, with, how)
	}
	switch {
	case spec.Proxy != "" && spec.Proxy != f.kept.Proxy:
		return differs("proxy", fmt.Sprintf("%q", f.kept.Proxy), f.kept.Proxy != "", false)
	case spec.Port != 0 && spec.Port != f.port:
		return differs("port", f.port, true, false)
	case spec.IdleTimeout != nil && *spec.IdleTimeout != 0 && *spec.IdleTimeout != f.kept.IdleTimeout:
		return differs("idle_timeout", f.kept.IdleTimeout, f.kept.IdleTimeout != 0, true)
	case spec.TTL != 0 && spec.TTL != f.kept.TTL:
		return differs("ttl", f.kept.TTL, f.kept.TTL != 0, true)
	case len(spec.Allow) > 0 && !slices.Equal(spec.Allow, f.kept.Allow):
		return differs("allow", f.kept.Allow, len(f.kept.Allow) > 0, true)
	case spec.MaxSessions != 0 && spec.MaxSessions != f.kept.MaxSessions:
		return differs("max_sessions", f.kept.MaxSessions, f.kept.MaxSessions != 0, true)
	case spec.ProxyProtocol != "" && spec.ProxyProtocol != f.kept.ProxyProtocol:
		return differs("proxy_protocol", f.kept.ProxyProtocol, f.kept.ProxyProtocol != "", false)
	}
	return nil
}

// patched returns a copy of kept with the patch applied.
// It ends with its owner's token.
func patched(kept *Stored, p ohrouter.BindingPatch, now time.Time, token *time.Time) (*Stored, error) {
	if err := limits(p.IdleTimeout, p.TTL, p.MaxSessions); err != nil {
		return nil, err
	}
	next := *kept
	if p.IdleTimeout != nil {
		next.IdleTimeout = *p.IdleTimeout
	}
	if p.TTL != nil {
		next.TTL, next.ExpiresAt = *p.TTL, expiry(*p.TTL, now, token)
	}
	if p.Allow != nil {
		allow, err := canonical(*p.Allow)
		if err != nil {
			return nil, err
		}
		next.Allow = allow
	}
	if p.MaxSessions != nil {
		next.MaxSessions = *p.MaxSessions
	}
	if p.Labels != nil {
		next.Labels = *p.Labels
	}
	return &next, nil
}

// expiry returns when a binding ends: with a ttl that starts at now, but not
// later than its owner's token, if that ends; zero: never.
func expiry(ttl ohrouter.Duration, now time.Time, token *time.Time) time.Time {
	var end time.Time
	if ttl != 0 {
		end = now.Add(time.Duration(ttl))
	}
	if token != nil && (end.IsZero() || token.Before(end)) {
		end = *token
	}
	return end
}
