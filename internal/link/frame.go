package link

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/fxamacker/cbor/v2"

	ohrouter "github.com/ohrouter/oh-router"
)

// Version is the version of the protocol that PROTOCOL.md specifies. It is the
// first byte of every frame.
const Version = 1

// MaxBody is the most bytes that follow a frame's header. A longer length is
// refused before memory is taken for it.
const MaxBody = 4096

// Layout of a frame: version (1 byte), type (1), length of the body (2, big
// endian), body (a CBOR map with integer keys, RFC 8949).
const headerSize = 4

type frameType byte

const (
	typeConnect  frameType = 1
	typeResponse frameType = 2
	typeAck      frameType = 3
	typeWarm     frameType = 4
	typeReady    frameType = 5
)

func (t frameType) String() string {
	switch t {
	case typeConnect:
		return "ConnectCommand"
	case typeResponse:
		return "ConnectResponse"
	case typeAck:
		return "AckCommand"
	case typeWarm:
		return "WarmCommand"
	case typeReady:
		return "WarmResponse"
	}
	return fmt.Sprintf("frame of type %d", byte(t))
}

// connectCommand asks a proxy to connect to a target.
type connectCommand struct {
	Session string `cbor:"1,keyasint"`           // names the session in both logs
	Host    string `cbor:"2,keyasint"`           // canonical, see ohrouter.Target
	Port    uint16 `cbor:"3,keyasint"`           // of the target
	Park    bool   `cbor:"4,keyasint,omitempty"` // the AckCommand comes later: a check
}

// connectResponse says how connecting went.
type connectResponse struct {
	Code     ohrouter.Code `cbor:"1,keyasint,omitempty"` // empty: connected
	Resolved string        `cbor:"2,keyasint,omitempty"` // "ip:port" that was connected to
	Message  string        `cbor:"3,keyasint,omitempty"` // for people; never parsed
	Patience uint32        `cbor:"4,keyasint,omitempty"` // the longest the proxy takes to answer, in ms
	Took     uint32        `cbor:"7,keyasint,omitempty"` // from the ConnectCommand to this, in µs; 0 not told
}

// ackCommand makes the session stand. It has no fields yet.
type ackCommand struct{}

// warmCommand asks a proxy to wait for the ConnectCommand. It has no fields
// yet.
type warmCommand struct{}

// warmResponse says that the proxy waits, or why it does not.
type warmResponse struct {
	Code     ohrouter.Code `cbor:"1,keyasint,omitempty"` // empty: it waits
	Message  string        `cbor:"3,keyasint,omitempty"` // for people; never parsed
	Patience uint32        `cbor:"4,keyasint,omitempty"` // as in a ConnectResponse
}

// Limits of the fields that only people read.
const (
	maxSession = 64
	maxMessage = 512
)

// codec encodes deterministically and decodes strictly: no duplicate keys, no
// indefinite lengths, no tags, little nesting. Unknown keys are ignored, so that
// fields can be added.
type codec struct {
	enc cbor.UserBufferEncMode
	dec cbor.DecMode
	ack []byte // an AckCommand, which all are the same
}

func newCodec() codec {
	enc, err1 := cbor.CoreDetEncOptions().UserBufferEncMode()
	dec, err2 := cbor.DecOptions{
		DupMapKey:        cbor.DupMapKeyEnforcedAPF,
		IndefLength:      cbor.IndefLengthForbidden,
		TagsMd:           cbor.TagsForbidden,
		MaxNestedLevels:  4,
		MaxArrayElements: 16,
		MaxMapPairs:      16,
		UTF8:             cbor.UTF8RejectInvalid,
	}.DecMode()
	c := codec{enc: enc, dec: dec}
	ack, err3 := c.append(nil, typeAck, &ackCommand{})
	if err := errors.Join(err1, err2, err3); err != nil {
		panic(err) // the options are constants
	}
	c.ack = ack
	return c
}

// frames is the codec of this version.
var frames = newCodec()

// append appends a frame to b. The message is a pointer, which takes less
// memory.
func (c codec) append(b []byte, t frameType, message any) ([]byte, error) {
	begin := len(b)
	buf := bytes.NewBuffer(append(b, Version, byte(t), 0, 0))
	if err := c.enc.MarshalToBuffer(message, buf); err != nil {
		return nil, fmt.Errorf("encode %v: %w", t, err)
	}
	b = buf.Bytes()
	size := len(b) - begin - headerSize
	if size > MaxBody {
		return nil, fmt.Errorf("encode %v: %d bytes, of at most %d", t, size, MaxBody)
	}
	binary.BigEndian.PutUint16(b[begin+2:], uint16(size))
	return b, nil
}

