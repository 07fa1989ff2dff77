package relay

import (
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ohrouter/oh-router/internal/socket"
)

// losing is what there is of a pair that is losing an end, while the other one
// may still take what came before.
type losing struct {
	taken uint64    // bytes that it had taken at the last look
	until time.Time // when it has taken nothing for too long
	next  time.Time // when to look again
}

// isClosed tells whether a connection that has not been sent a FIN is over.
func isClosed(fd int) bool {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	return err == nil && info.State == socket.StateClose
}

// passOn passes the end of e's stream on to o.
func (p *pair) passOn(e, o *end) {
	e.release()
	if o.finished || e.lost != nil {
		return // lose passes a loss on
	}
	o.finished = true
	if o.secure != nil {
		if err := o.secure.conn.CloseWrite(); err != nil {
			p.lostEnd(o, err)
		}
		return
	}
	if e.finished && o.eof && e.done() {
		return // close sends it, soon
	}
	if err := socket.CloseWrite(o.fd); err != nil {
		p.lostEnd(o, os.NewSyscallError("shutdown", err))
	}
}

// record notes how an end ended: how the first one did is how the session did.
func (p *pair) record(side Side, err error) {
	if !p.ended {
		p.ended, p.first = true, side
	}
	if p.first == side && p.why == nil {
		p.why = err
	}
}

// lostEnd notes that an end was reset or is gone. What it sent before is still
// passed on.
func (p *pair) lostEnd(e *end, err error) {
	if e.lost != nil {
		return
	}
	e.lost = err
	e.readable, e.last = !e.eof, true
	p.record(e.side, err)
	l := p.on()
	l.losing[p] = losing{until: l.now.Add(lingerFor)}
}

// lose passes the loss of one end on to the other, once that has taken what
// came before, or takes nothing any more.
func (p *pair) lose() {
	p.pump()
	if p.over {
		return
	}
	e := &p.ends[A]
	if e.lost == nil {
		e = &p.ends[B]
	}
	o := e.other()
	if o.lost == nil {
		unsent, err := unix.IoctlGetInt(o.fd, unix.SIOCOUTQ)
		delivered := e.eof && e.held == 0 && e.greeting == nil && unsent == 0 && (o.secure == nil || len(o.secure.queue) == 0)
		l := p.on()
		state := l.losing[p]
		if taken := e.moved().Load() - uint64(unsent); taken != state.taken {
			state = losing{taken: taken, until: l.now.Add(lingerFor)}
		}
		state.next = l.now.Add(loseEvery)
		l.losing[p] = state
		if err == nil && !delivered && l.now.Before(state.until) {
			return
		}
	}
	p.abort()
}

// cut ends the session from outside.
func (p *pair) cut() {
	if !p.over {
		p.abort()
	}
}

// abort ends the session so that both peers see a reset: SO_LINGER is 0.
func (p *pair) abort() {
	if !p.ended {
		p.record(A, net.ErrClosed)
	}
	p.finish()
	p.on().remove(p)
}

// close ends an orderly session. Its descriptors are closed when the loop has
// nothing better to do.
func (p *pair) close() {
	p.finish()
	p.on().shutDown(p)
}

// finish reports the end, before the descriptors are closed: who sees the end of
// a connection finds it accounted for.
func (p *pair) finish() {
	l := p.on()
	p.over = true
	l.polling.session(afterEnd)
	delete(l.losing, p)
	if p.opening != nil {
		l.unlist(p)
	} else {
		l.standing.Add(-1)
	}
	p.giveUpShaking()
	for i := range p.ends {
		e := &p.ends[i]
		if e.pipe != nil && e.held > 0 {
			pipes.drop(e.pipe)
			e.pipe = nil
		}
		e.held = 0
		e.release()
	}
	p.done.Ended(End{Side: p.first, Err: p.why})
}
