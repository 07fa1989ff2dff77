package relay

import (
	"crypto/tls"
	"errors"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// inlet reads a side of a session.
type inlet struct {
	*session
	side Side
	raw  syscall.RawConn
	buf  *[bufferSize]byte // borrowed while bytes are on the way

	// Steps are made once, for each is an allocation. They leave what they got.
	read, wait func(fd uintptr) bool
	n          int
	err        error

	tls   *tls.Conn // nil when the side is plain
	held  held      // the buffers of tls
	full  bool      // buf was filled: tls may hold more
	short bool      // the socket gave less than was asked for
	asked bool      // by waitStep, whether there is something
	into  []byte    // where recordStep reads
	ask   [1]unix.PollFd
}

func (in *inlet) prepare() {
	in.read = in.plainStep
	if in.tls != nil {
		in.read, in.wait = in.recordStep, in.waitStep
		in.held = heldBy(in.tls)
		in.full = true // of what came with the handshake
	}
}

// next waits for bytes and returns them, in a buffer for putBuffer if there are
// any. An error comes after them.
func (in *inlet) next() (b []byte, err error) {
	if in.tls == nil {
		return in.nextPlain()
	}
	for {
		if !in.full {
			in.asked, in.short = false, false
			if err := in.raw.Read(in.wait); err != nil {
				return nil, err
			}
		}
		n, err := in.decrypt()
		if n > 0 {
			b = in.buf[:n]
		} else {
			in.putBuffer()
		}
		switch {
		case !errors.Is(err, errNothingYet):
			return b, err
		case n > 0:
			return b, nil
		}
	}
}

func (in *inlet) nextPlain() (b []byte, err error) {
	werr := in.raw.Read(in.read)
	switch {
	case werr != nil:
		return nil, werr
	case in.err != nil:
		return nil, os.NewSyscallError("read", in.err)
	case in.n == 0:
		return nil, io.EOF
	}
	return in.buf[:in.n], nil
}

// plainStep reads what a plain side has, and waits while it has nothing.
func (in *inlet) plainStep(fd uintptr) bool {
	in.buf = buffers.Get().(*[bufferSize]byte)
	in.n, in.err = readFD(fd, in.buf[:])
	if in.n <= 0 {
		in.putBuffer()
	}
	return !errors.Is(in.err, unix.EAGAIN)
}

func (in *inlet) putBuffer() {
	buffers.Put(in.buf)
	in.buf = nil
}

func readFD(fd uintptr, b []byte) (int, error) {
	return ignoringEINTR(func() (int, error) { return unix.Read(int(fd), b) })
}

func ignoringEINTR(f func() (int, error)) (int, error) {
	for {
		n, err := f()
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}
