package relay

import (
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/ohrouter/oh-router/internal/socket"
)

// pipe is a kernel buffer between two splice calls.
type pipe struct {
	r, w int
	size int
}

// pipeSize is asked for: as large as the kernel lets anybody have it, because the
// more one splice moves, the less a byte costs. Beside other processes of its
// user an unprivileged one may get less (pipe(7), pipe-max-size and
// pipe-user-pages-soft).
const pipeSize = 1 << 20

// maxPipes bounds the pipes to the 64 MiB that an unprivileged process may have
// of them, and to a small part of the descriptors, two each. Few do: a direction
// holds one only while it moves bytes in bulk.
var maxPipes = sync.OnceValue(func() int { return min(64, socket.Limit()/32) })

func newPipe() *pipe {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil
	}
	p := &pipe{r: fds[0], w: fds[1]}
	size, err := unix.FcntlInt(uintptr(p.w), unix.F_SETPIPE_SZ, pipeSize)
	if err != nil {
		size, err = unix.FcntlInt(uintptr(p.w), unix.F_SETPIPE_SZ, pipeSize/4)
	}
	if err != nil {
		size, err = unix.FcntlInt(uintptr(p.w), unix.F_GETPIPE_SZ, 0)
	}
	if err != nil || size < bulkRead/2 {
		p.close() // buffers do better
		return nil
	}
	p.size = size
	return p
}

func (p *pipe) close() {
	_ = unix.Close(p.r)
	_ = unix.Close(p.w)
}

// pipes lends pipes to directions. It is the process's, as its descriptors are.
var pipes pipePool

type pipePool struct {
	mu   sync.Mutex // guards what follows
	free []*pipe    // empty ones
	lent int
}

// get returns an empty pipe, or nil when none can be had.
func (pp *pipePool) get() *pipe {
	pp.mu.Lock()
	if pp.lent >= maxPipes() {
		pp.mu.Unlock()
		return nil
	}
	pp.lent++
	if n := len(pp.free); n > 0 {
		p := pp.free[n-1]
		pp.free = pp.free[:n-1]
		pp.mu.Unlock()
		return p
	}
	pp.mu.Unlock()
	p := newPipe()
	if p == nil {
		pp.drop(nil)
	}
	return p
}

// put takes an empty pipe back. It keeps no more than are lent, and two: what
// a burst needed does not stay.
func (pp *pipePool) put(p *pipe) {
	pp.mu.Lock()
	pp.lent--
	pp.free = append(pp.free, p)
	keep := min(len(pp.free), pp.lent+2)
	extra := slices.Clone(pp.free[keep:])
	pp.free = pp.free[:keep]
	pp.mu.Unlock()
	for _, p := range extra {
		p.close()
	}
}

// drop closes a lent pipe that nobody can use again: it holds bytes, or has less
// room than it said. A nil one was not to be had.
func (pp *pipePool) drop(p *pipe) {
	pp.mu.Lock()
	pp.lent--
	pp.mu.Unlock()
	if p != nil {
		p.close()
	}
}
