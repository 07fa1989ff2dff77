package relay

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// loop is a thread that waits for events of many sessions and moves their
// bytes. Everything of a session happens on its loop's thread, so that a
// session needs no lock.
type loop struct {
	epoll, wakeup int
	ends          []atomic.Pointer[end] // by descriptor; an event looks its end up here
	buf           [bufferSize]byte      // what one read moves at most
	busy          []*pair               // have had their turn, and have more to do
	losing        map[*pair]struct{}    // one end is lost, the other may still take what came before

	// registering keeps a descriptor from being closed, its number from being
	// given away, and its events from being changed, while another thread
	// registers it.
	registering sync.Mutex

	mu      sync.Mutex // guards what follows; never held during I/O
	orders  []func()   // to run on the thread
	closing bool
}

// A blocked loop looks after sessions that are losing an end this often: no
// event tells that a peer has taken everything.
const loseEvery = 5 * time.Millisecond

func newLoop(descriptors int) (*loop, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create epoll: %w", err)
	}
	wakeup, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		_ = unix.Close(epoll)
		return nil, fmt.Errorf("create eventfd: %w", err)
	}
	l := &loop{epoll: epoll, wakeup: wakeup, ends: make([]atomic.Pointer[end], descriptors), losing: make(map[*pair]struct{})}
	if err := l.watch(unix.EPOLL_CTL_ADD, wakeup, unix.EPOLLIN); err != nil {
		l.free()
		return nil, err
	}
	return l, nil
}

func (l *loop) free() {
	_ = unix.Close(l.wakeup)
	_ = unix.Close(l.epoll)
}

func (l *loop) watch(op, fd int, events uint32) error {
	if err := unix.EpollCtl(l.epoll, op, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)}); err != nil {
		return fmt.Errorf("watch descriptor: %w", err)
	}
	return nil
}

// inEvents are what every descriptor is registered for, once. That writing is
// possible is asked for when it first was not.
const inEvents = unix.EPOLLIN | unix.EPOLLPRI | unix.EPOLLRDHUP | unix.EPOLLET

// watchWriting asks for the event that writing to fd is possible again. The
// thread may have the first end of a pair while the second is being registered.
func (l *loop) watchWriting(fd int) error {
	l.registering.Lock()
	defer l.registering.Unlock()
	return l.watch(unix.EPOLL_CTL_MOD, fd, inEvents|unix.EPOLLOUT)
}

// add hands a pair to the loop's thread, which has it, and may end it, from the
// first registration on. On error it has no event of it.
func (l *loop) add(p *pair) error {
	l.registering.Lock()
	defer l.registering.Unlock()
	for i := range p.ends {
		l.ends[p.ends[i].fd].Store(&p.ends[i])
	}
	err := l.watch(unix.EPOLL_CTL_ADD, p.ends[A].fd, inEvents)
	if err == nil {
		if err := l.watch(unix.EPOLL_CTL_ADD, p.ends[B].fd, inEvents); err != nil {
			l.order(p.cut)
		}
		return nil
	}
	for i := range p.ends {
		l.ends[p.ends[i].fd].Store(nil)
	}
	return err
}

// remove closes a pair's descriptors, which also ends their events.
func (l *loop) remove(p *pair) {
	l.registering.Lock()
	defer l.registering.Unlock()
	for i := range p.ends {
		l.ends[p.ends[i].fd].Store(nil)
		_ = unix.Close(p.ends[i].fd)
	}
}

// order runs f on the loop's thread, soon; not any more once the loop closes.
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

// run is the thread. It returns when the loop closes.
func (l *loop) run() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer l.free()
	events := make([]unix.EpollEvent, 256)
	for {
		n, err := unix.EpollWait(l.epoll, events, l.timeout())
		if err != nil && !errors.Is(err, unix.EINTR) {
			panic(fmt.Sprintf("wait for events: %v", err)) // a programmer's mistake: epoll_wait(2) has no others
		}
		for i := range max(n, 0) {
			if fd := int(events[i].Fd); fd != l.wakeup {
				// A descriptor that an earlier event of this turn closed has
				// no end any more, or that of a new session with the same
				// number, which can bear an event too many.
				if e := l.ends[fd].Load(); e != nil {
					e.happened(events[i].Events)
				}
			}
		}
		for _, p := range l.takeBusy() {
			p.queued = false
			p.pump()
		}
		l.lookAfterLosing()
		if l.obey() {
			return
		}
	}
}

// timeout is how long the loop may wait, in milliseconds.
func (l *loop) timeout() int {
	switch {
	case len(l.busy) > 0:
		return 0
	case len(l.losing) > 0:
		return int(loseEvery.Milliseconds())
	}
	return -1
}

func (l *loop) takeBusy() []*pair {
	b := l.busy
	l.busy = nil
	return b
}

func (l *loop) lookAfterLosing() {
	for p := range l.losing {
		p.lose()
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
