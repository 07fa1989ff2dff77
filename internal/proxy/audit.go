package proxy

import (
	"cmp"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/audit"
	"github.com/ohrouter/oh-router/internal/policy"
	"github.com/ohrouter/oh-router/internal/relay"
)

// entry returns what the audit log has of every link.
func (s *session) entry(event audit.Event) audit.Entry {
	e := audit.Entry{Event: event, Router: s.router}
	if !s.asked() {
		return e
	}
	e.Session, e.Target = s.req.Session, s.req.Target
	e.RouterName = s.routerName
	return e
}

// nameRouter notes who the router has proved to be; leaf may be nil.
func (s *session) nameRouter(leaf *x509.Certificate) {
	if p := s.proxy; p.cfg.Audit != nil && p.cfg.Name != nil && leaf != nil {
		s.routerName = p.cfg.Name(leaf)
	}
}

// recordOpened puts a session into the audit log that stands now.
func (s *session) recordOpened() {
	p := s.proxy
	if p.cfg.Audit == nil {
		return
	}
	e := s.entry(audit.SessionOpened)
	p.mu.Lock()
	s.opened, e.Resolved = true, s.at
	p.mu.Unlock()
	p.cfg.Audit.Record(e)
}

// recordEnded puts the end of a session into the audit log, if it has begun, and
// of a link that was dropped before.
func (s *session) recordEnded(end relay.End) {
	p := s.proxy
	if p.cfg.Audit == nil {
		return
	}
	p.mu.Lock()
	opened, at, why := s.opened, s.at, s.why
	p.mu.Unlock()
	if !opened {
		if !s.asked() && why == dropped {
			s.recordRefused(audit.LinkRefused, errDropped)
		}
		return
	}
	e := s.entry(audit.SessionClosed)
	e.Resolved, e.Outcome = at, why
	e.BytesUp, e.BytesDown, e.Duration = s.live.AB.Load(), s.live.BA.Load(), time.Since(s.start)
	if why == "" {
		e.Outcome = outcomeOf(end)
		if end.Err != nil {
			e.Reason = end.Err.Error()
		}
	}
	p.cfg.Audit.Record(e)
}

// outcomeOf names how a session has ended. What a router does to a link counts
// as the client's.
func outcomeOf(end relay.End) ohrouter.Outcome {
	switch {
	case end.Err == nil && end.Side == relay.A:
		return ohrouter.ClientClosed
	case end.Err == nil:
		return ohrouter.TargetClosed
	case end.Side == relay.A:
		return ohrouter.ClientReset
	}
	return ohrouter.TargetReset
}

// recordRefused puts a link into the audit log that is to have no session, and
// why.
func (s *session) recordRefused(event audit.Event, err error) {
	if log := s.proxy.cfg.Audit; log != nil {
		e := s.entry(event)
		e.Code, e.Reason = ohrouter.CodeOf(err), err.Error()
		log.Record(e)
	}
}

// recordAllow puts a new allow-list into the audit log, if it differs.
func (p *Proxy) recordAllow(was, is *policy.List) {
	former, now := was.Patterns(), is.Patterns()
	if p.cfg.Audit == nil || slices.Equal(former, now) {
		return
	}
	p.cfg.Audit.Record(audit.Entry{Event: audit.AllowListChanged, Reason: fmt.Sprintf("patterns: %d, and %d before; new: %s; gone: %s",
		len(now), len(former), without(now, former), without(former, now))})
}

// without returns the patterns of a list that are not in another.
func without(list, other []string) string {
	in := make(map[string]bool, len(other))
	for _, s := range other {
		in[s] = true
	}
	var rest []string
	for _, s := range list {
		if !in[s] {
			rest = append(rest, s)
		}
	}
	return cmp.Or(strings.Join(rest, ","), "none")
}
