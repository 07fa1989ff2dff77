package relay

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"github.com/ohrouter/oh-router/internal/socket"
)

// carry is how a session moves its bytes where both sides are plain TCP, or
// TLS over a [socket.Transport].
type carry struct {
	copiers [2]*copier // by the side they read; nil where copyBuffered has to do
}

// takeOver makes the copiers of a session, if it can have them.
func (s *session) takeOver() {
	var made [2]*copier
	for side := range made {
		made[side] = &copier{in: inlet{session: s, side: Side(side)}, out: outlet{session: s, side: Side(side).other()}}
	}
	var under [2]*socket.Transport
	for side := range s.conns {
		in, out := &made[side].in, &made[1-side].out
		switch c := s.conns[side].(type) {
		case *net.TCPConn:
		case *tls.Conn:
			t, ok := c.NetConn().(*socket.Transport)
			if !ok || !c.ConnectionState().HandshakeComplete {
				return
			}
			under[side], in.tls, out.tls = t, c, c
		default:
			return
		}
		raw, err := s.tcp[side].SyscallConn()
		if err != nil {
			return
		}
		in.raw, out.raw = raw, raw
	}
	for side, c := range made {
		c.prepare()
		if under[side] != nil {
			under[side].TakeOver(records{&c.in, &made[1-side].out})
		}
	}
	s.copiers = made
}

// copy moves bytes until the end of the stream (nil) or a failure of one side.
func (s *session) copy(from Side) (failed Side, err error) {
	if c := s.copiers[from]; c != nil {
		return c.run()
	}
	return s.copyBuffered(from)
}

// copier moves the bytes of one side to the other. It borrows a buffer when
// bytes have come, and between plain TCP it goes over to splice(2) while they
// come faster than a buffer holds.
type copier struct {
	in      inlet
	out     outlet
	splices bool

	fill   func(fd uintptr) bool // fillStep; made once, for each is an allocation
	pipe   *pipe                 // borrowed by splice
	filled int                   // what fillStep has moved into it
	err    error                 // of fillStep
}

func (c *copier) prepare() {
	c.in.prepare()
	c.out.prepare()
	c.splices = c.in.tls == nil && c.out.tls == nil
	c.fill = c.fillStep
}

func (c *copier) run() (failed Side, err error) {
	from, to := c.in.side, c.out.side
	for {
		b, err := c.in.next()
		if len(b) > 0 {
			werr := c.out.write(b)
			c.in.putBuffer()
			if werr != nil {
				return to, werr
			}
		}
		if c.splices && len(b) == bufferSize {
			if failed, err = c.splice(); failed != from {
				return failed, err
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return from, nil
		case err != nil:
			return from, err
		}
	}
}

// splice moves bytes through a pipe while they arrive in bulk. A nil error
// means that they no longer do.
func (c *copier) splice() (failed Side, err error) {
	from, to := c.in.side, c.out.side
	p := pipes.get()
	if p == nil {
		return from, nil // no descriptors left: buffers still work
	}
	for {
		n, err := c.fillPipe(p)
		if n <= 0 {
			pipes.put(p)
			return from, err
		}
		if err := c.out.drainPipe(p, n); err != nil {
			pipes.drop(p)
			return to, err
		}
		if n < bufferSize/4 {
			pipes.put(p)
			return from, nil
		}
	}
}

const spliceFlags = unix.SPLICE_F_MOVE | unix.SPLICE_F_NONBLOCK

// fillPipe moves what the source has into the empty pipe. It does not wait: 0
// and no error means that there is nothing now.
func (c *copier) fillPipe(p *pipe) (n int, err error) {
	c.pipe = p
	werr := c.in.raw.Read(c.fill)
	c.pipe = nil
	switch {
	case werr != nil:
		return 0, werr
	case errors.Is(c.err, unix.EAGAIN):
		return 0, nil
	case c.err != nil:
		return 0, os.NewSyscallError("splice", c.err)
	}
	return c.filled, nil
}

func (c *copier) fillStep(fd uintptr) bool {
	c.filled, c.err = ignoringEINTR(func() (int, error) {
		n, err := unix.Splice(int(fd), nil, c.pipe.w, nil, c.pipe.size, spliceFlags)
		return int(n), err
	})
	return true
}
