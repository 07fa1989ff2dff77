package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/socket"
)

// How long and how often a peer may leave its part of the handshake undone.
const (
	Timeout      = 5 * time.Second  // for every step that needs nobody else
	ackTimeout   = 60 * time.Second // for the AckCommand of a parked link
	maxPerSource = 1024             // parked links of one address
)

// Acceptor is the proxy's end of the handshake. Its fields are set before its
// first use.
type Acceptor struct {
	States   *States
	Patience time.Duration // the longest the proxy takes to answer a ConnectCommand

	mu     sync.Mutex // guards parked; never held during I/O
	parked map[netip.Addr]int
}

// Request is a ConnectCommand that waits for its answer: Accept or Reject.
type Request struct {
	Session string          // the router's name for the session
	Target  ohrouter.Target // canonical
	Parked  bool            // the AckCommand comes when a client does

	acceptor *Acceptor
	conn     net.Conn
	tracker  *tracker
}

// Accept reads a ConnectCommand from conn. When it fails conn is closed. The
// error is io.EOF when the peer closed before it sent anything, and else has
// code [ohrouter.InvalidRequest] when the peer does not follow the protocol.
// Ending ctx ends the handshake, also in Request.Accept.
func (a *Acceptor) Accept(ctx context.Context, conn net.Conn) (*Request, error) {
	r := &Request{acceptor: a, conn: conn, tracker: a.States.track()}
	if err := r.receive(ctx); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

func (r *Request) receive(ctx context.Context) error {
	if err := r.conn.SetDeadline(time.Now().Add(Timeout)); err != nil {
		return err
	}
	defer r.interrupt(ctx)()
	var m connectCommand
	if err := frames.read(r.conn, typeConnect, &m); err != nil {
		return err
	}
	t, err := m.target()
	if err != nil {
		return err
	}
	r.Session, r.Target, r.Parked = printable(m.Session), t, m.Park
	if !r.Parked { // its AckCommand is right behind
		return r.readAck()
	}
	return nil
}

func (r *Request) readAck() error {
	var m ackCommand
	return frames.read(r.conn, typeAck, &m)
}

// interrupt makes the end of ctx fail what r's connection is doing, until the
// function that it returns is called.
func (r *Request) interrupt(ctx context.Context) (stop func() bool) {
	return context.AfterFunc(ctx, func() {
		_ = r.conn.SetDeadline(time.Unix(1, 0)) // fails only on a closed connection
	})
}

// Accept answers that the target is connected, at the address resolved, and
// waits for the AckCommand, which a parked link may leave to wait for 60 s.
// Then the session stands: the connection that Accept returns carries its raw
// bytes. When it fails the connection is closed.
func (r *Request) Accept(ctx context.Context, resolved netip.AddrPort) (net.Conn, error) {
	if err := r.accept(ctx, resolved); err != nil {
		r.Close()
		return nil, err
	}
	return r.conn, nil
}

func (r *Request) accept(ctx context.Context, resolved netip.AddrPort) error {
	defer r.interrupt(ctx)()
	if r.Parked {
		release, err := r.acceptor.park(r.conn.RemoteAddr())
		if err != nil {
			return errors.Join(err, r.respond(connectResponse{Code: ohrouter.CodeOf(err), Message: ohrouter.Message(err)}))
		}
		defer release()
		r.tracker.move(parked)
	}
	if err := r.respond(connectResponse{Resolved: resolved.String()}); err != nil {
		return err
	}
	if r.Parked {
		if err := r.conn.SetReadDeadline(time.Now().Add(ackTimeout)); err != nil {
			return err
		}
		if err := r.readAck(); err != nil {
			return err
		}
	}
	r.tracker.move(active)
	if err := r.conn.SetDeadline(time.Time{}); err != nil {
		return err
	}
	return ctx.Err()
}

// Reject answers why there is no session and closes the connection. The error
// is that of sending the answer.
func (r *Request) Reject(code ohrouter.Code, message string) error {
	defer r.Close()
	if len(message) > maxMessage {
		message = message[:maxMessage]
	}
	if err := r.respond(connectResponse{Code: code, Message: message}); err != nil {
		return err
	}
	socket.Orderly(r.conn) // a reset would overtake the answer
	return nil
}

func (r *Request) respond(m connectResponse) error {
	m.Patience = uint32(r.acceptor.Patience.Milliseconds())
	b, err := frames.append(nil, typeResponse, m)
	if err != nil {
		return err
	}
	if err := r.conn.SetWriteDeadline(time.Now().Add(Timeout)); err != nil {
		return err
	}
	if _, err := r.conn.Write(b); err != nil {
		return fmt.Errorf("send %v: %w", typeResponse, err)
	}
	return nil
}

// Close closes the connection, whatever it is doing. It is idempotent.
func (r *Request) Close() {
	if r.tracker.move(closed) {
		_ = r.conn.Close() // the session is over: nothing left to tell anybody
	}
}

// park counts a parked link of a source, up to the cap.
func (a *Acceptor) park(source net.Addr) (release func(), err error) {
	var addr netip.Addr
	if tcp, ok := source.(*net.TCPAddr); ok {
		addr = tcp.AddrPort().Addr().Unmap()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.parked[addr] >= maxPerSource {
		return nil, ohrouter.Errorf(ohrouter.QuotaExceeded, "%d links from %v wait for their AckCommand: no more are taken", maxPerSource, addr)
	}
	if a.parked == nil {
		a.parked = make(map[netip.Addr]int)
	}
	a.parked[addr]++
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.parked[addr]--; a.parked[addr] == 0 {
			delete(a.parked, addr)
		}
	}, nil
}
