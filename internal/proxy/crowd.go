package proxy

import (
	"time"

	ohrouter "github.com/ohrouter/oh-router"
)

// heard takes a session out of the crowd of those whose routers have not said
// yet what they want.
func (p *Proxy) heard(s *session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.crowd.Leave(&s.place)
}

// waits notes that a loop has a warm link, of which a drain is to tell it. It
// returns false when that has begun.
func (p *Proxy) waits(s *session) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.crowd.Leave(&s.place)
	s.warm = !p.draining
	return s.warm
}

// warnEvery is how often the log tells of a crowd.
const warnEvery = time.Minute

// dropped is why a link of a crowd goes.
const dropped = ohrouter.Outcome(ohrouter.QuotaExceeded)

var errDropped = ohrouter.Errorf(ohrouter.QuotaExceeded, "it was the oldest of too many links that said nothing")

// wait adds a session to those that have not said what they want, and cuts the
// oldest when they are too many. The caller holds mu.
func (p *Proxy) wait(s *session) {
	s.place.Who = s
	oldest := p.crowd.Join(&s.place, s.router.Addr())
	if oldest == nil {
		return
	}
	out := oldest.Who
	out.cut(dropped)
	p.dropped.Inc()
	if now := time.Now(); now.Sub(p.warned) >= warnEvery {
		p.warned = now
		source, waiting := out.router.Addr(), p.crowd.Len()
		p.wg.Go(func() { // a log may be slow, and this is where sessions are carried
			p.cfg.Log.Warn("too many links say nothing: the oldest are dropped", "of", source.String(), "links", waiting)
		})
	}
}
