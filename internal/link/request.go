package link

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/gate"
	"github.com/ohrouter/oh-router/internal/socket"
)

// Request is a ConnectCommand that waits for its answer: Accept or Reject.
type Request struct {
	Session string          // the router's name for the session
	Target  ohrouter.Target // canonical
	Parked  bool            // the AckCommand comes when a client does

	acceptor *Acceptor
	asked    time.Time
	conn     net.Conn // nil when somebody else has the connection
	place    place
	release  atomic.Pointer[func()] // gives back what a warm link costs; nil once that is done

	mu       sync.Mutex // guards what follows; held while the answer is sent and the AckCommand read
	answered bool
	acked    bool
	hungUp   bool
}

// move notes what the link is doing now, as States.move does.
func (r *Request) move(to state) bool { return r.acceptor.States.move(&r.place, to) }

// Answer returns the frame that tells a router that the target of a pipelined
// request is connected.
func (r *Request) Answer(resolved netip.AddrPort) []byte {
	r.move(active)
	b, err := frames.append(make([]byte, 0, 64), typeResponse, r.connected(resolved))
	if err != nil {
		panic(err) // nothing in it depends on the peer
	}
	return b
}

// Leaf returns the certificate that the router has proved to be its own; nil on
// a plain link, and once [Request.Accept] has handed the connection over.
func (r *Request) Leaf() *x509.Certificate {
	if secure, ok := r.conn.(*tls.Conn); ok {
		if chain := secure.ConnectionState().PeerCertificates; len(chain) > 0 {
			return chain[0]
		}
	}
	return nil
}

// Accept answers that the target is connected, at the address resolved, and
// waits for the AckCommand, which a parked link may leave to wait for 60 s.
// Then the session stands: the connection that Accept returns, and leaves to the
// caller, carries its raw bytes. When it fails the connection is closed; the
// error is ctx's when ctx ended, and io.EOF when the router gave the link up.
func (r *Request) Accept(ctx context.Context, resolved netip.AddrPort) (net.Conn, error) {
	if err := r.accept(ctx, resolved); err != nil {
		r.Close()
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	conn := r.conn
	r.conn = nil // the caller's, who closes it
	return conn, nil
}

func (r *Request) accept(ctx context.Context, resolved netip.AddrPort) error {
	if r.Parked {
		release, err := r.acceptor.park(gate.AddrOf(r.conn.RemoteAddr()))
		if err != nil {
			return errors.Join(err, r.Reject(ohrouter.CodeOf(err), ohrouter.Message(err)))
		}
		defer release()
		r.move(parked)
	}
	err := within(ctx, r.conn, ackTimeout, func() error {
		if err := r.answer(resolved); err != nil || !r.Parked {
			return err
		}
		return r.awaitAck()
	})
	switch {
	case err == nil:
		r.move(active)
	case ctx.Err() != nil:
		return ctx.Err()
	case r.Parked && errors.Is(err, syscall.ECONNRESET): // how a router gives up
		return io.EOF
	}
	return err
}

// awaitAck reads the AckCommand of a parked link when it comes. From then on a
// target that hangs up is the session's.
func (r *Request) awaitAck() error {
	if tcp := socket.TCP(r.conn); tcp != nil {
		err := socket.WaitUntil(tcp, func() bool { return socket.Pending(tcp) })
		if err != nil && !errors.Is(err, errors.ErrUnsupported) {
			return err
		}
		r.mu.Lock() // HangUp must not come between taking the AckCommand and knowing it
		defer r.mu.Unlock()
	}
	err := frames.read(r.conn, typeAck, &ackCommand{})
	r.acked = err == nil
	return err
}

// answer sends that the target is connected and, when that has hung up since,
// gives the link up behind it.
func (r *Request) answer(resolved netip.AddrPort) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.send(typeResponse, r.connected(resolved)); err != nil {
		return err
	}
	r.answered = true
	if r.hungUp {
		r.giveUp()
	}
	return nil
}

// HangUp gives a parked link up because its target has hung up: no client is to
// get it. The router still gets the answer that the target was connected, and a
// client that has come already gets what the target had to say.
func (r *Request) HangUp() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hungUp = true
	if r.answered && !r.acked {
		r.giveUp()
	}
}

// giveUp resets the link once the answer has arrived, unless there is an
// AckCommand to be read: a client may take an end in order for the target's.
func (r *Request) giveUp() {
	tcp := socket.TCP(r.conn)
	if tcp == nil {
		_ = r.conn.Close() // no client has come: nothing to tell anybody
		return
	}
	for end := time.Now().Add(answerArrives); time.Now().Before(end); {
		if info, ok := socket.Stat(tcp); !ok || info.Unsent == 0 {
			break
		}
		time.Sleep(time.Millisecond) // no event tells of it
	}
	if !socket.Pending(tcp) {
		socket.Abort(r.conn)
	}
}

// connected returns what tells a router that the target is connected.
func (r *Request) connected(resolved netip.AddrPort) *connectResponse {
	took := min(time.Since(r.asked).Microseconds(), math.MaxUint32)
	return &connectResponse{Resolved: resolved.String(), Patience: r.acceptor.patience(), Took: uint32(took)}
}

// Reject answers why there is no session and closes the connection. The error
// is that of sending the answer.
func (r *Request) Reject(code ohrouter.Code, message string) error {
	return r.refuse(typeResponse, &connectResponse{Code: code, Message: printable(message, maxMessage), Patience: r.acceptor.patience()})
}

// refuse sends an answer with a code and closes the connection.
func (r *Request) refuse(t frameType, message any) error {
	defer r.Close()
	if err := r.conn.SetDeadline(time.Now().Add(Timeout)); err != nil {
		return err
	}
	if err := r.send(t, message); err != nil {
		return err
	}
	r.lastWord()
	return nil
}

// lastWord lets what was sent arrive, until the connection's deadline. A reset
// would overtake it, and a close that leaves payload unread is one: the router
// is to close first.
func (r *Request) lastWord() {
	socket.Orderly(r.conn)
	if c, ok := r.conn.(interface{ CloseWrite() error }); ok {
		_ = c.CloseWrite() // fails only on a connection that has ended
	}
	_, _ = io.CopyN(io.Discard, r.conn, maxUnread) // any end will do
}

func (r *Request) send(t frameType, message any) error {
	b, err := frames.append(nil, t, message)
	if err != nil {
		return err
	}
	if _, err := r.conn.Write(b); err != nil {
		return fmt.Errorf("send %v: %w", t, err)
	}
	return nil
}

// Close closes the connection, whatever it is doing. It is idempotent.
func (r *Request) Close() {
	if r.move(closed) {
		r.asks()
		if r.conn != nil {
			closeTCP(r.conn) // the session is over: nothing left to tell anybody
		}
	}
}
