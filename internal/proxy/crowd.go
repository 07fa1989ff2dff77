package proxy

import (
	"container/list"
	"net/netip"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
)

// crowd is the links whose routers have not said yet what they want. When there
// are too many, of one source or in all, the oldest goes: a router says what it
// wants at once, and is soon none of them, while silent ones grow old. A new
// one is always taken, so that nobody can shut the others out. Proxy.mu guards
// it.
type crowd struct {
	most, mostOfOne int // 0 no limit

	all     list.List // of *session, the oldest first
	sources map[netip.Addr]*list.List
	warned  time.Time
}

// place is where a session stands in a crowd. The zero place is nowhere.
type place struct {
	source    netip.Addr
	inAll, in *list.Element
}

// sourceOf returns what counts as one source: an IPv4 address, or an IPv6
// network, all of whose addresses one machine may have.
func sourceOf(a netip.Addr) netip.Addr {
	if a.Is4() {
		return a
	}
	p, err := a.WithZone("").Prefix(64)
	if err != nil {
		return a // it is no address
	}
	return p.Addr()
}

// join adds a session, unless it is there, and returns the one that has to go;
// nil for none.
func (c *crowd) join(s *session) (out *session) {
	if s.place.in != nil {
		return nil
	}
	source := sourceOf(s.router.Addr())
	of := c.sources[source]
	if of == nil {
		of = new(list.List)
		if c.sources == nil {
			c.sources = make(map[netip.Addr]*list.List)
		}
		c.sources[source] = of
	}
	s.place = place{source: source, inAll: c.all.PushBack(s), in: of.PushBack(s)}
	switch {
	case c.mostOfOne > 0 && of.Len() > c.mostOfOne:
		out = of.Front().Value.(*session)
	case c.most > 0 && c.all.Len() > c.most:
		out = c.all.Front().Value.(*session)
	default:
		return nil
	}
	c.leave(out)
	return out
}

// leave takes a session out, if it is there.
func (c *crowd) leave(s *session) {
	if s.place.in == nil {
		return
	}
	of := c.sources[s.place.source]
	of.Remove(s.place.in)
	if of.Len() == 0 {
		delete(c.sources, s.place.source)
	}
	c.all.Remove(s.place.inAll)
	s.place = place{}
}

// heard takes a session out of the crowd.
func (p *Proxy) heard(s *session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.crowd.leave(s)
}

// warnEvery is how often the log tells of a crowd.
const warnEvery = time.Minute

// wait adds a session to those that have not said what they want, and cuts the
// oldest when they are too many. The caller holds mu.
func (p *Proxy) wait(s *session) {
	out := p.crowd.join(s)
	if out == nil {
		return
	}
	out.cut(ohrouter.Outcome(ohrouter.QuotaExceeded))
	p.dropped.Inc()
	if now := time.Now(); now.Sub(p.crowd.warned) >= warnEvery {
		p.crowd.warned = now
		source, waiting := out.router.Addr(), p.crowd.all.Len()
		p.wg.Go(func() { // a log may be slow, and this is where sessions are carried
			p.cfg.Log.Warn("too many links say nothing: the oldest are dropped", "of", source.String(), "links", waiting)
		})
	}
}
