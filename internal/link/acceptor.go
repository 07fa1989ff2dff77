package link

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/socket"
)

// How long and how often a peer may leave its part of the handshake undone.
const (
	Timeout      = 5 * time.Second  // for every step that needs nobody else
	ackTimeout   = 60 * time.Second // for the AckCommand of a parked link
	maxPerSource = 1024             // parked links of one address
	maxUnread    = 1 << 20          // payload behind a handshake that is refused

	// answerArrives is how long a ConnectResponse may be on its way before the
	// reset of its link may overtake it.
	answerArrives = time.Second
)

// Acceptor is the proxy's end of the handshake. Its fields are set before its
// first use.
type Acceptor struct {
	States   *States
	Patience time.Duration // the longest the proxy takes to answer a ConnectCommand
	// TLS has the settings of links; nil is plain TCP. Explain may find a
	// better error for a handshake that has failed, and may be nil.
	TLS     *tls.Config
	Explain func(error) error
	// Draining, if not nil, is closed when warm links are to go.
	Draining <-chan struct{}

	mu     sync.Mutex // guards parked; never held during I/O
	parked map[netip.Addr]int
}

// Request is a ConnectCommand that waits for its answer: Accept or Reject.
type Request struct {
	Session string          // the router's name for the session
	Target  ohrouter.Target // canonical
	Parked  bool            // the AckCommand comes when a client does

	acceptor *Acceptor
	conn     net.Conn // nil when somebody else has the connection
	warm     func()   // of AcceptWarm
	tracker  tracker

	mu       sync.Mutex // guards what follows; held while the answer is sent and the AckCommand read
	answered bool
	acked    bool
	hungUp   bool
}

// Accept reads a ConnectCommand from conn and, unless the link is to be
// parked, the AckCommand behind it. When it fails conn is closed. The error is
// ctx's when ctx ended, io.EOF when the peer reset conn, or closed it before it
// sent anything, and else has code [ohrouter.InvalidRequest]: the peer does not
// follow the protocol, or not in time.
func (a *Acceptor) Accept(ctx context.Context, conn net.Conn) (*Request, error) {
	return a.AcceptWarm(ctx, conn, func() {})
}

// AcceptWarm does what Accept does. It calls warm when the link is to wait for
// its ConnectCommand: its peer has done its part, and now takes its time.
func (a *Acceptor) AcceptWarm(ctx context.Context, conn net.Conn, warm func()) (*Request, error) {
	r := &Request{acceptor: a, conn: conn, warm: warm}
	r.tracker.begin(a.States)
	err := r.begin(ctx)
	if err != nil {
		r.Close()
		return nil, Refused(ctx, err)
	}
	return r, nil
}

// begin proves who both are, if links use TLS, and reads the request. That of a
// warm link may come later.
func (r *Request) begin(ctx context.Context) error {
	a := r.acceptor
	var body []byte
	read := func(types ...frameType) (got frameType, err error) {
		err = within(ctx, r.conn, Timeout, Timeout, func() error {
			if got, body, err = frames.next(r.conn, types...); err != nil || got == typeWarm {
				return err
			}
			return r.receive(body)
		})
		return got, err
	}
	if tcp, ok := r.conn.(*net.TCPConn); ok && a.TLS != nil {
		secure := tls.Server(socket.NewTransport(tcp), a.TLS)
		r.conn = secure
		short, cancel := context.WithTimeout(ctx, Timeout)
		defer cancel()
		if err := secure.HandshakeContext(short); err != nil {
			if a.Explain != nil {
				err = a.Explain(err)
			}
			return err
		}
	}
	got, err := read(typeConnect, typeWarm)
	if err != nil || got != typeWarm {
		return err
	}
	if err := frames.decode(typeWarm, body, &warmCommand{}); err != nil {
		return err
	}
	if err := r.waitWarm(ctx); err != nil {
		return err
	}
	_, err = read(typeConnect)
	return err
}

