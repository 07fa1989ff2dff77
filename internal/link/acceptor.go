package link

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/gate"
)

// How long and how often a peer may leave its part of the handshake undone.
const (
	Timeout      = 5 * time.Second  // for every step that needs nobody else
	ackTimeout   = 60 * time.Second // for the next command of a warm or parked link
	maxPerSource = 1024             // warm and parked links of one address
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
	// MaxHandshake is how many bytes of TLS a peer may send before it has proved
	// who it is; 0 any number.
	MaxHandshake int
	// HandshakeTimeout is how long a peer has to prove who it is and say what it
	// wants; 0 is [Timeout].
	HandshakeTimeout time.Duration
	// Draining, if not nil, is closed when warm links are to go.
	Draining <-chan struct{}

	turns  gate.Turns         // of handshakes
	mu     sync.Mutex         // guards parked; never held during I/O
	parked map[netip.Addr]int // warm links included
}

// Secure returns what makes TLS of a connection that is accepted, for whoever
// does the I/O by himself; nil for plain links.
func (a *Acceptor) Secure() func(raw io.ReadWriter) *tls.Conn {
	if a.TLS == nil {
		return nil
	}
	return func(raw io.ReadWriter) *tls.Conn { return tls.Server(lent(raw, a.MaxHandshake), a.TLS) }
}

func (a *Acceptor) timeout() time.Duration { return cmp.Or(a.HandshakeTimeout, Timeout) }

// Begun is a connection with which somebody else has begun what
// [Acceptor.AcceptWarm] does.
type Begun struct {
	Conn net.Conn // a [*tls.Conn] when it has proved who its peer is
	Read []byte   // what its peer has said
	Err  error    // why it has not, if that has failed
	Warm *Request // of [Acceptor.Warm], if its peer was told that the link is warm
}

// Accept reads a ConnectCommand from conn and, unless the link is to be
// parked, the AckCommand behind it. That of a warm link may come later. When it
// fails conn is closed. The error is ctx's when ctx ended, io.EOF when the peer
// reset conn, or closed it before it sent anything, or when a warm link was not
// needed, and else has a code, [ohrouter.InvalidRequest] if none is better: the
// peer does not follow the protocol, or not in time.
func (a *Acceptor) Accept(ctx context.Context, conn net.Conn) (*Request, error) {
	return a.AcceptWarm(ctx, Begun{Conn: conn}, nil)
}

// AcceptWarm does what Accept does. It calls warm when the link is to wait for
// its ConnectCommand: its peer has done its part, and now takes its time.
func (a *Acceptor) AcceptWarm(ctx context.Context, link Begun, warm func()) (*Request, error) {
	r := link.Warm
	if r == nil {
		r = &Request{acceptor: a}
		a.States.begin()
	}
	r.conn = link.Conn
	err := r.begin(ctx, link, warm)
	if err != nil {
		r.Close()
		return nil, a.Refused(ctx, err)
	}
	return r, nil
}

// begin proves who both are, if links use TLS, and reads the request.
func (r *Request) begin(ctx context.Context, link Begun, warm func()) error {
	until := time.Now().Add(r.acceptor.timeout())
	if link.Err != nil {
		return r.unproved(ctx, link.Err, until)
	}
	if _, proved := r.conn.(*tls.Conn); r.acceptor.TLS != nil && !proved {
		if err := r.secure(ctx, until); err != nil {
			return err
		}
	}
	from := io.MultiReader(bytes.NewReader(link.Read), r.conn)
	if link.Warm == nil {
		warms, err := r.receive(ctx, from, until, typeConnect, typeWarm)
		if err != nil || !warms {
			return err
		}
		if err := r.wait(ctx, warm); err != nil {
			return err
		}
	}
	first, err := r.next(ctx, from)
	if err != nil {
		return err
	}
	_, err = r.receive(ctx, io.MultiReader(bytes.NewReader(first), from), time.Now().Add(Timeout), typeConnect)
	return err
}

