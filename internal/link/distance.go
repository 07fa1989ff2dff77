package link

import "time"

// How it is found out how long making a link takes.
const (
	// measureEvery is how often it is looked how long that takes.
	measureEvery = 30 * time.Second
	// The first answer on a fresh link has taken two round trips, one to
	// connect, whoever has taken the connection on the way, and what processes
	// made of it: doubt is what they may add to a round trip, also on a machine
	// that is busy. One answer may be any time late: it takes enough of them.
	doubt  = 8 * time.Millisecond
	enough = 2
)

// shortest is the shortest time of those noted lately: a busy machine makes
// others longer.
type shortest struct {
	n              int
	since          time.Time // the last measureEvery begins
	latest, former time.Duration
}

// note takes a time, which is above 0.
func (s *shortest) note(d time.Duration, now time.Time) {
	s.n++
	if s.n == 1 || now.Sub(s.since) > measureEvery {
		s.former, s.latest, s.since = s.latest, d, now
	}
	s.latest = min(s.latest, d)
}

// time returns it, 0 while fewer than enough have been noted.
func (s *shortest) time(enough int) time.Duration {
	switch {
	case s.n < enough:
		return 0
	case s.former == 0:
		return s.latest
	}
	return min(s.latest, s.former)
}

// tookSetUp notes how long it took to connect, and to prove who both are.
func (p *pool) tookSetUp(d time.Duration, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.whole.note(d, now)
	p.known = now
	p.measure()
}

// tookAnswer notes how long it took to connect and get the first answer, without
// what the proxy has spent on it.
func (p *pool) tookAnswer(d time.Duration, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.first.note(max(d, 1), now)
	p.measure()
}

// measure brings setUp up to date. A connect alone does not tell it: who takes
// connections may be a forwarder that is near, with the proxy far behind it. The
// caller holds mu.
func (p *pool) measure() {
	p.setUp = max(p.whole.time(1), p.first.time(enough)/2-doubt)
}

// distance returns how long making a link takes at least, 0 if that is not known.
func (p *pool) distance() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.setUp
}

// unknown tells that it is time to look how long making a link takes.
func (p *pool) unknown(now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return now.Sub(p.known) > measureEvery
}

// answeredIn takes note of the first answer on a link, on which the proxy has
// spent so long, as it says: one that lies has warm links it needs not, or none.
func (l *Link) answeredIn(spent time.Duration) {
	if !l.begun.IsZero() {
		now := time.Now()
		l.proxy.pool.tookAnswer(now.Sub(l.begun)-spent, now)
		l.begun = time.Time{}
	}
}