// waitWarm waits for the ConnectCommand of a warm link.
func (r *Request) waitWarm(ctx context.Context) error {
	release, err := r.acceptor.park(r.conn.RemoteAddr())
	m := warmResponse{Patience: uint32(r.acceptor.Patience.Milliseconds())}
	if err != nil {
		m.Code, m.Message = ohrouter.CodeOf(err), ohrouter.Message(err)
	}
	b, ferr := frames.append(nil, typeReady, m)
	if ferr == nil {
		ferr = within(ctx, r.conn, Timeout, Timeout, func() error {
			_, err := r.conn.Write(b)
			return err
		})
	}
	if err != nil {
		return errors.Join(err, ferr)
	}
	defer release()
	if ferr != nil {
		return ferr
	}
	r.tracker.move(warm)
	r.warm()
	tcp := socket.TCP(r.conn)
	if tcp == nil {
		return nil // the next read waits
	}
	return r.idle(ctx, tcp)
}

// idle waits until there is something to read, without taking it. It fails when
// ctx ends, when time is up, and when the proxy drains, which the router is
// told.
func (r *Request) idle(ctx context.Context, tcp *net.TCPConn) error {
	if err := tcp.SetReadDeadline(time.Now().Add(ackTimeout)); err != nil {
		return err
	}
	waiting := make(chan error, 1)
	go func() { waiting <- socket.WaitUntil(tcp, func() bool { return socket.Pending(tcp) }) }()
	wake := func() error {
		_ = tcp.SetReadDeadline(time.Unix(1, 0)) // fails only on a closed connection
		return <-waiting
	}
	var err error
	select {
	case err = <-waiting:
	case <-ctx.Done():
		_ = wake()
		return ctx.Err()
	case <-r.acceptor.Draining:
		if wake() == nil {
			break // a ConnectCommand has come, which is to be answered
		}
		r.Parked = false
		return errors.Join(errDrained, r.Reject(ohrouter.Draining, "the proxy is shutting down"))
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return io.EOF // it was not needed
	}
	if errors.Is(err, errors.ErrUnsupported) {
		err = nil // the next read waits
	}
	return errors.Join(err, tcp.SetReadDeadline(time.Time{}))
}

// errDrained is why a warm link ends early. It is no error of the peer.
var errDrained = fmt.Errorf("the proxy is shutting down: %w", io.EOF)

// receive takes a ConnectCommand, and reads the AckCommand behind it.
func (r *Request) receive(body []byte) error {
	var m connectCommand
	if err := frames.decode(typeConnect, body, &m); err != nil {
		return err
	}
	if err := r.take(m); err != nil {
		return err
	}
	if !r.Parked { // its AckCommand is right behind
		return inside(r.readAck())
	}
	return nil
}

// take notes what a router asks for.
func (r *Request) take(m connectCommand) error {
	t, err := m.target()
	if err != nil {
		return err
	}
	r.Session, r.Target, r.Parked = printable(m.Session, maxSession), t, m.Park
	return nil
}

// ErrNotPipelined is a request that Accept has to read: one to park, or one
// that breaks the protocol.
var ErrNotPipelined = errors.New("the request is not a pipelined one")

// Pipelined reads a ConnectCommand and the AckCommand behind it from what a
// router has sent so far, for whoever does the I/O by himself. It returns their
// length, or 0 while they are not complete. Answer has what is to be sent when
// the target is connected; then the session stands. The error is
// [ErrNotPipelined].
func (a *Acceptor) Pipelined(b []byte) (r *Request, n int, err error) {
	var m connectCommand
	n, err = frames.take(b, typeConnect, &m)
	if err != nil || n > 0 && m.Park {
		return nil, 0, ErrNotPipelined
	}
	if n == 0 {
		return nil, 0, nil
	}
	ack, err := frames.take(b[n:], typeAck, &ackCommand{})
	if err != nil {
		return nil, 0, ErrNotPipelined
	}
	if ack == 0 {
		return nil, 0, nil
	}
	r = &Request{acceptor: a}
	if err := r.take(m); err != nil {
		return nil, 0, ErrNotPipelined
	}
	r.tracker.begin(a.States)
	return r, n + ack, nil
}

