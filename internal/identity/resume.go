package identity

import (
	"crypto/tls"
	"sync/atomic"
)

// Links has the settings for links to one proxy. It is made by
// [Credentials.Links] and safe for concurrent use.
//
// The key exchange is most of what a handshake costs, and the one that no
// quantum computer breaks costs three times that of a curve. But the secrets of
// a resumed session also come from those of the session that it resumes (RFC
// 8446, section 2.2): when that was safe, so is what follows, and a curve is
// enough to have fresh keys. So whoever can resume offers a curve alone, and has
// to take nothing but a resumed session for it.
type Links struct {
	whole, resumed *tls.Config
	sessions       *sessionCache
}

// Links returns the settings of a router that makes links to the proxy of a
// name, or to any proxy of the CA for "".
func (c *Credentials) Links(proxy string) *Links {
	l := &Links{whole: c.LinkClient(proxy), sessions: &sessionCache{}}
	l.sessions.ClientSessionCache = l.whole.ClientSessionCache
	l.whole.ClientSessionCache = l.sessions
	l.resumed = l.whole.Clone()
	l.resumed.CurvePreferences = []tls.CurveID{tls.CurveP256}
	return l
}

// Settings returns the settings of the next handshake; again tells that the one
// before has failed. resumes tells that they are for a session that is resumed: a
// handshake that is none has to count as failed. crypto/tls could
// refuse it by itself, but would tell the proxy that its certificate is bad,
// which has but restarted. After a failure the session is forgotten: crypto/tls
// would resume it for ever, also when it is what the proxy refuses.
func (l *Links) Settings(again bool) (settings *tls.Config, resumes bool) {
	if again {
		l.sessions.Put(domain, nil)
	}
	if !l.sessions.some.Load() {
		return l.whole, false
	}
	return l.resumed, true
}

// sessionCache knows whether there is a session to resume.
type sessionCache struct {
	tls.ClientSessionCache
	some atomic.Bool
}

// maxTicket is the most bytes of a session that is worth to be remembered. A
// proxy keeps its sessions in tickets, the router's certificates included, and
// takes 4 KiB of a router that it has not answered yet.
const maxTicket = 3 << 10

// Put implements tls.ClientSessionCache.
func (c *sessionCache) Put(key string, s *tls.ClientSessionState) {
	if s != nil {
		if ticket, _, err := s.ResumptionState(); err != nil || len(ticket) > maxTicket {
			s = nil
		}
	}
	c.some.Store(s != nil)
	c.ClientSessionCache.Put(key, s)
}
