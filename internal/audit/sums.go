package audit

import (
	"cmp"
	"net/netip"
	"slices"
	"sync"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
)

// How refusals are summed.
const (
	// sumEvery is how often a sum is told.
	sumEvery = time.Minute
	// How many kinds of one event have a sum of their own: of those whom nobody
	// knows, who may be anybody, of sessions together, and of each token.
	mostOfStrangers = 256
	mostOfSessions  = 1024
	mostOfToken     = 64
)

// kind is what is taken for the same. Strangers choose none of its texts, so that
// there are few kinds of one source.
type kind struct {
	event   string
	code    ohrouter.Code
	outcome ohrouter.Outcome
	source  netip.Addr // an IPv6 network: one machine may have all of its addresses
	session bool       // of a client who may connect
	token   string     // that a call was made with, and not anybody's therefore
	call    string     // with a token, as the next
	reason  string
	binding string
	proxy   string
	target  ohrouter.Target
	others  bool // all for whom there are no sums of their own
}

// class is the kinds that share a limit.
type class struct {
	event   string
	session bool
	token   string
}

func (k kind) class() class { return class{k.event, k.session, k.token} }

func (c class) most() int {
	switch {
	case c.token != "":
		return mostOfToken
	case c.session:
		return mostOfSessions
	}
	return mostOfStrangers
}

// sums takes what may come as often as somebody likes. The first of a kind is
// let through, those that follow become one line every [sumEvery]. So nobody
// fills a disk, or a queue that others need, and everything is counted.
type sums[V any] struct {
	// emit takes the last of n that were held back, or of others.
	emit func(last V, n uint64, others bool)

	telling sync.Mutex // held while sums are told; taken before mu
	mu      sync.Mutex // guards what follows; not held while emit is called
	kinds   map[kind]*sum[V]
	members map[class]int
	turn    uint64      // of the last that was held back
	timer   *time.Timer // nil while there is nothing to tell
	ended   bool
}

type sum[V any] struct {
	n    uint64 // held back, and not told yet
	last V
	turn uint64 // of last
}

// add tells whether v is let through; else it is counted.
func (s *sums[V]) add(k kind, v V) (through bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return true
	}
	if s.kinds == nil {
		s.kinds, s.members = make(map[kind]*sum[V]), make(map[class]int)
	}
	of := s.kinds[k]
	if of == nil && s.members[k.class()] >= k.class().most() {
		k = kind{event: k.event, code: k.code, outcome: k.outcome, session: k.session, token: k.token, others: true}
		of = s.kinds[k]
	}
	if of == nil {
		of = new(sum[V])
		s.kinds[k] = of
		if s.timer == nil {
			s.timer = time.AfterFunc(sumEvery, s.tell)
		}
		if !k.others {
			s.members[k.class()]++
			return true
		}
	}
	s.turn++
	of.n, of.last, of.turn = of.n+1, v, s.turn
	return false
}

// tell emits what was held back, and forgets kinds of which there was nothing.
func (s *sums[V]) tell() {
	s.telling.Lock()
	defer s.telling.Unlock()
	type told struct {
		sum[V]
		others bool
	}
	var list []told
	s.mu.Lock()
	s.timer = nil
	for k, of := range s.kinds {
		if of.n > 0 {
			list = append(list, told{*of, k.others})
			of.n = 0
			continue
		}
		delete(s.kinds, k)
		if k.others {
			continue
		}
		c := k.class()
		if s.members[c]--; s.members[c] == 0 {
			delete(s.members, c)
		}
	}
	if len(s.kinds) > 0 && !s.ended {
		s.timer = time.AfterFunc(sumEvery, s.tell)
	}
	s.mu.Unlock()
	slices.SortFunc(list, func(a, b told) int { return cmp.Compare(a.turn, b.turn) })
	for _, t := range list {
		s.emit(t.last, t.n, t.others)
	}
}

// end tells what was held back. All that comes later is let through.
func (s *sums[V]) end() {
	s.mu.Lock()
	s.ended = true
	if s.timer != nil {
		s.timer.Stop()
	}
	s.mu.Unlock()
	s.tell()
}