// secure proves who both are.
func (r *Request) secure(ctx context.Context, until time.Time) error {
	short, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	under, over := r.conn, func() {}
	if tcp, ok := under.(*net.TCPConn); ok {
		under, over = bounded(tcp, r.acceptor.MaxHandshake, r.acceptor.turns.For(short, gate.AddrOf(tcp.RemoteAddr())))
	}
	conn := tls.Server(under, r.acceptor.TLS)
	err := conn.HandshakeContext(short)
	over()
	if err != nil {
		return r.unproved(short, err, until)
	}
	r.conn = conn
	return nil
}

// unproved returns why it is not proved who the router is. The router is to
// learn it, too.
func (r *Request) unproved(ctx context.Context, err error, until time.Time) error {
	_, foreign := errors.AsType[tls.RecordHeaderError](err)
	if !foreign && ctx.Err() == nil && r.conn.SetDeadline(until) == nil {
		r.lastWord() // an alert
	}
	if r.acceptor.Explain != nil {
		err = r.acceptor.Explain(err)
	}
	return err
}

// receive reads one of these frames: a ConnectCommand, and unless the link is
// to be parked the AckCommand behind it, or a WarmCommand, which it tells.
func (r *Request) receive(ctx context.Context, from io.Reader, until time.Time, types ...frameType) (warms bool, err error) {
	err = within(ctx, r.conn, time.Until(until), func() error {
		got, body, err := frames.next(from, types...)
		if err != nil {
			return err
		}
		if warms = got == typeWarm; warms {
			return frames.decode(typeWarm, body, &warmCommand{})
		}
		var m connectCommand
		if err := frames.decode(typeConnect, body, &m); err != nil {
			return err
		}
		if err := r.take(m); err != nil || r.Parked {
			return err
		}
		return inside(frames.read(from, typeAck, &ackCommand{}))
	})
	return warms, err
}

// errDrained is why a warm link ends early. It is no error of the peer.
var errDrained = fmt.Errorf("the proxy is shutting down: %w", io.EOF)

// wait answers a WarmCommand. It fails when there are too many warm links, and
// when the proxy drains, which the router is told.
func (r *Request) wait(ctx context.Context, warm func()) error {
	if r.acceptor.draining() {
		return errors.Join(errDrained, r.refuse(typeReady, &warmResponse{Code: ohrouter.Draining, Message: shuttingDown, Patience: r.acceptor.patience()}))
	}
	if err := r.warms(gate.AddrOf(r.conn.RemoteAddr())); err != nil {
		return errors.Join(err, r.refuse(typeReady, &warmResponse{Code: ohrouter.CodeOf(err), Message: ohrouter.Message(err), Patience: r.acceptor.patience()}))
	}
	if warm != nil {
		warm()
	}
	return within(ctx, r.conn, Timeout, func() error {
		return r.send(typeReady, &warmResponse{Patience: r.acceptor.patience()})
	})
}

// warms counts the link among the warm ones of a source, up to the cap.
func (r *Request) warms(source netip.Addr) error {
	release, err := r.acceptor.park(source)
	if err == nil {
		r.release.Store(&release)
		r.move(warm)
	}
	return err
}

// asks gives back what the link has cost while it was warm.
func (r *Request) asks() {
	if release := r.release.Swap(nil); release != nil {
		(*release)()
	}
}

// next waits for the ConnectCommand on a warm link, whose first byte it returns.
// It fails when ctx ends, when time is up, and when the proxy drains, which the
// router is told.
func (r *Request) next(ctx context.Context, from io.Reader) (first []byte, err error) {
	defer r.asks()
	first = make([]byte, 1)
	err = r.interruptible(ctx, func() error {
		_, err := io.ReadFull(from, first)
		return err
	})
	switch {
	case err == nil:
		return first, nil // also while the proxy drains: it is to be answered
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case r.acceptor.draining():
		return nil, errors.Join(errDrained, r.Reject(ohrouter.Draining, shuttingDown))
	case isTimeout(err), errors.Is(err, io.ErrUnexpectedEOF): // nobody ends the TLS of a link that he gives up
		return nil, io.EOF // it was not needed
	}
	return nil, err
}

const shuttingDown = "the proxy is shutting down"

