package registry

import (
	"context"
	"log/slog"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/audit"
)

// tokenOf returns the token of an owner, or an error with code
// [ohrouter.Unauthorized] once that is not valid any more. What has no owner is
// nobody's, and has no limits. It is called with mu held.
func (r *Registry) tokenOf(owner string) (ohrouter.Token, error) {
	if owner == "" || r.cfg.Owners == nil {
		return ohrouter.Token{}, nil
	}
	token, valid := r.cfg.Owners.Token(owner)
	if !valid {
		return ohrouter.Token{}, ohrouter.Errorf(ohrouter.Unauthorized, "the token has ended or was revoked")
	}
	return token, nil
}

// logOf returns the log for what happens to a claim.
func (r *Registry) logOf(c claim) *slog.Logger {
	if c.owner == "" {
		return r.log
	}
	return r.log.With("owner", c.owner)
}

// record puts what has become of a binding into the audit log.
func (r *Registry) record(ctx context.Context, event audit.Event, b *binding, reason string) {
	r.mu.Lock()
	f := b.facts
	r.mu.Unlock()
	r.cfg.Audit.Record(audit.Entry{
		Event: event, By: audit.By(ctx), Owner: f.owner, OwnerName: f.ownerName,
		Binding: f.kept.ID, Target: f.target, Port: f.port, Allow: f.kept.Allow, Expires: f.kept.ExpiresAt, Proxy: f.kept.Proxy,
		Reason: reason,
	})
}

// granted returns the spec of a new binding, with what the grant says where the
// spec says nothing.
func granted(spec ohrouter.BindingSpec, g ohrouter.Grant) ohrouter.BindingSpec {
	if spec.Proxy == "" && len(g.Proxies) > 0 {
		spec.Proxy = g.Proxies[0]
	}
	if spec.TTL == 0 {
		spec.TTL = g.MaxTTL
	}
	if len(spec.Allow) == 0 {
		spec.Allow = spec.DefaultAllow
	}
	return spec
}

// mayCreate returns why there can be no new binding. f is the flight that there
// is on it already: what that has been asked is not asked again. It is called
// with mu held, so that no two binds find room for one.
func (r *Registry) mayCreate(spec ohrouter.BindingSpec, g ohrouter.Grant, f *flight) error {
	if f != nil {
		return nil
	}
	if spec.Proxy != "" && r.cfg.KnowsProxy != nil && !r.cfg.KnowsProxy(spec.Proxy) {
		return ohrouter.Errorf(ohrouter.NoProxy, "no proxy is named %.40q; 'oh-router proxies' (GET /v1/proxies) lists them", spec.Proxy)
	}
	if spec.Owner == "" || r.cfg.Owners == nil {
		return nil
	}
	if g.MaxBindings > 0 && r.owned(spec.Owner) >= g.MaxBindings {
		return ohrouter.Errorf(ohrouter.QuotaExceeded, "the token may have %d bindings, and has them; release one first", g.MaxBindings)
	}
	return r.cfg.Owners.NewTarget(spec.Owner, spec.Target)
}

// owned counts the bindings of an owner: those that drain hold a port, too, and
// those that are being made will. It is called with mu held.
func (r *Registry) owned(owner string) int {
	n := 0
	for _, b := range r.byID {
		if b.owner == owner {
			n++
		}
	}
	for c, f := range r.flights {
		if c.owner == owner && f.creates && r.byClaim[c] == nil {
			n++
		}
	}
	return n
}
