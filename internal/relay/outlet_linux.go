package relay

import (
	"cmp"
	"crypto/tls"
	"errors"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// outlet writes to a side of a session. With TLS, what follows tls belongs to
// who holds crypto/tls's lock for writing: a reader may have to answer a
// message of TLS itself.
type outlet struct {
	*session
	side Side
	raw  syscall.RawConn

	tls *tls.Conn // nil when the side is plain

	// What step, made once, is to write, and how that went.
	step    func(fd uintptr) bool
	b       []byte
	pipe    *pipe // instead of b
	left    int
	waits   bool // until the write deadline, instead of leaving it blocked
	blocked bool
	err     error
}

func (o *outlet) prepare() { o.step = o.writeStep }

func (o *outlet) moved() *atomic.Uint64 { return o.session.moved[o.side.other()] }

// write gives all of b to the side's kernel.
func (o *outlet) write(b []byte) error {
	if o.tls == nil {
		return o.push(b)
	}
	if _, err := o.tls.Write(b); err != nil {
		return err
	}
	o.moved().Add(uint64(len(b)))
	return nil
}

// Write writes a record of tls.
func (o *outlet) Write(record []byte) (int, error) { return len(record), o.push(record) }

func (o *outlet) push(b []byte) error {
	o.b, o.left = b, len(b)
	err := o.pushLeft()
	o.b = nil
	return err
}

// drainPipe gives the n bytes in the pipe to the side's kernel.
func (o *outlet) drainPipe(p *pipe, n int) error {
	o.pipe, o.left = p, n
	err := o.pushLeft()
	o.pipe = nil
	return err
}

func (o *outlet) pushLeft() error {
	err := o.try(false)
	for err == nil && o.blocked {
		err = o.wait()
	}
	return err
}

// try writes until all is written or, unless it waits, writing would block.
func (o *outlet) try(waits bool) error {
	o.waits, o.blocked, o.err = waits, false, nil
	return cmp.Or(o.raw.Write(o.step), o.err)
}

func (o *outlet) writeStep(fd uintptr) bool {
	for o.left > 0 {
		n, err := o.writeOnce(int(fd))
		switch {
		case err == nil:
			o.left -= n
			if o.tls == nil {
				o.moved().Add(uint64(n))
			}
		case errors.Is(err, unix.EAGAIN):
			o.blocked = true
			return !o.waits
		case !errors.Is(err, unix.EINTR):
			o.err = os.NewSyscallError("write", err)
			return true
		}
	}
	o.blocked = false
	return true
}

func (o *outlet) writeOnce(fd int) (n int, err error) {
	if o.pipe != nil {
		n, err := unix.Splice(o.pipe.r, nil, fd, nil, o.left, spliceFlags)
		return int(n), err
	}
	n, err = unix.Write(fd, o.b)
	o.b = o.b[max(n, 0):]
	return n, err
}

// lookEvery is how often a blocked writer looks whether its source is lost.
const lookEvery = time.Second

var errGaveUp = errors.New("the peer takes nothing, and what it would be sent next is a reset")

// wait writes on where that blocks. The kernel ends the wait for a peer that
// takes nothing for [socket.Options.DeadAfter]; when the source is lost meanwhile, it
// ends after lingerFor.
func (o *outlet) wait() error {
	tcp, from, left := o.tcp[o.side], o.side.other(), o.left
	for look := lookEvery; ; look = lingerFor {
		if err := tcp.SetWriteDeadline(time.Now().Add(look)); err != nil {
			return err
		}
		if err := o.try(true); !errors.Is(err, os.ErrDeadlineExceeded) {
			_ = tcp.SetWriteDeadline(time.Time{}) // fails only on a closed connection
			return err
		}
		switch lost := o.hiddenLoss(from); {
		case lost == nil, o.left != left:
			return nil // once more
		case look == lingerFor:
			return errGaveUp
		default:
			o.record(from, lost)
		}
	}
}
