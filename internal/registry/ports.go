package registry

import (
	"slices"
	"strconv"
	"sync"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
)

// slot is what is known of one port. Its fields are guarded by Registry.mu.
type slot struct {
	port uint16
	// saving makes writes of this port's record follow each other; it is taken
	// before Registry.mu and held while the store writes.
	saving sync.Mutex

	claim                // whom it serves or last served; zero if nobody yet
	held       bool      // reserved, bound or draining: nobody else gets it
	kept       *Stored   // the active binding that uses it
	endedAt    time.Time // end of the last binding; zero while one is active
	restsUntil time.Time
}

// record returns what a store keeps of the slot.
func (s *slot) record() Record {
	if s.kept != nil {
		return Record{Port: s.port, Owner: s.owner, Target: s.target, Binding: s.kept}
	}
	return Record{Port: s.port, Owner: s.owner, Target: s.target, EndedAt: s.endedAt, RestsUntil: s.restsUntil}
}

// known tells whether the port has ever served a target.
func (s *slot) known() bool { return s.target != ohrouter.Target{} }

// ports is the range of mapped ports and what each was last used for.
type ports struct {
	low, high uint16
	slots     []*slot           // by port-low; nil until first used
	old       map[claim][]*slot // slots that are not held, by the claim they last served
	next      int               // index in slots where the next search begins
}

func newPorts(low, high uint16) *ports {
	return &ports{
		low: low, high: high,
		slots: make([]*slot, int(high)-int(low)+1),
		old:   make(map[claim][]*slot),
	}
}

// contains tells whether port lies in the range.
func (p *ports) contains(port uint16) bool { return port >= p.low && port <= p.high }

// String returns "20000-29999".
func (p *ports) String() string {
	return strconv.Itoa(int(p.low)) + "-" + strconv.Itoa(int(p.high))
}

// at returns the slot of a port of the range.
func (p *ports) at(port uint16) *slot {
	i := port - p.low
	if p.slots[i] == nil {
		p.slots[i] = &slot{port: port}
	}
	return p.slots[i]
}

// hold takes s away from everybody else.
func (p *ports) hold(s *slot) {
	s.held = true
	if !s.known() {
		return
	}
	rest := slices.DeleteFunc(p.old[s.claim], func(o *slot) bool { return o == s })
	if len(rest) == 0 {
		delete(p.old, s.claim)
	} else {
		p.old[s.claim] = rest
	}
}

// unhold gives s back; it stays the port of the target that it last served.
func (p *ports) unhold(s *slot) {
	s.held = false
	if s.known() {
		p.old[s.claim] = append(p.old[s.claim], s)
	}
}

// search is one binding's way through the candidates for its port.
type search struct {
	claim
	asked  uint16              // 0 any
	within *ohrouter.PortRange // nil the whole range
	tried  map[*slot]bool      // taken by other programs
}

func newSearch(c claim, asked uint16, within *ohrouter.PortRange) *search {
	return &search{claim: c, asked: asked, within: within, tried: make(map[*slot]bool)}
}

// fits tells whether s is still to be tried.
func (q *search) fits(s *slot) bool {
	return !q.tried[s] && (q.within == nil || q.within.Contains(s.port))
}

// reserve holds the best port that is left for the search: the one asked for,
// else the target's former one, else one that never served another target,
// else one whose rest is over.
func (p *ports) reserve(q *search, now time.Time) (*slot, error) {
	s, err := p.best(q, now)
	if err != nil {
		return nil, err
	}
	p.hold(s)
	return s, nil
}

func (p *ports) best(q *search, now time.Time) (*slot, error) {
	if q.asked != 0 {
		return p.exactly(q, now)
	}
	if s := p.former(q); s != nil {
		return s, nil
	}
	fresh := func(s *slot) bool { return !s.known() }
	rested := func(s *slot) bool { return !now.Before(s.restsUntil) }
	for _, good := range []func(*slot) bool{fresh, rested} {
		if s := p.following(q, good); s != nil {
			return s, nil
		}
	}
	return nil, p.exhausted(q, now)
}

// exactly returns the slot that the search asks for, or the conflict.
func (p *ports) exactly(q *search, now time.Time) (*slot, error) {
	s := p.at(q.asked)
	switch {
	case q.tried[s]:
		return nil, ohrouter.Errorf(ohrouter.Conflict, "port %d is in use by another program on the router's machine", s.port)
	case s.held:
		return nil, ohrouter.Errorf(ohrouter.Conflict, "port %d is in use by another binding", s.port)
	case s.known() && s.claim != q.claim && now.Before(s.restsUntil):
		return nil, ohrouter.Errorf(ohrouter.Conflict, "port %d served another target or owner and rests until %s",
			s.port, s.restsUntil.UTC().Format(time.RFC3339))
	}
	return s, nil
}

// former returns the port that the target had last, of those that it could
// have again; resting or not.
func (p *ports) former(q *search) *slot {
	var last *slot
	for _, s := range p.old[q.claim] {
		if q.fits(s) && (last == nil || s.endedAt.After(last.endedAt)) {
			last = s
		}
	}
	return last
}

// following returns the next slot of the range that nobody holds and that is
// good; nil when there is none.
func (p *ports) following(q *search, good func(*slot) bool) *slot {
	for n := range len(p.slots) {
		i := (p.next + n) % len(p.slots)
		s := p.slots[i]
		if s == nil {
			s = p.at(p.low + uint16(i))
		}
		if !s.held && q.fits(s) && good(s) {
			p.next = (i + 1) % len(p.slots)
			return s
		}
	}
	return nil
}

// free counts the ports that any target could have now.
func (p *ports) free(now time.Time) int {
	n := 0
	for _, s := range p.slots {
		if s == nil || !s.held && !now.Before(s.restsUntil) {
			n++
		}
	}
	return n
}

func (p *ports) exhausted(q *search, now time.Time) error {
	var bound, resting int
	var first time.Time // when the first rest ends
	for _, s := range p.slots {
		switch {
		case s == nil || !q.fits(s):
		case s.held:
			bound++
		case now.Before(s.restsUntil):
			resting++
			if first.IsZero() || s.restsUntil.Before(first) {
				first = s.restsUntil
			}
		}
	}
	soonest := ""
	if resting > 0 {
		soonest = " (the first until " + first.UTC().Format(time.RFC3339) + ")"
	}
	among := p.String()
	if q.within != nil {
		among = q.within.String() + ", which the token's grant has,"
	}
	return ohrouter.Errorf(ohrouter.PortsExhausted,
		"no port of %s is left: %d bound, %d resting%s, %d in use by other programs; "+
			"widen --ports, or shorten --quarantine: so long a port rests that is unbound", among, bound, resting, soonest, len(q.tried))
}
