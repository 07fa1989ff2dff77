// Package gate bounds what peers get of a server before they have said who they
// are: bytes of a TLS handshake, connections, and time.
package gate

import (
	"encoding/binary"
	"io"
	"sync/atomic"

	ohrouter "github.com/ohrouter/oh-router"
)

// MaxHello is the most bytes that a client may send before the server has
// answered. A key share that no quantum computer breaks takes 1.2 KiB of them.
const MaxHello = 4 << 10

// Handshake is a connection whose peer may send so many bytes of TLS and no
// more. It reads record by record: crypto/tls takes memory for a record when it
// has its header, and here that is looked at first; and what comes behind a
// handshake stays in the connection, so that it can be read without a
// Handshake. It is made by [NewHandshake].
type Handshake struct {
	conn   io.ReadWriter
	turn   func() (done func(), err error) // to work out an answer; nil: at any time
	done   func()                          // ends the turn; nil without one
	lifted atomic.Bool
	most   int  // bytes that may come in all
	left   int  // bytes that may still come
	hello  int  // the same, until the server answers; only then it is not 0
	spoke  bool // the first header has been read
	header [5]byte
	have   int // of the header
	body   int // what is missing of the record
}

// NewHandshake bounds what is read from conn. TLS is to have no bytes of it yet.
func NewHandshake(conn io.ReadWriter, most int) *Handshake {
	return &Handshake{conn: conn, most: most, left: most, hello: min(MaxHello, most)}
}

// Turn has the server wait for its turn when it is to work out its answer. After
// the handshake, or its failure, comes [Handshake.Over].
func (h *Handshake) Turn(turn func() (done func(), err error)) { h.turn = turn }

// Over ends a turn that has not ended with an answer.
func (h *Handshake) Over() {
	if h.done != nil {
		h.done()
		h.done = nil
	}
}

// Refill lets the peer send so many more bytes, when its handshake is complete.
func (h *Handshake) Refill(n int) { h.most, h.left, h.hello = n, n, 0 }

// Lift lets the peer send what it likes, also to a read that waits.
func (h *Handshake) Lift() { h.lifted.Store(true) }

// Read reads from one record. It fails when the peer announces one that is more
// than it may send.
func (h *Handshake) Read(b []byte) (int, error) {
	h.Over()
	if h.body > 0 {
		n, err := h.conn.Read(b[:min(len(b), h.body)])
		if h.body -= n; h.body > 0 || h.hello == 0 || h.turn == nil || err != nil {
			return n, err
		}
		h.done, err = h.turn()
		return n, err
	}
	n, err := h.conn.Read(b[:min(len(b), len(h.header)-h.have)])
	h.have += copy(h.header[h.have:], b[:n])
	if h.have < len(h.header) {
		return n, err
	}
	h.have = 0
	return n, h.begin(err)
}

// begin takes a record from what may come, when its header has been read.
func (h *Handshake) begin(err error) error {
	first := !h.spoke
	h.spoke = true
	if first && !isTLS(h.header) {
		return err // crypto/tls says so, and reads no more
	}
	h.body = int(binary.BigEndian.Uint16(h.header[3:]))
	size := len(h.header) + h.body
	switch {
	case h.lifted.Load():
		return err
	case h.hello > 0 && size > h.hello:
		return tooMuch(min(MaxHello, h.most), "before it was answered")
	case size > h.left:
		return tooMuch(h.most, "before it has proved who it is; if its certificates are so large, raise --max-handshake-bytes")
	}
	if h.hello > 0 {
		h.hello -= size
		h.hello = max(h.hello, 1) // 0 is answered
	}
	h.left -= size
	return err
}

// Write sends an answer.
func (h *Handshake) Write(b []byte) (int, error) {
	if h.hello > 0 { // later a reader may look at it at the same time
		h.hello = 0
		h.Over()
	}
	return h.conn.Write(b)
}

// isTLS tells whether crypto/tls goes on behind the first header.
func isTLS(header [5]byte) bool {
	const alert, handshake = 21, 22
	return (header[0] == alert || header[0] == handshake) && header[1] < 0x10
}

func tooMuch(most int, when string) error {
	return ohrouter.Errorf(ohrouter.InvalidRequest, "the peer sends more than %d bytes of TLS %s", most, when)
}
