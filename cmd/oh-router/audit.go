package main

import (
	"context"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/audit"
	"github.com/ohrouter/oh-router/internal/identity"
	"github.com/ohrouter/oh-router/internal/link"
)

// explain finds a better error for a link that was not made, and records it
// when the other side is not who it has to be.
func (p *process) explain(to link.Proxy, err error) error {
	err = identity.Explain(err)
	if code := ohrouter.CodeOf(err); code == ohrouter.Unauthorized {
		p.audit.Record(audit.Entry{Event: audit.LinkRefused, Proxy: to.Name, Address: to.Address, Code: code, Reason: err.Error()})
	}
	return err
}

// tokenExpired tells of a token whose time has ended.
func (s *routerServer) tokenExpired(t ohrouter.Token) {
	s.p.log.Info("token expired", "token", t.ID, "name", t.Name, "role", t.Role)
	s.p.audit.Record(audit.Entry{Event: audit.TokenExpired, Token: t.ID, TokenName: t.Name, Role: string(t.Role), Expires: *t.ExpiresAt})
}

// recordChanges has the audit log tell of certificates that come into use, until
// ctx ends.
func (t *trust) recordChanges(ctx context.Context, log *audit.Log) {
	for {
		changed := t.credentials.Changed()
		select {
		case <-changed:
			id := t.credentials.ID()
			log.Record(audit.Entry{Event: audit.CertificateChanged, Role: string(id.Role), Expires: t.credentials.Leaf().NotAfter, Reason: "it is " + id.String()})
		case <-ctx.Done():
			return
		}
	}
}
