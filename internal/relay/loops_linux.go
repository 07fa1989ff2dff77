package relay

import (
	"fmt"
	"net"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/ohrouter/oh-router/internal/socket"
)

// loops are the event loops of an engine.
type loops struct {
	all  []*loop
	next atomic.Uint32
}

// maxDescriptor bounds the table of ends, 8 bytes each and touched only where
// used. Sessions with higher descriptors run Pipe.
const maxDescriptor = 1 << 20

func (ls *loops) start(wg *sync.WaitGroup) error {
	for range runtime.GOMAXPROCS(0) {
		l, err := newLoop(min(socket.Limit(), maxDescriptor))
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

// carry gives a session to a loop, or returns nil when it is not for one.
func (ls *loops) carry(a, b net.Conn, live *Counters, done func(End)) *Session {
	if len(ls.all) == 0 {
		return nil
	}
	ta, ok := a.(*net.TCPConn)
	if !ok {
		return nil
	}
	tb, ok := b.(*net.TCPConn)
	if !ok {
		return nil
	}
	l := ls.all[int(ls.next.Add(1))%len(ls.all)]
	p := &pair{loop: l, done: done}
	for i, c := range []*net.TCPConn{ta, tb} {
		fd, err := duplicate(c)
		if err != nil || fd >= len(l.ends) {
			p.closeFrom(i, fd)
			return nil
		}
		p.ends[i] = end{pair: p, fd: fd, side: Side(i)}
	}
	p.ends[A].moved, p.ends[B].moved = &live.AB, &live.BA
	if err := l.add(p); err != nil {
		p.closeFrom(len(p.ends), -1)
		return nil
	}
	_, _ = ta.Close(), tb.Close() // the duplicates live on
	return &Session{cut: func() { l.order(p.cut) }}
}

// duplicate returns a descriptor of c's socket that Go's poller does not know.
func duplicate(c *net.TCPConn) (fd int, err error) {
	rc, err := c.SyscallConn()
	if err != nil {
		return -1, err
	}
	cerr := rc.Control(func(n uintptr) { fd, err = unix.FcntlInt(n, unix.F_DUPFD_CLOEXEC, 0) })
	if cerr != nil {
		return -1, cerr
	}
	return fd, err
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
