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

	"github.com/ohrouter/oh-router/internal/socket"
)

// secure is the TLS of an end. crypto/tls is a filter between the socket and
// the pair: it reads records through Read and writes them through Write, which
// never wait, and both only when the loop's goroutine calls it.
type secure struct {
	conn    *tls.Conn
	end     *end
	shake   *handshake // nil once it is complete
	corked  bool       // what is written waits for more
	more    bool       // there are more records to come at once
	held    held
	dry     bool   // the socket gave less than was asked for
	queue   []byte // records that the socket has not taken
	flooded bool   // there were to be more than maxQueue
}

// maxQueue is above what the records of a loop's buffer take. The rest is what
// crypto/tls writes by itself: its answers to the peer's key updates, which come
// from a peer that does not read them.
const maxQueue = loopBuffer + 64<<10

// errFlooded is why such a peer is cut.
var errFlooded = fmt.Errorf("more than %d bytes for a TLS peer that does not read them", maxQueue)

// overTLS returns the TCP connection under c, and c if it is TLS; nil when no
// loop can carry it.
func overTLS(c net.Conn) (tcp *net.TCPConn, conn *tls.Conn) {
	switch c := c.(type) {
	case *net.TCPConn:
		return c, nil
	case *tls.Conn:
		if t, ok := c.NetConn().(*socket.Transport); ok && c.ConnectionState().HandshakeComplete {
			return t.TCPConn, c
		}
	}
	return nil, nil
}

// wrap makes conn, whose handshake is complete, the TLS of e.
func (e *end) wrap(conn *tls.Conn) {
	e.secure = &secure{conn: conn, end: e, held: heldBy(conn)}
	e.readable = true // what came with the handshake
	e.secure.transport().TakeOver(e.secure)
}

func (s *secure) transport() *socket.Transport { return s.conn.NetConn().(*socket.Transport) }

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

// Read reads records for crypto/tls.
func (s *secure) Read(b []byte) (int, error) {
	if s.shake != nil {
		return s.shake.read(b)
	}
	if s.dry {
		return 0, errNothingYet
	}
	n, err := socket.Read(s.end.fd, b)
	switch {
	case errors.Is(err, unix.EAGAIN):
		s.dry = true
		return 0, errNothingYet
	case err != nil:
		return 0, os.NewSyscallError("read", err)
	case n == 0:
		return 0, errTruncated
	}
	s.dry = n < len(b) && !s.end.last
	return n, nil
}

// Write writes records of crypto/tls, or keeps what the socket does not take:
// those of one buffer, as nothing is read for an end that is full, and what
// crypto/tls says of itself, up to maxQueue.
func (s *secure) Write(b []byte) (int, error) {
	if s.end.pair.over { // crypto/tls is closed by who does not know
		return 0, net.ErrClosed
	}
	n := 0
	if len(s.queue) == 0 && !s.end.full && !s.corked {
		var err error
		if n, err = s.take(b); err != nil {
			return 0, err
		}
	}
	if len(s.queue)+len(b)-n > maxQueue {
		s.flooded = true // crypto/tls keeps an error of its own answers to itself
		return n, errFlooded
	}
	s.queue = append(s.queue, b[n:]...)
	return len(b), nil
}

// maxRecord is how much is in a record (RFC 8446, section 5.1).
const maxRecord = 16 << 10

// write encrypts b and sends it with what has waited. A segment takes several
// records.
func (s *secure) write(b []byte) error {
	s.more = len(b) > maxRecord
	_, err := s.conn.Write(b)
	switch {
	case err != nil:
	case s.corked:
		s.more = false
		err = s.uncork()
	case s.more && !s.end.full:
		err = os.NewSyscallError("setsockopt", socket.Push(s.end.fd))
	}
	s.more = false
	return err
}

// uncork sends what has waited.
func (s *secure) uncork() error {
	s.corked = false
	if s.end.full {
		return nil
	}
	return s.push()
}

// push gives the socket what is queued.
func (s *secure) push() error {
	n, err := s.take(s.queue)
	if s.queue = s.queue[n:]; len(s.queue) == 0 {
		s.queue = nil
	}
	return err
}

// take gives the socket of b what it takes.
func (s *secure) take(b []byte) (n int, err error) {
	write := socket.Write
	if s.more {
		write = socket.WriteMore
	}
	for n < len(b) {
		m, err := write(s.end.fd, b[n:])
		switch {
		case m > 0:
			n += m
		case errors.Is(err, unix.EAGAIN):
			s.end.pair.blocked(s.end)
			return n, nil
		default:
			return n, os.NewSyscallError("write", err)
		}
	}
	return n, nil
}

// decrypt moves what the socket and crypto/tls have, up to a buffer.
func (p *pair) decrypt(e *end) {
	buf := p.on().buf[:]
	n, err := e.secure.read(buf)
	if n == len(buf) {
		e.keepShallow()
	}
	p.give(e, buf[:n])
	switch {
	case p.over || err == nil:
	case errors.Is(err, errNothingYet):
		e.readable = false
	case errors.Is(err, io.EOF):
		e.eof = true
		p.record(e.side, e.lost)
	default:
		p.lostEnd(e, err)
		e.eof = true
	}
}

// read fills b with what the socket and crypto/tls have. The error is why there
// is no more now.
func (s *secure) read(b []byte) (n int, err error) {
	s.dry = false
	s.held.lend()
	for n < len(b) && err == nil {
		var m int
		m, err = s.conn.Read(b[n:])
		n += m
		switch {
		case s.flooded:
			err = errFlooded
		case err == nil && s.drained():
			err = errNothingYet // as Read would say, and allocate
		}
	}
	s.held.takeBack()
	return n, err
}

// drained tells that there is nothing to read.
func (s *secure) drained() bool { return s.dry && s.held.empty() && !s.transport().Buffered() }

// encrypt gives o, which uses TLS, bytes that were read from e.
func (p *pair) encrypt(e *end, b []byte) {
	o := e.other()
	if err := o.secure.write(b); err != nil {
		p.lostEnd(o, err)
		return
	}
	e.count(len(b))
}

// held is what crypto/tls keeps for the life of a connection and shows nobody:
// a buffer as large as the largest records needed, 36 KiB after a bulk
// transfer, and one for messages of the handshake. An idle session is to cost
// less, and a larger buffer makes fewer reads. So tls reads into a borrowed
// buffer, and while it has nothing in it, it has none.
//
// That is right because tls touches these fields in Read only, once the
// handshake is complete; only the loop's goroutine calls that, and it calls lend
// and takeBack in between; and empty buffers are as good as new ones. Where a
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
