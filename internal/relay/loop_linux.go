package relay

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ohrouter/oh-router/internal/fair"
	"github.com/ohrouter/oh-router/internal/socket"
)

// loop is a goroutine that waits for events of many sessions and moves their
// bytes. Everything of a session happens on its loop's goroutine, so that a
// session needs no lock.
type loop struct {
	*loops
	epoll, wakeup int
	sleeper       *sleeper
	buf           [loopBuffer]byte // what one read moves at most
	turn          uint64           // its number
	now           time.Time        // when it began
	worked        time.Duration    // how long the one right before took
	polling       polling
	looked        time.Time // at openings and young, last
	busy          []*pair   // have had their turn, and have more to do
	losing        map[*pair]losing
	opening       []*pair          // their sessions do not stand yet
	resting       int              // of these, those whose next request may take its time
	spare         []*opening       // for those to come
	accepted      uint64           // the turn in which it did, last; 0 when it found no more
	batch         int              // how many it was ready to accept then, at least 1
	left          int              // of these
	shaking       fair.Queue[*end] // have something to read for their handshakes
	shut          []int            // descriptors that are to be closed
	shutSince     time.Time        // when the first of them could have been
	greeting      []young          // may have a greeting that waits; oldest first
	young         []young          // stand, and are to be settled; oldest first
	standing      atomic.Int64     // pairs whose sessions stand

	// registering keeps a descriptor from being closed, its number from being
	// given away, and its events from being changed, while another goroutine
	// registers it.
	registering sync.Mutex

	mu      sync.Mutex // guards what follows; never held during I/O
	orders  []func()   // to run on the goroutine; see order
	closing bool
}

// loopBuffer is large for TLS: many records of one session follow each other.
const loopBuffer = 256 << 10

// A blocked loop looks after sessions that are losing an end this often: no
// event tells that a peer has taken everything.
const loseEvery = 5 * time.Millisecond

func newLoop(ls *loops) (*loop, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create epoll: %w", err)
	}
	wakeup, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		_ = unix.Close(epoll)
		return nil, fmt.Errorf("create eventfd: %w", err)
	}
	s, err := newSleeper(epoll)
	if err != nil {
		_ = unix.Close(wakeup)
		_ = unix.Close(epoll)
		return nil, err
	}
	l := &loop{
		loops: ls, epoll: epoll, wakeup: wakeup, sleeper: s, polling: polling{limit: ls.poll},
		batch: 1, losing: make(map[*pair]losing),
	}
	if err := l.watch(unix.EPOLL_CTL_ADD, wakeup, unix.EPOLLIN, 0); err != nil {
		l.free()
		return nil, err
	}
	return l, nil
}

// ofLoop is how many descriptors a loop has, with those of its sleeper.
const ofLoop = 4

func (l *loop) free() {
	l.sleeper.close()
	_ = unix.Close(l.wakeup)
	_ = unix.Close(l.epoll)
}

func (l *loop) watch(op, fd int, events uint32, serial int32) error {
	return socket.Watch(l.epoll, op, fd, events, serial)
}

// inEvents are what every descriptor is registered for, once. That writing is
// possible is asked for when it first was not.
const inEvents = unix.EPOLLIN | unix.EPOLLPRI | unix.EPOLLRDHUP | unix.EPOLLET

// watchWriting asks for the event that writing to e is possible again. The
// goroutine may have the first end of a pair while the second is being registered.
func (l *loop) watchWriting(e *end) error {
	l.registering.Lock()
	defer l.registering.Unlock()
	return l.watch(unix.EPOLL_CTL_MOD, e.fd, inEvents|unix.EPOLLOUT, e.serial)
}

// add hands a pair to the loop's goroutine, which has it, and may end it, from the
// first registration on. On error it has no event of it.
func (l *loop) add(p *pair) error {
	l.registering.Lock()
	defer l.registering.Unlock()
	p.loop.Store(l)
	fd, events, serials := [2]int{}, [2]uint32{}, [2]int32{}
	for i := range p.ends {
		p.ends[i].serial = l.serial()
		fd[i], events[i], serials[i] = p.ends[i].fd, p.ends[i].events(), p.ends[i].serial
	}
	for i := range p.ends { // from here on the ends are the goroutine's
		l.ends[fd[i]].Store(&p.ends[i])
	}
	l.standing.Add(1)
	err := l.watch(unix.EPOLL_CTL_ADD, fd[A], events[A], serials[A])
	if err == nil {
		if err := l.watch(unix.EPOLL_CTL_ADD, fd[B], events[B], serials[B]); err != nil {
			rawSession{p}.Cut()
		}
		return nil
	}
	l.standing.Add(-1)
	for i := range p.ends {
		l.ends[fd[i]].Store(nil)
	}
	return err
}

