package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ohrouter/oh-router/internal/api"
	"github.com/ohrouter/oh-router/internal/audit"
	"github.com/ohrouter/oh-router/internal/config"
	"github.com/ohrouter/oh-router/internal/identity"
	"github.com/ohrouter/oh-router/internal/link"
)

// trust is what a role proves who it is with, and how it knows others. The zero
// trust is that of a role on loopback: links and API are plain.
type trust struct {
	credentials *identity.Credentials
	revocations *identity.Revocations // of a router that keeps state
	authority   *identity.Authority   // of a router that has the CA
	renewer     *identity.Renewer     // of a proxy that has enrolled
}

// openTrust opens the router's identity, and the CA if it has it.
func (s *routerServer) openTrust(ctx context.Context) (err error) {
	state, t := s.p.cfg.Router.State, &s.trust
	var revoked func(*x509.Certificate) bool
	if s.store != nil {
		if t.revocations, err = identity.LoadRevocations(ctx, s.store); err != nil {
			return err
		}
		revoked = t.revocations.Revoked
	}
	if s.store != nil && identity.HasAuthority(state) {
		if t.authority, err = identity.OpenAuthority(state, s.store, t.revocations, s.p.log); err != nil {
			return err
		}
	}
	if t.credentials, err = s.p.credentials(identity.Router, state, revoked); err != nil || t.credentials == nil {
		return err
	}
	if s.p.cfg.LinkSecurity == config.ExternalSecurity {
		return nil
	}
	s.dialer.Explain = s.p.explain
	s.dialer.TLS = t.links()
	return nil
}

// links returns the TLS settings of links to each proxy, which it keeps: they
// hold the sessions that make handshakes short.
func (t *trust) links() func(p link.Proxy, again bool) (*tls.Config, bool) {
	var mu sync.Mutex // guards kept
	kept := make(map[link.Proxy]*identity.Links)
	return func(p link.Proxy, again bool) (*tls.Config, bool) {
		mu.Lock()
		defer mu.Unlock()
		if kept[p] == nil {
			name := p.Name
			if name == p.Address {
				name = "" // it was given none: any proxy of the CA will do
			}
			kept[p] = t.credentials.Links(name)
		}
		return kept[p].Settings(again)
	}
}

// https returns the TLS settings of the API; nil for plain HTTP.
func (t *trust) https() *tls.Config {
	if t.credentials == nil {
		return nil
	}
	return t.credentials.HTTPSServer()
}

// serve lets the API enrol, renew and revoke, and be called by the names in the
// certificate. secured tells whether links use TLS.
func (t *trust) serve(c *api.Config, secured bool) {
	if t.authority != nil {
		c.Authority = t.authority
	}
	if t.revocations != nil && secured { // else links have no certificates, and nothing would end
		c.Revoke = t.revocations.Revoke
	}
	if t.credentials != nil {
		c.Hosts = slices.Concat(c.Hosts, t.credentials.Leaf().DNSNames)
	}
}

// run keeps the identity up to date until ctx ends, and ends links of proxies
// whose certificates are revoked.
func (t *trust) run(ctx context.Context, group *errgroup.Group, d *link.Dialer, log *audit.Log) {
	keep := func(run func(context.Context)) { group.Go(func() error { run(ctx); return nil }) }
	if t.credentials != nil {
		keep(t.credentials.Run)
		keep(func(ctx context.Context) { t.recordChanges(ctx, log) })
	}
	if t.authority != nil {
		keep(t.authority.Run)
	}
	if t.renewer != nil {
		keep(t.renewer.Run)
	}
	if t.revocations != nil && d != nil {
		keep(func(ctx context.Context) {
			for ctx.Err() == nil {
				changed := t.revocations.Changed() // before Cut: what is revoked meanwhile is not missed
				d.Cut(t.revocations.Revoked)
				select {
				case <-changed:
				case <-ctx.Done():
				}
			}
		})
	}
}

// soon is how long before its end a certificate is worth a look: it should have
// been renewed long before.
const soon = 48 * time.Hour

// parts is what /readyz shows of the identity.
func (t *trust) parts() []api.Part {
	if t.credentials == nil {
		return nil
	}
	leaf := t.credentials.Leaf()
	part := api.Part{Name: "identity", OK: time.Until(leaf.NotAfter) > soon, Detail: t.credentials.ID().String() + " until " + leaf.NotAfter.UTC().Format(time.RFC3339)}
	if err := t.credentials.Trouble(); err != nil {
		part.OK, part.Detail = false, part.Detail+"; "+err.Error()
	}
	return []api.Part{part}
}
