package relay

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ohrouter/oh-router/internal/socket"
)

// rawListener is a listener's descriptor. One loop watches it, its home, and no
// other is woken in vain. While that one is busy all do: the kernel wakes one of
// those that wait (EPOLLEXCLUSIVE), and those that sleep.
type rawListener struct {
	fd     int
	home   *loop
	spread bool      // all loops watch it
	needed time.Time // when one of them was busy, last
}

// rawConn is a connection that nobody has registered for events.
type rawConn struct {
	loop   *loop // whose goroutine has it; nil for any other
	fd     int
	secure *secure // nil without TLS
}

func (c rawConn) onLoop() bool          { return c.loop != nil }
func (c rawConn) offLoop() rawConn      { return rawConn{fd: c.fd} }
func (c rawConn) abort()                { socket.Close(c.fd) } // SO_LINGER is 0
func (c rawConn) local() netip.AddrPort { return socket.LocalAt(c.fd) }

func (c rawConn) take() (*net.TCPConn, error) {
	tcp, err := socket.Conn(c.fd)
	if err == nil && c.secure != nil {
		c.secure.transport().GiveBack(tcp)
	}
	return tcp, err
}

// listen has a loop watch ln, and tells whether there are loops. ln is closed
// then: a duplicate of its descriptor lives on.
func (ls *loops) listen(l *Listener, ln *net.TCPListener) (taken bool, err error) {
	if len(ls.all) == 0 {
		return false, nil
	}
	if l.raw.fd, err = socket.Descriptor(ln); err != nil {
		return false, err
	}
	if l.raw.fd >= len(ls.ends) {
		socket.Close(l.raw.fd)
		return false, nil
	}
	if l.AckLate {
		if err := socket.AckLate(l.raw.fd); err != nil {
			socket.Close(l.raw.fd)
			return false, err
		}
	}
	l.raw.home = ls.all[l.raw.fd%len(ls.all)]
	ls.listeners[l.raw.fd].Store(l)
	l.mu.Lock() // the loop may accept, and pause, at once
	if err = ls.rewatch(l); err != nil {
		l.closed = true
		ls.unlisten(l)
	}
	l.mu.Unlock()
	if err != nil {
		return false, err
	}
	_ = ln.Close()
	return true, nil
}

// unlisten closes l's descriptor. The caller holds l.mu.
func (ls *loops) unlisten(l *Listener) {
	ls.unwatch(l)
	ls.listeners[l.raw.fd].Store(nil)
	socket.Close(l.raw.fd)
}

// rewatch registers l at home. It is level-triggered: a loop accepts a few and is
// told of the rest again. The caller holds l.mu.
func (ls *loops) rewatch(l *Listener) error { return l.raw.watch(l.raw.home) }

// unwatch takes l from the loops, if it is there. The caller holds l.mu.
func (ls *loops) unwatch(l *Listener) {
	l.raw.gather(ls, l.raw.home)
	l.raw.unwatch(l.raw.home)
}

func (r *rawListener) watch(l *loop) error {
	return socket.Watch(l.epoll, unix.EPOLL_CTL_ADD, r.fd, unix.EPOLLIN|unix.EPOLLEXCLUSIVE, isListener)
}

func (r *rawListener) unwatch(l *loop) { _ = socket.Watch(l.epoll, unix.EPOLL_CTL_DEL, r.fd, 0, 0) }

// spreadFor is how long all loops watch a listener after one was busy.
const spreadFor = time.Second

// place has all loops watch l when the one that accepts is busy, and later the
// first again that is not. It tells whether the others have just begun to.
func (l *Listener) place(by *loop, busy bool) (spread bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := &l.raw
	switch {
	case l.paused > 0 || l.closed || len(by.all) == 1:
	case busy && !r.spread:
		r.spread, r.needed = true, by.now
		for _, o := range by.all {
			if o != r.home {
				_ = r.watch(o) // without it, and until the next time, the others do
			}
		}
		return true
	case busy:
		r.needed = by.now
	case r.spread && by.now.Sub(r.needed) > spreadFor:
		r.gather(by.loops, by)
	}
	return false
}

// gather leaves it to one of the loops, if they all have it.
func (r *rawListener) gather(ls *loops, home *loop) {
	if !r.spread {
		return
	}
	r.spread, r.home = false, home
	for _, o := range ls.all {
		if o != home {
			r.unwatch(o)
		}
	}
}

// accept accepts a connection. The loop is told again when there are more, and
// looks after its sessions before. When it was told so turn after turn it
// accepts more at once, twice as many each time.
func (l *loop) accept(fd int32) {
	ln := l.listeners[fd].Load()
	if ln == nil {
		return // closed meanwhile
	}
	switch {
	case l.turn == l.accepted: // at another listener
	case l.accepted > 0 && l.turn == l.accepted+1:
		l.batch = min(2*l.batch, maxBatch)
		l.left = l.batch
	default:
		l.batch, l.left = 1, 1
	}
	if ln.place(l, l.batch > 1 || l.worked > longTurn || len(l.busy) > 0 || l.shaking.Len() > 0) {
		l.sleeper.stayAwake()
		return // one that has time may be first
	}
	l.accepted = l.turn
	for range max(l.left, 1) {
		c, ok := ln.next(l)
		if !ok {
			l.accepted = 0
			return
		}
		l.left--
		ln.deliver(c)
	}
}

// longTurn is how long a turn takes of a loop that others help to accept.
const longTurn = 500 * time.Microsecond

// maxBatch is how many connections a loop accepts in a turn, or one of each
// listener.
const maxBatch = 16

// next accepts one connection.
func (l *Listener) next(lo *loop) (c Conn, ok bool) {
	l.mu.Lock() // the descriptor must not be closed, and its number given away, meanwhile
	defer l.mu.Unlock()
	for l.paused == 0 && !l.closed {
		fd, from, err := socket.AcceptAt(l.raw.fd)
		switch {
		case err == nil:
			if !l.failing {
				l.backoff.Succeeded()
			}
			if fd >= len(lo.ends) {
				lo = nil // there is no place for it on a loop
			}
			return Conn{Remote: from, raw: rawConn{loop: lo, fd: fd}}, true
		case errors.Is(err, unix.EAGAIN):
			return Conn{}, false
		case !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.ECONNABORTED):
			l.failed(os.NewSyscallError("accept4", err))
		}
	}
	return Conn{}, false
}
