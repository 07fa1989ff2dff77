package relay

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/ohrouter/oh-router/internal/socket"
)

// polling is what a loop knows of its pauses. In short ones it asks for events
// again and again: to sleep, and to be woken, takes longer than these last, most
// of all where a processor that sleeps goes back to a hypervisor.
type polling struct {
	limit  time.Duration // a pause within it is short; 0: none is
	kind   kind          // of this pause
	began  time.Time     // when it did
	after  kind          // what pauses are that begin soon
	since  time.Time     // after this; zero: after the next one begins
	habit  [kinds]int    // by so many, at most, more of a kind were short than not, lately
	worked time.Duration // for so long, lately
	crowd  int           // how often, lately, who went first kept the processor
	others time.Time     // until then the processor is left to others
}

// How many more pauses have to be short, and how many are remembered: a loop
// that sees a short pause and a long one by turns does not begin to poll.
const (
	fewShort  = 2
	manyShort = 8
)

// longPause is after which a loop has no habits.
const longPause = time.Millisecond

// A loop has much to do when its turns took a tenth of the last 20 ms or so.
const (
	lately = 20 * time.Millisecond
	much   = lately / 10
)

// kind is what a pause is. Right after a session has begun to be set up, what it
// waits for is under way, but takes the other hop and the target; right after one
// has ended, the next one may come. So many times as long is short there.
type kind int

const (
	ordinary kind = iota
	afterBegin
	afterEnd
	kinds
)

const shortAtEnds = 4

// A loop that polls lets everybody go first who waits for its processor. Peers
// of its sessions give it back soon. Who has it for a slice of the scheduler's has
// work of his own, and would keep a loop waiting that a wakeup puts before him: when
// that happens again and again, the loop sleeps in its pauses for a while.
const (
	slice    = 500 * time.Microsecond // the kernel's is from 700 on
	crowded  = 8                      // a slice counts half of it
	leaveFor = 200 * time.Millisecond
)

// session takes note of one that begins or ends in this turn.
func (p *polling) session(k kind) { p.after, p.since = k, time.Time{} }

// pause takes note of a pause that begins, before which the loop has worked for so
// long.
func (p *polling) pause(now time.Time, worked time.Duration) {
	p.worked += min(worked, lately) - p.worked*min(now.Sub(p.began), lately)/lately
	if p.since.IsZero() {
		p.since = now
	}
	p.kind, p.began = ordinary, now
	if now.Sub(p.since) < shortAtEnds*p.limit {
		p.kind = p.after
	}
}

// short is below how much a pause as this one is short.
func (p *polling) short() time.Duration {
	if p.kind != ordinary {
		return min(shortAtEnds*p.limit, longPause)
	}
	return p.limit
}

// paused takes note of the end of a pause, and tells whether it was one of a busy
// moment. After any other, a long one, nothing is known of the next: a session now
// and then is no habit.
func (p *polling) paused(now time.Time) (busy bool) {
	habit := &p.habit[p.kind]
	switch d := now.Sub(p.began); {
	case d >= longPause:
		p.habit = [kinds]int{}
		return false
	case d < p.short():
		*habit = min(*habit+1, manyShort)
	default:
		*habit = max(*habit-1, 0)
	}
	return true
}

// rare tells whether the loop has had little to do lately.
func (p *polling) rare() bool { return p.worked < much }

// worthwhile tells whether to poll in this pause.
func (p *polling) worthwhile() bool {
	return p.habit[p.kind] >= fewShort && !p.began.Before(p.others)
}

// letGo takes note of who went first, and tells whether to go on.
func (p *polling) letGo(now time.Time, d time.Duration) bool {
	if d < slice {
		p.crowd = max(p.crowd-1, 0)
		return true
	}
	if p.crowd += crowded / 2; p.crowd >= crowded {
		p.crowd, p.others = 0, now.Add(leaveFor)
	}
	return false
}

// poll returns events that come within a short pause, or within a timeout in ms
// unless it is negative.
func (l *loop) poll(events []unix.EpollEvent, timeout int) (n int, err error) {
	limit := l.polling.short()
	if timeout >= 0 {
		limit = min(limit, time.Duration(timeout)*time.Millisecond)
	}
	for now := l.polling.began; now.Sub(l.polling.began) < limit; {
		if n, err = socket.Happened(l.epoll, events, 0); n != 0 {
			return n, err
		}
		socket.Yield()
		before := now
		now = time.Now()
		if !l.polling.letGo(now, now.Sub(before)) {
			break
		}
	}
	return 0, nil
}
