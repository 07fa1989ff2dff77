package relay

import (
	"bytes"
	"errors"
	"os"
	"slices"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/ohrouter/oh-router/internal/socket"
)

// pair is a session between two descriptors, as an event loop sees it. Only
// the loop's goroutine touches it. Most sessions rest, and this is most of what they
// cost: it is to be small.
type pair struct {
	loop    atomic.Pointer[loop] // whose goroutine has it
	ends    [2]end
	opening *opening // until the session stands
	live    *Counters
	done    ender

	why    error // as in End
	ended  bool  // one end has
	first  Side  // that did so
	queued bool  // in loop.busy
	over   bool  // closed, or given back
}

// ender is told how a session has ended.
type ender interface{ Ended(end End) }

// enderFunc is a function that is told.
type enderFunc func(End)

// Ended calls f.
func (f enderFunc) Ended(e End) { f(e) }

// on returns the loop whose goroutine has the pair, and is this one.
func (p *pair) on() *loop { return p.loop.Load() }

// end is one of a pair's descriptors, and the direction that reads it.
type end struct {
	pair   *pair
	fd     int     // -1 before it is known
	secure *secure // nil without TLS
	lost   error   // reset, timed out, or gone
	serial int32   // of its registration
	side   Side

	watched  bool // registered with the loop
	readable bool // reading may give something
	hup      bool // it is over, unless it has had its FIN
	last     bool // a FIN or worse, or urgent data, has come: read until there is nothing
	eof      bool // nothing more to read
	bulk     bool // bytes arrive fast: splice

	full     bool // writing would block
	bounded  bool // its socket takes no more than maxUnsent
	shallow  bool // and keeps no more than maxUnread, where its peer is near
	outEvent bool // the loop is told when writing no longer would
	finished bool // a FIN was sent to it

	greeting  []byte // goes before what is read from here; until then none of it was passed on
	uncounted int32  // bytes of it that are held, or being written
	skip      int32  // bytes to be read from here first that are not the session's

	held int           // bytes read from here that the other end has not taken: in pipe, or in rest
	pipe *pipe         // nil while it is not needed
	rest *bytes.Buffer // when there was no pipe to be had
}

func (e *end) other() *end { return &e.pair.ends[e.side.other()] }

// moved counts the bytes from here that the other end has taken.
func (e *end) moved() *atomic.Uint64 {
	if e.side == A {
		return &e.pair.live.AB
	}
	return &e.pair.live.BA
}

// What a direction may do before others have their turn: so many reads, or so
// many bytes.
const (
	turnReads = 16
	turnBytes = 1 << 20
)