// Answer returns the frame that tells a router that the target of a pipelined
// request is connected.
func (r *Request) Answer(resolved netip.AddrPort) []byte {
	r.tracker.move(active)
	b, err := r.response(connectResponse{Resolved: resolved.String()})
	if err != nil {
		panic(err) // nothing in it depends on the peer
	}
	return b
}

// Refused makes the error of a handshake that the peer did not begin well, as
// [Acceptor.Accept] returns it.
func Refused(ctx context.Context, err error) error {
	_, explained := errors.AsType[*ohrouter.Error](err)
	e := &ohrouter.Error{Code: ohrouter.InvalidRequest, Message: "peer broke off its part of the handshake", Err: err}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case explained, errors.Is(err, io.EOF):
		return err
	case errors.Is(err, syscall.ECONNRESET): // a router that gives up or dies, a health check
		return io.EOF
	case isTimeout(err):
		e.Message = fmt.Sprintf("peer did not finish its part of the handshake in %v", Timeout)
	}
	return e
}

func (r *Request) readAck() error {
	var m ackCommand
	return frames.read(r.conn, typeAck, &m)
}

// Accept answers that the target is connected, at the address resolved, and
// waits for the AckCommand, which a parked link may leave to wait for 60 s.
// Then the session stands: the connection that Accept returns carries its raw
// bytes. When it fails the connection is closed; the error is ctx's when ctx
// ended, and io.EOF when the router gave the link up.
func (r *Request) Accept(ctx context.Context, resolved netip.AddrPort) (net.Conn, error) {
	if err := r.accept(ctx, resolved); err != nil {
		r.Close()
		return nil, err
	}
	return r.conn, nil
}

func (r *Request) accept(ctx context.Context, resolved netip.AddrPort) error {
	if r.Parked {
		release, err := r.acceptor.park(r.conn.RemoteAddr())
		if err != nil {
			return errors.Join(err, r.Reject(ohrouter.CodeOf(err), ohrouter.Message(err)))
		}
		defer release()
		r.tracker.move(parked)
	}
	err := within(ctx, r.conn, ackTimeout, Timeout, func() error {
		if err := r.answer(resolved); err != nil || !r.Parked {
			return err
		}
		return r.awaitAck()
	})
	switch {
	case err == nil:
		r.tracker.move(active)
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
	err := r.readAck()
	r.acked = err == nil
	return err
}

// answer sends that the target is connected and, when that has hung up since,
// gives the link up behind it.
func (r *Request) answer(resolved netip.AddrPort) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.respond(connectResponse{Resolved: resolved.String()}); err != nil {
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

// finish ends the sending side of the link in order.
func (r *Request) finish() {
	socket.Orderly(r.conn)
	if c, ok := r.conn.(interface{ CloseWrite() error }); ok {
		_ = c.CloseWrite() // fails only on a connection that has ended
	}
}

// Reject answers why there is no session and closes the connection. The error
// is that of sending the answer.
func (r *Request) Reject(code ohrouter.Code, message string) error {
	defer r.Close()
	if err := r.conn.SetDeadline(time.Now().Add(Timeout)); err != nil {
		return err
	}
	if err := r.respond(connectResponse{Code: code, Message: printable(message, maxMessage)}); err != nil {
		return err
	}
	// A reset would overtake the answer, and a close that leaves payload unread
	// is one: the router is to close first.
	r.finish()
	_, _ = io.CopyN(io.Discard, r.conn, maxUnread) // any end will do
	return nil
}

func (r *Request) response(m connectResponse) ([]byte, error) {
	m.Patience = uint32(r.acceptor.Patience.Milliseconds())
	return frames.append(nil, typeResponse, m)
}

func (r *Request) respond(m connectResponse) error {
	b, err := r.response(m)
	if err != nil {
		return err
	}
	if _, err := r.conn.Write(b); err != nil {
		return fmt.Errorf("send %v: %w", typeResponse, err)
	}
	return nil
}

// Close closes the connection, whatever it is doing. It is idempotent.
func (r *Request) Close() {
	if r.tracker.move(closed) && r.conn != nil {
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
