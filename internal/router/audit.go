package router

import (
	"net/netip"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/audit"
)

// entry returns what the audit log has of every connection to a binding's port.
func entry(event audit.Event, b ohrouter.Binding, client netip.AddrPort) audit.Entry {
	return audit.Entry{
		Event: event, Owner: string(b.Owner), OwnerName: b.OwnerName, Binding: b.ID, Target: b.Target, Port: b.Port, Client: client,
	}
}

// recordOpened puts a session into the audit log. The caller holds Router.mu,
// and s has its link.
func (s *session) recordOpened() {
	log := s.binding.router.cfg.Audit
	if log == nil {
		return
	}
	e := entry(audit.SessionOpened, s.binding.spec, s.client)
	e.Session = s.id()
	e.Proxy, e.Resolved = s.link.Peer()
	log.Record(e)
}

// recordEnd puts the end of a session into the audit log, or why it never
// began. link is nil for one that did not; err may be nil.
func (s *session) recordEnd(b ohrouter.Binding, link Link, outcome ohrouter.Outcome, err error) {
	log := s.binding.router.cfg.Audit
	if log == nil {
		return
	}
	e := entry(audit.SessionRefused, b, s.client)
	e.Session, e.Outcome = s.id(), outcome
	if link != nil {
		e.Event = audit.SessionClosed
		e.Proxy, e.Resolved = link.Peer()
		e.BytesUp, e.BytesDown, e.Duration = s.live.AB.Load(), s.live.BA.Load(), time.Since(s.start)
	}
	if err != nil {
		e.Reason = err.Error()
	}
	log.Record(e)
}

// recordRefused puts a client that has had no session into the audit log.
func (b *binding) recordRefused(client netip.AddrPort, outcome ohrouter.Outcome) {
	r := b.router
	if r.cfg.Audit == nil {
		return
	}
	r.mu.Lock()
	e := entry(audit.SessionRefused, b.spec, client)
	r.mu.Unlock()
	e.Outcome = outcome
	r.cfg.Audit.Record(e)
}