// happened takes an event and acts on it.
func (e *end) happened(events uint32) {
	p := e.pair
	if p.opening == nil && events&unix.EPOLLERR != 0 && e.lost == nil {
		if n, err := unix.GetsockoptInt(e.fd, unix.SOL_SOCKET, unix.SO_ERROR); err == nil && n != 0 {
			p.lostEnd(e, unix.Errno(n))
		}
	}
	if events&(unix.EPOLLIN|unix.EPOLLPRI|unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		e.readable = true
		e.hup = e.hup || events&unix.EPOLLHUP != 0
		e.last = e.last || events&(unix.EPOLLPRI|unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0
	}
	if events&(unix.EPOLLOUT|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		e.full = false
		// Of one that is being opened the error is looked at first.
		if e.secure != nil && !e.secure.corked && (p.opening == nil || events&unix.EPOLLERR == 0) {
			if p.pushed(e); p.over {
				return
			}
		}
	}
	if p.opening != nil {
		p.opened(e, events)
		return
	}
	p.pump()
}

// pump moves what can be moved, in both directions.
func (p *pair) pump() {
	more := p.carry(&p.ends[A])
	more = p.carry(&p.ends[B]) || more
	switch {
	case p.over:
	case p.ends[A].done() && p.ends[B].done():
		p.close()
	case more && !p.queued:
		p.queued = true
		p.on().busy = append(p.on().busy, p)
	}
}

// done tells that nothing is to be read from the end or written to it any more.
func (e *end) done() bool {
	return e.eof && e.finished && (e.secure == nil || len(e.secure.queue) == 0)
}

// carry moves bytes from e to the other end. It tells whether it stopped
// because its turn was over.
func (p *pair) carry(e *end) (more bool) {
	o := e.other()
	before := e.moved().Load()
	for range turnReads {
		switch {
		case e.moved().Load()-before >= turnBytes:
			return true
		case p.over || o.lost != nil:
			return false // nobody takes it
		case o.full && (e.held > 0 || e.greeting != nil || !e.eof):
			return false
		case e.held > 0:
			p.flush(e, o)
		case e.eof && e.greeting != nil:
			p.greet(e)
		case e.eof:
			p.passOn(e, o)
			return false
		case !e.readable:
			e.release()
			return false
		case e.secure != nil:
			p.decrypt(e)
		case e.bulk:
			p.splice(e)
		default:
			p.copy(e)
		}
	}
	return true
}

// A read for a plain end gives so much at most. When it does what follows is
// spliced, until a splice moves less than a quarter of that.
const bulkRead = 64 << 10

// copy moves what one read gives.
func (p *pair) copy(e *end) {
	buf := p.on().buf[:]
	if e.other().secure == nil {
		buf = buf[:bulkRead] // the rest is for splice, which copies nothing
	}
	off := copy(buf, e.greeting)
	n, err := socket.Read(e.fd, buf[off:])
	if !p.received(e, n, err) {
		return
	}
	switch full := n == len(buf)-off; {
	case full:
		e.keepShallow()
		e.bulk = e.other().secure == nil
	case !e.last:
		// The queue is empty: epoll(7) promises an event for what comes next.
		e.readable = false
	}
	skip := min(int(e.skip), n) // of an end that was greeted; one that is to be has nothing to skip
	e.skip -= int32(skip)
	if off > 0 {
		e.greeting, e.uncounted = nil, int32(off)
	}
	p.give(e, buf[skip:off+n])
}

// greet passes on the greeting alone: nothing came with which it could go.
func (p *pair) greet(e *end) {
	b := e.greeting
	e.greeting, e.uncounted = nil, int32(len(b))
	p.give(e, b)
}

// give passes on bytes that were read from e, and holds what is not taken.
func (p *pair) give(e *end, b []byte) {
	o := e.other()
	if len(b) == 0 || p.over || o.lost != nil {
		return
	}
	if o.secure != nil {
		p.encrypt(e, b)
		return
	}
	n, err := socket.Write(o.fd, b)
	if !p.sent(e, o, n, err) {
		n = 0
	}
	if n < len(b) && o.lost == nil {
		e.keep(b[n:])
	}
}

// splice moves bytes into the pipe, to be flushed next.
func (p *pair) splice(e *end) {
	e.other().bound()
	if e.pipe == nil {
		if e.pipe = pipes.get(); e.pipe == nil {
			e.bulk = false // no descriptors left: buffers still work
			return
		}
	}
	n, err := socket.Splice(e.fd, e.pipe.w, e.pipe.size)
	if n <= 0 && (err == nil || errors.Is(err, unix.EAGAIN)) {
		e.bulk = false // an end, nothing, or an urgent mark, where splice stops: a read tells
		return
	}
	if !p.received(e, n, err) {
		return
	}
	e.held = n
	e.bulk = n >= bulkRead/4
}

// maxUnsent is how much of a stream in bulk may wait in a socket for its turn to
// be sent. What the network has under way is not bounded by it, so distance is no
// matter; more would only lie there, until its pages are in no processor's cache.
const maxUnsent = 512 << 10

// bound has the end's socket take no more than maxUnsent that it cannot send yet.
func (e *end) bound() {
	if !e.bounded {
		e.bounded = true
		_ = socket.BoundUnsent(e.fd, maxUnsent) // goes without on a kernel before 3.12
	}
}

// maxUnread is how much of a stream in bulk may wait in a socket to be read, when
// its peer is near. A reader that takes much at once is given ever more, up to
// tens of megabytes, which is much memory where streams are many, and in no
// processor's cache.
const maxUnread = 2 << 20

// keepShallow has the end's socket keep no more than maxUnread.
func (e *end) keepShallow() {
	if !e.shallow {
		e.shallow = true
		_ = socket.BoundUnread(e.fd, maxUnread) // fails only on one that is lost, as a read will tell
	}
}

// received tells whether a read from e gave bytes, and takes note when not.
func (p *pair) received(e *end, n int, err error) bool {
	switch {
	case n > 0:
		return true
	case errors.Is(err, unix.EAGAIN):
		e.readable, e.bulk = false, false
	case err != nil:
		p.lostEnd(e, os.NewSyscallError("read", err))
		e.eof = true
	default:
		e.eof = true
		if e.hup && e.lost == nil && !e.finished && isClosed(e.fd) {
			// Somebody who looked before has taken the error.
			p.lostEnd(e, os.NewSyscallError("read", unix.ECONNRESET))
		}
		p.record(e.side, e.lost)
	}
	return false
}

// flush gives o what is held of e's bytes.
func (p *pair) flush(e, o *end) {
	var n int
	var err error
	if e.pipe == nil {
		n, err = socket.Write(o.fd, e.rest.Bytes())
	} else {
		n, err = socket.Splice(e.pipe.r, o.fd, e.held)
	}
	if !p.sent(e, o, n, err) {
		return
	}
	e.held -= n
	if e.pipe == nil {
		e.rest.Next(n)
	}
	if e.held == 0 && !e.bulk {
		e.release()
	}
}

// sent tells whether a write to o took bytes of e, and takes note when not.
func (p *pair) sent(e, o *end, n int, err error) bool {
	switch {
	case n > 0:
		e.count(n)
		return true
	case errors.Is(err, unix.EAGAIN):
		p.blocked(o)
	default:
		p.lostEnd(o, os.NewSyscallError("write", err))
	}
	return false
}

// count counts bytes of e that the other end has taken.
func (e *end) count(n int) {
	known := min(int(e.uncounted), n)
	e.uncounted -= int32(known)
	e.moved().Add(uint64(n - known))
}

// blocked notes that writing to o would block, and sees to it that the loop is
// told when it no longer does.
func (p *pair) blocked(o *end) {
	o.full = true
	if o.outEvent {
		return
	}
	o.outEvent = true
	if err := p.on().watchWriting(o); err != nil {
		p.lostEnd(o, err)
	}
}

// pushed gives o's socket the records that it has not taken.
func (p *pair) pushed(o *end) {
	switch err := o.secure.push(); {
	case err == nil:
	case p.opening != nil && o.side == B:
		p.lastWords(err)
	case p.opening != nil:
		p.fail(err)
	default:
		p.lostEnd(o, err)
	}
}

// keep holds bytes that were read and could not be written.
func (e *end) keep(b []byte) {
	e.held = len(b)
	if e.pipe == nil {
		e.pipe = pipes.get()
	}
	if e.pipe != nil {
		if n, err := unix.Write(e.pipe.w, b); err == nil && n == len(b) {
			return
		}
		pipes.drop(e.pipe) // it has less room than it said
		e.pipe = nil
	}
	e.rest = bytes.NewBuffer(slices.Clone(b))
}

// release gives back what only bytes under way need.
func (e *end) release() {
	if e.held > 0 {
		return
	}
	if e.pipe != nil {
		pipes.put(e.pipe)
	}
	e.pipe, e.rest = nil, nil
}
