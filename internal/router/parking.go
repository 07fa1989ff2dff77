package router

import (
	"container/list"
	"context"
	"time"
)

// maxParked is how many links may wait for their first client. It stays below
// what a proxy takes of one router (1,024), checks under way included.
const maxParked = 768

// parkingLot holds the links of checks until a client comes. It does no I/O:
// the links that it gives back are the caller's to close. Router.mu guards it.
type parkingLot struct {
	byBinding map[string]*list.Element
	oldest    list.List // of *parkedLink
}

type parkedLink struct {
	binding string
	link    Link
	timer   *time.Timer
}

// put parks a link for d and calls expired then. It returns the links that have
// to go: the one that was parked for the binding before, and the oldest ones
// above the limit.
func (l *parkingLot) put(id string, link Link, d time.Duration, expired func(*parkedLink)) (gone []*parkedLink) {
	if p := l.take(id); p != nil {
		gone = append(gone, p)
	}
	for l.oldest.Len() >= maxParked {
		gone = append(gone, l.take(l.oldest.Front().Value.(*parkedLink).binding))
	}
	p := &parkedLink{binding: id, link: link}
	if l.byBinding == nil {
		l.byBinding = make(map[string]*list.Element)
	}
	l.byBinding[id] = l.oldest.PushBack(p)
	p.timer = time.AfterFunc(d, func() { expired(p) })
	return gone
}

// take returns the link that is parked for a binding, or nil.
func (l *parkingLot) take(id string) *parkedLink {
	e := l.byBinding[id]
	if e == nil {
		return nil
	}
	delete(l.byBinding, id)
	p := l.oldest.Remove(e).(*parkedLink)
	p.timer.Stop()
	return p
}

// remove takes this very link out and tells whether it was there.
func (l *parkingLot) remove(p *parkedLink) bool {
	e := l.byBinding[p.binding]
	if e == nil || e.Value != p {
		return false
	}
	l.take(p.binding)
	return true
}

// takeAll empties the lot.
func (l *parkingLot) takeAll() (all []*parkedLink) {
	for l.oldest.Len() > 0 {
		all = append(all, l.take(l.oldest.Front().Value.(*parkedLink).binding))
	}
	return all
}

// adopt makes a parked link the client's, if there is one and it still stands.
func (s *session) adopt(ctx context.Context, p *parkedLink, preamble []byte) Link {
	r, client := s.binding.router, s.dialling.client
	if len(preamble) > 0 {
		client = nil // the target may wait for that, and the client for the target
	}
	if p == nil || !p.link.Alive() || p.link.Ack(ctx, client) != nil || !sent(p.link, preamble) {
		r.discard(p)
		return nil
	}
	r.cfg.Descriptors.Release(1) // the session has its own
	return p.link
}