// header reads the header of a frame of one of the wanted types.
func (c codec) header(b [headerSize]byte, want ...frameType) (t frameType, size int, err error) {
	t, size = frameType(b[1]), int(binary.BigEndian.Uint16(b[2:]))
	switch {
	case b[0] != Version:
		return 0, 0, protocolError("version %d of the protocol, want %d%s", b[0], Version, guess(b))
	case !slices.Contains(want, t):
		return 0, 0, protocolError("%v, want %v", t, want[0])
	case size > MaxBody:
		return 0, 0, protocolError("%v of %d bytes, of at most %d", t, size, MaxBody)
	}
	return t, size, nil
}

// read reads one frame of the wanted type from r, and not a byte more: what
// follows may be payload. An error of r comes back as it is when r ended
// before the first byte.
func (c codec) read(r io.Reader, want frameType, message any) error {
	_, body, err := c.next(r, want)
	if err != nil {
		return err
	}
	return c.decode(want, body, message)
}

// next is read without decode, for a frame of any of the wanted types.
func (c codec) next(r io.Reader, want ...frameType) (got frameType, body []byte, err error) {
	var header [headerSize]byte
	if n, err := io.ReadFull(r, header[:]); err != nil {
		if n == 0 {
			return 0, nil, err
		}
		return 0, nil, fmt.Errorf("read header of %v: %w", want[0], err)
	}
	got, size, err := c.header(header, want...)
	if err != nil {
		return 0, nil, err
	}
	body = make([]byte, size)
	if _, err := io.ReadFull(r, body); err != nil {
		return 0, nil, fmt.Errorf("read %v: %w", got, inside(err))
	}
	return got, body, nil
}

// take reads one frame of the wanted type from the front of b and returns its
// length, 0 when it is not there as a whole.
func (c codec) take(b []byte, want frameType, message any) (n int, err error) {
	n, err = c.length(b, want)
	if err != nil || len(b) < n {
		return 0, err
	}
	if err := c.decode(want, b[headerSize:n], message); err != nil {
		return 0, err
	}
	return n, nil
}

// length returns how long the frame of the wanted type at the front of b is, as
// far as that shows.
func (c codec) length(b []byte, want frameType) (n int, err error) {
	if len(b) < headerSize {
		return headerSize, nil
	}
	_, size, err := c.header([headerSize]byte(b), want)
	return headerSize + size, err
}

// decode decodes the body of a frame.
func (c codec) decode(t frameType, body []byte, message any) error {
	if len(body) == 0 || body[0]>>5 != cborMap { // the decoder would take a null for an empty message
		return protocolError("%v whose body is not a CBOR map", t)
	}
	if err := c.dec.Unmarshal(body, message); err != nil {
		return protocolError("%v: %.200v", t, err)
	}
	return nil
}

// cborMap is the major type of a map (RFC 8949, section 3.1).
const cborMap = 5

// inside returns the error of a reader that ended in the middle of something.
func inside(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// protocolError is a peer that does not follow the protocol.
func protocolError(format string, args ...any) error {
	return ohrouter.Errorf(ohrouter.InvalidRequest, "peer sent "+format, args...)
}

// guess says what the peer may be that begins with these bytes.
func guess(header [headerSize]byte) string {
	switch h := string(header[:]); {
	case h == "GET " || h == "POST" || h == "HEAD" || h == "PUT " || h == "HTTP":
		return "; it looks like HTTP"
	case header[0] == 0x16 && header[1] == 3:
		return "; it looks like TLS"
	case h == "SSH-":
		return "; it looks like SSH"
	}
	return ""
}

// target returns the target of a command, which the peer may have made up.
func (m *connectCommand) target() (ohrouter.Target, error) {
	if len(m.Session) > maxSession {
		return ohrouter.Target{}, protocolError("a session name of %d bytes, of at most %d", len(m.Session), maxSession)
	}
	t, err := ohrouter.NewTarget(m.Host, strconv.Itoa(int(m.Port)))
	if err != nil {
		return ohrouter.Target{}, err
	}
	if t.Host != m.Host {
		return ohrouter.Target{}, protocolError("host %q, which is not canonical: want %q", m.Host, t.Host)
	}
	return t, nil
}

// result returns what a response means, which the peer may have made up.
func (m *connectResponse) result() (netip.AddrPort, error) {
	if m.Code != "" {
		return netip.AddrPort{}, m.refusal()
	}
	addr, err := netip.ParseAddrPort(m.Resolved)
	if err != nil || addr.Port() == 0 || addr.Addr().Zone() != "" {
		return netip.AddrPort{}, protocolError("an address that is none: %.60q", m.Resolved)
	}
	return netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port()), nil
}

// refusal returns the error that a response with a code stands for.
func (m *connectResponse) refusal() error {
	code := m.Code
	if !code.Known() {
		code = ohrouter.Internal
	}
	return ohrouter.Errorf(code, "%s", printable(m.Message, maxMessage))
}

// printable returns what a person may see of s: at most limit bytes of it, in
// UTF-8, with a question mark for each character that could disturb a terminal
// or a log.
func printable(s string, limit int) string {
	if len(s) > limit {
		s = s[:limit] // perhaps within a character
	}
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s, ""))
}