// interruptible lets read wait for what a router may leave to wait, until ctx
// ends or the proxy drains.
func (r *Request) interruptible(ctx context.Context, read func() error) error {
	if err := r.conn.SetReadDeadline(time.Now().Add(ackTimeout)); err != nil {
		return err
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	over := make(chan struct{})
	defer close(over)
	wg.Go(func() {
		select {
		case <-ctx.Done():
		case <-r.acceptor.Draining:
		case <-over:
			return
		}
		_ = r.conn.SetReadDeadline(time.Unix(1, 0)) // fails only on a closed connection
	})
	return read()
}

// draining tells whether the proxy is shutting down.
func (a *Acceptor) draining() bool {
	select {
	case <-a.Draining:
		return true
	default:
		return false
	}
}

// patience returns Patience as the router is told it.
func (a *Acceptor) patience() uint32 { return uint32(a.Patience.Milliseconds()) }

// take notes what a router asks for.
func (r *Request) take(m connectCommand) error {
	t, err := m.target()
	if err != nil {
		return err
	}
	r.Session, r.Target, r.Parked, r.asked = printable(m.Session, maxSession), t, m.Park, time.Now()
	return nil
}

// ErrNotPipelined is a request that AcceptWarm has to read: one to park, one that
// breaks the protocol, or one for a warm link that is refused.
var ErrNotPipelined = errors.New("the request is not a pipelined one")

// NextWithin is how long a warm link may wait for its ConnectCommand.
const NextWithin = ackTimeout

// Warm reads a WarmCommand from what a router has sent so far, for whoever does
// the I/O by himself. It returns its length, as far as that shows: as long as it
// is more than there is, there is no request. ready is the answer; what comes
// next, within [NextWithin], is for Pipelined. from is the router's address. The
// error is [ErrNotPipelined].
func (a *Acceptor) Warm(b []byte, from netip.Addr) (r *Request, n int, ready []byte, err error) {
	if n, err = frames.length(b, typeWarm); err != nil || a.draining() {
		return nil, 0, nil, ErrNotPipelined
	}
	if n > len(b) {
		return nil, n, nil, nil
	}
	ready, err = frames.append(nil, typeReady, &warmResponse{Patience: a.patience()})
	if err != nil || frames.decode(typeWarm, b[headerSize:n], &warmCommand{}) != nil {
		return nil, 0, nil, ErrNotPipelined
	}
	r = &Request{acceptor: a}
	a.States.begin()
	if r.warms(from) != nil {
		r.Close()
		return nil, 0, nil, ErrNotPipelined
	}
	return r, n, ready, nil
}

// Pipelined reads a ConnectCommand and the AckCommand behind it, as Warm does its
// command. warm is the request of that, or nil. Answer has what is to be sent when
// the target is connected; then the session stands.
func (a *Acceptor) Pipelined(b []byte, warm *Request) (r *Request, n int, err error) {
	var m connectCommand
	if n, err = frames.length(b, typeConnect); err != nil {
		return nil, 0, ErrNotPipelined
	}
	if n > len(b) {
		return nil, n, nil
	}
	if frames.decode(typeConnect, b[headerSize:n], &m) != nil || m.Park {
		return nil, 0, ErrNotPipelined
	}
	ack := len(frames.ack) // the shortest one
	if len(b) >= n+headerSize {
		if ack, err = frames.length(b[n:], typeAck); err != nil {
			return nil, 0, ErrNotPipelined
		}
	}
	if n += ack; n > len(b) {
		return nil, n, nil
	}
	if frames.decode(typeAck, b[n-ack+headerSize:n], &ackCommand{}) != nil {
		return nil, 0, ErrNotPipelined
	}
	if r = warm; r == nil {
		r = &Request{acceptor: a}
	}
	if err := r.take(m); err != nil {
		return nil, 0, ErrNotPipelined
	}
	if r.asks(); warm == nil {
		a.States.begin()
	}
	return r, n, nil
}

// Refused makes the error of a handshake that the peer did not begin well, as
// [Acceptor.Accept] returns it.
func (a *Acceptor) Refused(ctx context.Context, err error) error {
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
		e.Message = fmt.Sprintf("peer did not finish its part of the handshake in %v", a.timeout())
	}
	return e
}

// park counts a warm or parked link of a source, up to the cap.
func (a *Acceptor) park(addr netip.Addr) (release func(), err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.parked[addr] >= maxPerSource {
		return nil, ohrouter.Errorf(ohrouter.QuotaExceeded, "%d links from %v wait for their next command: no more are taken", maxPerSource, addr)
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
