package relay

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"reflect"

	"golang.org/x/sys/unix"
)

// records is what crypto/tls reads and writes of a side: whole records or
// parts, never waiting to read.
type records struct {
	*inlet
	*outlet
}

// errNothingYet is what crypto/tls hears of a socket that has nothing now. It
// goes on after an error that is temporary, and has kept the part of a record
// that it has.
var errNothingYet net.Error = nothingYet{}

type nothingYet struct{}

func (nothingYet) Error() string   { return "nothing has come yet" }
func (nothingYet) Timeout() bool   { return true }
func (nothingYet) Temporary() bool { return true }

// errTruncated is a FIN without a close_notify, which anybody may have sent. It
// is no plain io.EOF or io.ErrUnexpectedEOF: between two records crypto/tls
// would take these for the end of the stream.
var errTruncated = fmt.Errorf("TLS ended without close_notify: %w", io.ErrUnexpectedEOF)

// decrypt fills the buffer with what tls and the socket have. It does not wait:
// errNothingYet means that neither has more.
func (in *inlet) decrypt() (n int, err error) {
	in.buf = buffers.Get().(*[bufferSize]byte)
	in.held.lend()
	for n < len(in.buf) && err == nil {
		var m int
		m, err = in.tls.Read(in.buf[n:])
		n += m
		if err == nil && in.short && in.held.empty() {
			err = errNothingYet // as Read would say, and allocate
		}
	}
	in.held.takeBack()
	in.full = err == nil
	return n, err
}

// Read reads records for tls.
func (in *inlet) Read(b []byte) (int, error) {
	if in.short {
		return 0, errNothingYet // if something has come since, next finds it
	}
	in.into = b
	werr := in.raw.Read(in.read)
	in.into = nil
	switch {
	case werr != nil:
		return 0, werr
	case errors.Is(in.err, unix.EAGAIN):
		in.short = true
		return 0, errNothingYet
	case in.err != nil:
		return 0, os.NewSyscallError("read", in.err)
	case in.n == 0:
		return 0, errTruncated
	}
	in.short = in.n < len(b)
	return in.n, nil
}

func (in *inlet) recordStep(fd uintptr) bool {
	in.n, in.err = readFD(fd, in.into)
	return true
}

// waitStep waits until the socket has something, an end or an error too. What
// came since a short read it finds by asking; what comes later wakes it.
func (in *inlet) waitStep(fd uintptr) bool {
	if in.asked {
		return true
	}
	in.asked = true
	in.ask[0] = unix.PollFd{Fd: int32(fd), Events: unix.POLLIN | unix.POLLRDHUP}
	n, err := unix.Poll(in.ask[:], 0)
	return n != 0 || err != nil // an error: reading will tell
}

// held is what crypto/tls keeps for the life of a connection and shows nobody:
// a buffer as large as the largest records needed, 36 KiB after a bulk
// transfer, and one for messages of the handshake. An idle session is to cost
// less, and a larger buffer makes fewer reads. So tls reads into a borrowed
// buffer, and while it has nothing in it, it has none.
//
// That is right because tls touches these fields in Read only, once the
// handshake is complete; only one goroutine calls that, and it calls lend and
// takeBack in between; and empty buffers are as good as new ones. Where a
// version of Go has other fields, nothing is lent and all still works.
type held struct {
	raw       *bytes.Buffer // records not yet decrypted; nil when not found
	plain     *bytes.Reader // the rest of a decrypted record, in raw's memory
	handshake *bytes.Buffer
	lent      *[bufferSize]byte
}

func heldBy(c *tls.Conn) held {
	v := reflect.ValueOf(c).Elem()
	raw, okRaw := field[bytes.Buffer](v, "rawInput")
	plain, okPlain := field[bytes.Reader](v, "input")
	handshake, okHandshake := field[bytes.Buffer](v, "hand")
	if !okRaw || !okPlain || !okHandshake {
		return held{}
	}
	return held{raw: raw, plain: plain, handshake: handshake}
}

func field[T any](v reflect.Value, name string) (at *T, ok bool) {
	f := v.FieldByName(name)
	if !f.IsValid() || f.Type() != reflect.TypeFor[T]() {
		return nil, false
	}
	return (*T)(f.Addr().UnsafePointer()), true
}

// empty tells that tls has nothing; false when that is not known.
func (h *held) empty() bool { return h.raw != nil && h.raw.Len() == 0 && h.plain.Len() == 0 }

func (h *held) lend() {
	if h.lent == nil && h.empty() {
		h.lent = buffers.Get().(*[bufferSize]byte)
		*h.raw = *bytes.NewBuffer(h.lent[:0])
	}
}

// takeBack leaves a part of a record where it is.
func (h *held) takeBack() {
	if !h.empty() {
		return
	}
	*h.raw = bytes.Buffer{}
	h.plain.Reset(nil) // it would keep the memory
	if h.handshake.Len() == 0 {
		*h.handshake = bytes.Buffer{}
	}
	if h.lent != nil {
		buffers.Put(h.lent)
		h.lent = nil
	}
}
