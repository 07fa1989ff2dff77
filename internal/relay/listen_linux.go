package relay

import (
	"errors"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"github.com/ohrouter/oh-router/internal/socket"
)

// rawListener is a listener's descriptor, which every loop watches: the kernel
// wakes one of those that wait (EPOLLEXCLUSIVE), and those that sleep.
type rawListener struct{ fd int }

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

// listen watches ln on every loop, and tells whether there are loops. ln is
// closed then: a duplicate of its descriptor lives on.
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
	ls.listeners[l.raw.fd].Store(l)
	l.mu.Lock() // one loop may accept, and pause, before the next has it
	err = ls.rewatch(l)
	l.mu.Unlock()
	if err != nil {
		ls.unlisten(l)
		return false, err
	}
	_ = ln.Close()
	return true, nil
}

// unlisten closes l's descriptor.
func (ls *loops) unlisten(l *Listener) {
	ls.unwatch(l)
	ls.listeners[l.raw.fd].Store(nil)
	socket.Close(l.raw.fd)
}

// rewatch registers l with every loop. It is level-triggered: a loop accepts a
// few and is told of the rest again.
func (ls *loops) rewatch(l *Listener) error {
	for _, o := range ls.all {
		if err := socket.Watch(o.epoll, unix.EPOLL_CTL_ADD, l.raw.fd, unix.EPOLLIN|unix.EPOLLEXCLUSIVE, isListener); err != nil {
			ls.unwatch(l)
			return err
		}
	}
	return nil
}

// unwatch takes l from the loops, if it is there.
func (ls *loops) unwatch(l *Listener) {
	for _, o := range ls.all {
		_ = socket.Watch(o.epoll, unix.EPOLL_CTL_DEL, l.raw.fd, 0, 0)
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
	switch l.turn {
	case l.accepted: // at another listener
	case l.accepted + 1:
		l.batch = min(2*l.batch, maxBatch)
		l.left = l.batch
	default:
		l.batch, l.left = 1, 1
	}
	l.accepted = l.turn
	for range max(l.left, 1) {
		c, ok := ln.next(l)
		if !ok {
			l.batch, l.left = 1, 1
			return
		}
		l.left--
		ln.deliver(c)
	}
}

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