// enter registers one end of a pair that this goroutine has.
func (l *loop) enter(e *end) error {
	e.watched, e.serial = true, l.serial()
	l.ends[e.fd].Store(e)
	return l.watch(unix.EPOLL_CTL_ADD, e.fd, e.events(), e.serial)
}

// leave takes an end out again, whose descriptor stays open.
func (l *loop) leave(e *end) {
	l.ends[e.fd].Store(nil)
	if e.watched {
		_ = l.watch(unix.EPOLL_CTL_DEL, e.fd, 0, 0) // fails only if it is not there
		e.watched = false
	}
}

// events returns what an end is registered for.
func (e *end) events() uint32 {
	if e.outEvent {
		return inEvents | unix.EPOLLOUT
	}
	return inEvents
}

// remove closes a pair's descriptors, which also ends their events.
func (l *loop) remove(p *pair) {
	l.registering.Lock()
	defer l.registering.Unlock()
	for i := range p.ends {
		if fd := p.ends[i].fd; fd >= 0 {
			l.ends[fd].Store(nil)
			socket.Close(fd)
		}
	}
}

// order runs f on the loop's goroutine, soon; not any more once the loop closes.
func (l *loop) order(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closing {
		return
	}
	l.orders = append(l.orders, f)
	if len(l.orders) == 1 {
		_, _ = unix.Write(l.wakeup, []byte{1, 0, 0, 0, 0, 0, 0, 0}) // EAGAIN: it is awake already
	}
}

// run is the goroutine. It returns when the loop closes.
func (l *loop) run() {
	defer l.free()
	events := make([]unix.EpollEvent, 256)
	l.now = time.Now()
	for {
		timeout := l.timeout()
		now := time.Now()
		l.worked = now.Sub(l.now)
		l.polling.pause(now, l.worked)
		n, err := l.wait(events, timeout)
		if err != nil && !errors.Is(err, unix.EINTR) {
			panic(fmt.Sprintf("wait for events: %v", err)) // a programmer's mistake: the system has no others here
		}
		l.turn++
		l.now = time.Now()
		if timeout != 0 && !l.polling.paused(l.now) {
			l.worked = 0
		}
		for i := range max(n, 0) {
			l.happened(&events[i])
		}
		for _, p := range l.takeBusy() {
			p.queued = false
			p.pump()
		}
		l.closeShut(n)
		if l.shaking.Len() > 0 {
			l.sleeper.stayAwake()
			l.shakeNext()
		}
		l.lookAfterGreetings(n)
		l.lookAfterLosing()
		l.lookAfterTime()
		if l.obey() {
			l.closeShut(0)
			return
		}
	}
}

// patience is how long a loop that has much to do keeps its processor, waiting for
// events: one that was let go has to be won back. Where clients, targets and other
// loops want the processors, pauses of a few milliseconds are usual, and no sign of
// rest. Longer, it lets go, for the rest of the process.
const patience = 10 * time.Millisecond

// wait waits for events, for a time in ms, or without end when it is negative.
func (l *loop) wait(events []unix.EpollEvent, timeout int) (n int, err error) {
	if timeout != 0 && l.polling.worthwhile() {
		l.sleeper.stayAwake()
		if n, err = l.poll(events, timeout); n != 0 {
			return n, err
		}
	}
	if timeout != 0 && l.polling.rare() {
		return l.sleeper.sleep(events, timeout)
	}
	if timeout != 0 || len(l.busy) > 0 { // else it is done soon
		l.sleeper.stayAwake()
	}
	short := int(patience.Milliseconds())
	if timeout >= 0 {
		short = min(short, timeout)
	}
	n, err = socket.Happened(l.epoll, events, short)
	if n != 0 || timeout == short {
		return n, err
	}
	return l.sleeper.sleep(events, timeout)
}

// What an event is of stands beside its descriptor.
const isListener = 1

// happened acts on an event.
func (l *loop) happened(event *unix.EpollEvent) {
	switch {
	case event.Pad == isListener:
		l.accept(event.Fd)
	case int(event.Fd) != l.wakeup:
		// A descriptor that an earlier event of this turn closed has no end any
		// more, or that of a new session with the same number.
		if e := l.ends[event.Fd].Load(); e != nil && e.pair.on() == l && e.serial == event.Pad {
			e.happened(event.Events)
		}
	}
}

// timeout is how long the loop may wait, in milliseconds.
func (l *loop) timeout() int {
	switch {
	case len(l.busy) > 0 || len(l.shut) > 0 || l.shaking.Len() > 0:
		return 0
	case len(l.greeting) > 0:
		return int(greetAfter.Milliseconds())
	case len(l.losing) > 0:
		return int(loseEvery.Milliseconds())
	case len(l.opening) > l.resting || len(l.young) > 0:
		return int(settleAfter.Milliseconds())
	case l.resting > 0:
		return int(restEvery.Milliseconds())
	}
	return -1
}

