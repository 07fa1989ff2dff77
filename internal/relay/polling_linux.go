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
	habit  int           // by so many, at most, more pauses were short than not, lately
	crowd  int           // how often, lately, who went first kept the processor
	others time.Time     // until then the processor is left to others
}

// How many more pauses have to be short, and how many are remembered: a loop
// that sees a short pause and a long one by turns does not begin to poll.
const (
	fewShort  = 2
	manyShort = 8
)

// A loop that polls lets everybody go first who waits for its processor. Peers
// of its sessions give it back soon. Who has it for a slice of the scheduler's has
// work of his own, and would keep a loop waiting that a wakeup puts before him: when
// that happens again and again, the loop sleeps in its pauses for a while.
const (
	slice    = 500 * time.Microsecond // the kernel's is from 700 on
	crowded  = 8                      // a slice counts half of it
	leaveFor = 200 * time.Millisecond
)

// paused takes note of a pause.
func (p *polling) paused(d time.Duration) {
	if d < p.limit {
		p.habit = min(p.habit+1, manyShort)
	} else {
		p.habit = max(p.habit-1, 0)
	}
}

// worthwhile tells whether to poll.
func (p *polling) worthwhile(now time.Time) bool {
	return p.habit >= fewShort && !now.Before(p.others)
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

// poll returns events that come within a short pause.
func (l *loop) poll(events []unix.EpollEvent) (n int, err error) {
	began := time.Now()
	for now := began; now.Sub(began) < l.polling.limit; {
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
