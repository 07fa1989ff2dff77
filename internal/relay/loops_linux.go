package relay

import (
	"crypto/tls"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ohrouter/oh-router/internal/socket"
)

// loops are the event loops of an engine.
type loops struct {
	all       []*loop
	ends      []atomic.Pointer[end]      // by descriptor; an event looks its end up here
	listeners []atomic.Pointer[Listener] // likewise
	serials   atomic.Uint32              // the latest of an end
	poll      time.Duration              // as in NewEngine
	maxShut   int                        // how many descriptors a loop keeps that nobody counts any more
}

// serial returns what stands beside an end's descriptor in its events: numbers
// of descriptors are given away again, also while events of the former owner
// wait. It is more than [isListener].
func (ls *loops) serial() int32 { return int32(ls.serials.Add(1)%(1<<30)) + isListener + 1 }

// maxDescriptor bounds the tables of ends and listeners, 8 bytes each and touched only where
// used. Sessions with higher descriptors run Pipe.
const maxDescriptor = 1 << 20

func (ls *loops) start(n int, poll time.Duration, wg *sync.WaitGroup) error {
	ls.poll = poll
	ls.ends = make([]atomic.Pointer[end], min(socket.Limit(), maxDescriptor))
	ls.listeners = make([]atomic.Pointer[Listener], len(ls.ends))
	ls.maxShut = min(maxShut, len(ls.ends)/64/max(n, 1))
	for range n {
		l, err := newLoop(ls)
		if err != nil {
			ls.close()
			return fmt.Errorf("start event loop: %w", err)
		}
		ls.all = append(ls.all, l)
		wg.Go(l.run)
	}
	return nil
}

func (ls *loops) close() {
	for _, l := range ls.all {
		l.mu.Lock()
		l.closing = true
		_, _ = unix.Write(l.wakeup, []byte{1, 0, 0, 0, 0, 0, 0, 0}) // EAGAIN: it is awake already
		l.mu.Unlock()
	}
}

// descriptors counts those of the loops, pipes, and sessions that are over.
func (ls *loops) descriptors() int {
	return len(ls.all)*(ofLoop+ls.maxShut+2) + 2*maxPipes()
}

// least returns the loop that carries the fewest sessions.
func (ls *loops) least() *loop {
	least := ls.all[0]
	for _, l := range ls.all[1:] {
		if l.standing.Load() < least.standing.Load() {
			least = l
		}
	}
	return least
}

// carry gives a session to a loop, or returns nil when it is not for one.
func (ls *loops) carry(a, b net.Conn, live *Counters, done func(End)) Session {
	if len(ls.all) == 0 {
		return nil
	}
	ta, sa := overTLS(a)
	tb, sb := overTLS(b)
	if ta == nil || tb == nil {
		return nil
	}
	p := &pair{done: enderFunc(done), live: live}
	for i, c := range []*net.TCPConn{ta, tb} {
		fd, err := socket.Descriptor(c)
		if err != nil || fd >= len(ls.ends) {
			p.closeFrom(i, fd)
			return nil
		}
		p.ends[i] = end{pair: p, fd: fd, side: Side(i), watched: true}
	}
	for i, s := range []*tls.Conn{sa, sb} {
		if s != nil {
			p.ends[i].wrap(s)
		}
	}
	if err := ls.least().add(p); err != nil {
		for _, s := range []*tls.Conn{sa, sb} {
			if s != nil {
				s.NetConn().(*socket.Transport).TakeOver(nil)
			}
		}
		p.closeFrom(len(p.ends), -1)
		return nil
	}
	_, _ = ta.Close(), tb.Close() // the duplicates live on
	if sa != nil || sb != nil {
		rawSession{p}.order(p.pump) // no event tells of what crypto/tls has
	}
	return rawSession{p}
}

// rawSession is a pair, as other goroutines know it.
type rawSession struct{ *pair }

// Cut has the loop cut it.
func (s rawSession) Cut() { s.order(s.cut) }

// GiveBack has the loop give a back.
func (s rawSession) GiveBack(err error) {
	s.order(func() {
		if s.opening != nil && s.opening.stage == asking {
			s.fail(err)
		}
	})
}

// order has the pair's goroutine call f, unless the session has ended.
func (s rawSession) order(f func()) {
	l := s.on()
	l.order(func() {
		switch {
		case s.on() != l:
			s.order(f) // it has moved
		case !s.over:
			f()
		}
	})
}

// closeFrom takes back the duplicates of a pair that no loop carries: those
// before i, and fd.
func (p *pair) closeFrom(i, fd int) {
	if fd >= 0 {
		_ = unix.Close(fd)
	}
	for j := range i {
		_ = unix.Close(p.ends[j].fd)
	}
}