// Descriptors of sessions that are over are closed when the loop has nothing
// else to do, after so long at the latest, and when they are more than so many
// or than loops.maxShut.
const (
	shutBy  = time.Millisecond
	maxShut = 64
)

// shutDown has the descriptors of a session that is over closed soon.
func (l *loop) shutDown(p *pair) {
	if len(l.shut) == 0 {
		l.shutSince = l.now
	}
	for i := range p.ends {
		l.ends[p.ends[i].fd].Store(nil) // no event is of interest any more
		l.shut = append(l.shut, p.ends[i].fd)
	}
}

// closeShut closes what is over, at the end of a turn with so many events. A
// loop that is busy with bulk has long turns.
func (l *loop) closeShut(events int) {
	if len(l.shut) == 0 {
		return
	}
	if events > 0 && len(l.busy) == 0 && len(l.shut) <= l.maxShut && l.now.Sub(l.shutSince) < shutBy {
		return
	}
	l.registering.Lock()
	defer l.registering.Unlock()
	for _, fd := range l.shut {
		socket.Deliver(fd)
		socket.Close(fd)
	}
	l.shut = l.shut[:0]
}

// The answer to a request waits for the first bytes of the target, to go with
// them in one packet: for greetAfter, and while the loop has other things to do,
// as the target will then, until greetBy.
const (
	greetAfter = time.Millisecond
	greetBy    = 5 * time.Millisecond
)

// lookAfterGreetings passes on those that have waited long enough, in a turn
// that has had so many events.
func (l *loop) lookAfterGreetings(events int) {
	if len(l.greeting) == 0 {
		return
	}
	after := greetBy
	if events <= 0 {
		after = greetAfter
	}
	n := 0
	for ; n < len(l.greeting) && l.now.Sub(l.greeting[n].since) >= after; n++ {
		if p := l.greeting[n].pair; !p.over && p.ends[B].greeting != nil && p.on() == l {
			p.greet(&p.ends[B])
			p.pump()
		}
	}
	l.greeting = slices.Delete(l.greeting, 0, n)
}

// restEvery is how often a loop looks at those that may take their time to ask.
const restEvery = time.Second

// settleAfter is when a session that stands is settled: most are over by then.
const settleAfter = 200 * time.Millisecond

// young is a session that stands since a moment.
type young struct {
	*pair
	since   time.Time
	sockets socket.Options // to settle its end B by
}

// lookAfterTime ends openings that are late, and settles sessions.
func (l *loop) lookAfterTime() {
	if len(l.opening) == 0 && len(l.young) == 0 {
		return
	}
	if l.now.Sub(l.looked) < settleAfter/2 {
		return
	}
	l.looked = l.now
	l.late()
	n := 0
	for n < len(l.young) && l.now.Sub(l.young[n].since) >= settleAfter {
		l.settle(l.young[n])
		n++
	}
	l.young = slices.Delete(l.young, 0, n)
	if len(l.young) == 0 {
		l.young = nil // what a burst needed does not stay
	}
}

// settle gives a session that lasts what the others can do without: a dead peer
// is noticed on the side that was connected to, and it goes where the fewest
// are.
func (l *loop) settle(y young) {
	p := y.pair
	if p.over {
		return
	}
	if err := y.sockets.Settle(p.ends[B].fd); err != nil {
		p.lostEnd(&p.ends[B], os.NewSyscallError("setsockopt", err))
		return
	}
	least := l.least()
	if p.ends[A].lost != nil || p.ends[B].lost != nil || l.standing.Load() <= least.standing.Load()+1 {
		return
	}
	for i := range p.ends {
		l.leave(&p.ends[i])
		p.ends[i].watched = true // there
	}
	more := p.queued
	if more {
		p.queued = false
		l.busy = slices.DeleteFunc(l.busy, func(q *pair) bool { return q == p })
	}
	l.standing.Add(-1)
	if err := least.add(p); err != nil { // from here on it is least's, else nobody's
		p.loop.Store(l)
		l.standing.Add(1)
		p.abort()
		return
	}
	if more {
		rawSession{p}.order(p.pump) // no event tells of what it has in hand
	}
}

func (l *loop) takeBusy() []*pair {
	b := l.busy
	l.busy = nil
	return b
}

func (l *loop) lookAfterLosing() {
	for p, state := range l.losing {
		if !l.now.Before(state.next) {
			p.lose()
		}
	}
}

// obey runs the orders and tells whether the loop is to end.
func (l *loop) obey() (closing bool) {
	l.mu.Lock()
	orders := l.orders
	l.orders = nil
	closing = l.closing
	if len(orders) > 0 || closing {
		var b [8]byte
		_, _ = unix.Read(l.wakeup, b[:]) // resets the counter; EAGAIN: it is reset
	}
	l.mu.Unlock()
	for _, f := range orders {
		f()
	}
	return closing
}
