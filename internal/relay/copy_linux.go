package relay

import (
	"cmp"
	"errors"
	"io"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// copyTCP moves the bytes of one TCP connection to the other. It waits for
// bytes before it borrows a buffer, and goes over to splice(2) while they
// arrive faster than a buffer holds.
func (s *session) copyTCP(from Side) (failed Side, err error) {
	src, err := s.tcp[from].SyscallConn()
	if err != nil {
		return from, err
	}
	dst, err := s.tcp[from.other()].SyscallConn()
	if err != nil {
		return from.other(), err
	}
	c := &tcpCopy{session: s, from: from, src: src, dst: dst}
	return c.run()
}

type tcpCopy struct {
	*session
	from     Side
	src, dst syscall.RawConn
	buf      *[bufferSize]byte // borrowed while bytes are on the way
}

func (c *tcpCopy) run() (failed Side, err error) {
	for {
		n, err := c.read()
		if err == nil {
			err = c.write(c.buf[:n])
			c.putBuffer()
			if err != nil {
				return c.from.other(), err
			}
		}
		if n == bufferSize {
			var dead Side
			if dead, err = c.splice(); dead != c.from {
				return dead, err
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return c.from, nil
		case err != nil:
			return c.from, err
		}
	}
}

// read waits for bytes and returns them in c.buf.
func (c *tcpCopy) read() (n int, err error) {
	werr := c.src.Read(func(fd uintptr) bool {
		c.buf = buffers.Get().(*[bufferSize]byte)
		n, err = ignoringEINTR(func() (int, error) { return unix.Read(int(fd), c.buf[:]) })
		if err == nil && n > 0 {
			return true
		}
		c.putBuffer()
		return !errors.Is(err, unix.EAGAIN)
	})
	switch {
	case werr != nil:
		return 0, werr
	case err != nil:
		return 0, os.NewSyscallError("read", err)
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

func (c *tcpCopy) putBuffer() {
	buffers.Put(c.buf)
	c.buf = nil
}

// write gives all of b to the destination's kernel.
func (c *tcpCopy) write(b []byte) error {
	return c.push(func(fd int) (bool, error) {
		n, err := unix.Write(fd, b)
		if n > 0 {
			c.moved[c.from].Add(uint64(n))
			b = b[n:]
		}
		return len(b) == 0, err
	})
}

// splice moves bytes through a pipe while they arrive in bulk. A nil error
// means that they no longer do.
func (c *tcpCopy) splice() (failed Side, err error) {
	p := pipes.get()
	if p == nil {
		return c.from, nil // no descriptors left: buffers still work
	}
	for {
		n, err := c.fill(p)
		if n <= 0 {
			pipes.put(p)
			return c.from, err
		}
		if err := c.drainPipe(p, n); err != nil {
			pipes.drop(p)
			return c.from.other(), err
		}
		if n < bufferSize/4 {
			pipes.put(p)
			return c.from, nil
		}
	}
}

const spliceFlags = unix.SPLICE_F_MOVE | unix.SPLICE_F_NONBLOCK

// fill moves what the source has into the empty pipe. It does not wait: 0 and
// no error means that there is nothing now.
func (c *tcpCopy) fill(p *pipe) (n int, err error) {
	werr := c.src.Read(func(fd uintptr) bool {
		n, err = ignoringEINTR(func() (int, error) {
			n, err := unix.Splice(int(fd), nil, p.w, nil, p.size, spliceFlags)
			return int(n), err
		})
		return true
	})
	switch {
	case werr != nil:
		return 0, werr
	case errors.Is(err, unix.EAGAIN):
		return 0, nil
	case err != nil:
		return 0, os.NewSyscallError("splice", err)
	}
	return n, nil
}

// drainPipe gives the n bytes in the pipe to the destination's kernel.
func (c *tcpCopy) drainPipe(p *pipe, n int) error {
	return c.push(func(fd int) (bool, error) {
		m, err := unix.Splice(p.r, nil, fd, nil, n, spliceFlags)
		if m > 0 {
			c.moved[c.from].Add(uint64(m))
			n -= int(m)
		}
		return n == 0, err
	})
}

// push calls step with the destination's descriptor until it is done, waiting
// while it would block.
func (c *tcpCopy) push(step func(fd int) (done bool, err error)) error {
	blocked, err := c.try(step, false)
	for err == nil && blocked {
		blocked, err = c.wait(step)
	}
	return err
}

// try calls step until it is done, fails, or would block; wait makes it wait
// instead, until the destination's write deadline.
func (c *tcpCopy) try(step func(fd int) (done bool, err error), wait bool) (blocked bool, err error) {
	werr := c.dst.Write(func(fd uintptr) bool {
		for {
			var done bool
			done, err = step(int(fd))
			switch {
			case done:
				blocked, err = false, nil
				return true
			case errors.Is(err, unix.EAGAIN):
				blocked, err = true, nil
				return !wait
			case err != nil && !errors.Is(err, unix.EINTR):
				err = os.NewSyscallError("write", err)
				return true
			}
		}
	})
	return blocked, cmp.Or(werr, err)
}

// lookEvery is how often a blocked writer looks whether its source is lost.
const lookEvery = time.Second

var errGaveUp = errors.New("the peer takes nothing, and what it would be sent next is a reset")

// wait is try for a destination that blocks. The kernel ends the wait for a
// peer that takes nothing for [socket.DeadAfter]; when the source is lost
// meanwhile, it ends after lingerFor.
func (c *tcpCopy) wait(step func(fd int) (done bool, err error)) (blocked bool, err error) {
	to, moved := c.tcp[c.from.other()], c.moved[c.from].Load()
	for look := lookEvery; ; look = lingerFor {
		if err := to.SetWriteDeadline(time.Now().Add(look)); err != nil {
			return false, err
		}
		blocked, err := c.try(step, true)
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			_ = to.SetWriteDeadline(time.Time{}) // fails only on a closed connection
			return blocked, err
		}
		switch lost := c.hiddenLoss(c.from); {
		case lost == nil, c.moved[c.from].Load() != moved:
			return true, nil // once more
		case look == lingerFor:
			return false, errGaveUp
		default:
			c.record(c.from, lost)
		}
	}
}

func ignoringEINTR(f func() (int, error)) (int, error) {
	for {
		n, err := f()
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}
