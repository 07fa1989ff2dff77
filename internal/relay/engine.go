package relay

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/ohrouter/oh-router/internal/socket"
)

// Engine accepts connections, opens sessions and carries them. On Linux those
// over TCP, and over TLS over TCP, run on a few event loops and have no goroutine
// of their own; all others, and those of an engine that [NewEngine] has not made,
// run [Pipe].
type Engine struct {
	loops loops

	wg     sync.WaitGroup // the loops, listeners without one, and a goroutine for each session that runs Pipe
	mu     sync.Mutex     // guards closed
	closed bool
}

// MaxLoops is how many event loops an engine may have. The kernel lets a hundred
// watch one listener as they do; more than this have nothing to gain.
const MaxLoops = 64

// NewEngine starts n event loops, MaxLoops at most, on systems that have them. A loop that has
// something to do keeps one of GOMAXPROCS processors; those that run other
// goroutines come on top of that. A loop whose pauses are mostly shorter than poll
// does not sleep in them, but lets others have its processor; after the begin and
// the end of a session those of up to four times that count as short, below a
// millisecond. [Engine.Close] ends the loops.
func NewEngine(n int, poll time.Duration) (*Engine, error) {
	e := &Engine{}
	if err := e.loops.start(n, poll, &e.wg); err != nil {
		return nil, err
	}
	return e, nil
}

// Descriptors returns how many the engine may have besides the two of each session
// that is not over. For the length of a turn of a loop it may have more: those of
// sessions that ended in it, and a connection that a listener was not asked for yet.
func (e *Engine) Descriptors() int { return e.loops.descriptors() }

// Session is a session that an engine carries or opens.
type Session interface {
	// Cut resets both connections. It may be called at any time.
	Cut()
}

// Served is a session of [Conn.Serve].
type Served interface {
	Session
	// GiveBack has the opening fail with err, unless the request is there as a
	// whole. It may be called at any time.
	GiveBack(err error)
}

// piped is a session that Pipe carries.
type piped struct{ a, b net.Conn }

// Cut has Pipe find both closed.
func (s piped) Cut() {
	socket.Abort(s.a)
	socket.Abort(s.b)
}

// Start carries bytes between a and b as [Pipe] promises, and returns at once;
// a and b are the engine's from here on. done is called when the session has
// ended, just before its descriptors are closed, where other sessions are
// carried: it must not wait for anything.
func (e *Engine) Start(a, b net.Conn, live *Counters, done func(End)) Session {
	if s := e.loops.carry(a, b, live, done); s != nil {
		return s
	}
	e.wg.Go(func() { done(Pipe(a, b, live)) })
	return piped{a, b}
}

// Close ends the loops and waits until every session's done has returned. The
// sessions are to be ended, and the listeners closed, before.
func (e *Engine) Close() {
	e.mu.Lock()
	closed := e.closed
	e.closed = true
	e.mu.Unlock()
	if !closed {
		e.loops.close()
	}
	e.wg.Wait()
}

// Conn is a connection that a [Listener] has accepted. It has one owner, who
// hands it on to [Conn.Forward] or [Conn.Serve], takes it out of the engine
// with [Conn.TCP], or ends it with [Conn.Abort].
type Conn struct {
	Remote netip.AddrPort // the peer's address, an IPv4-mapped one as IPv4

	raw rawConn
	tcp *net.TCPConn // nil when raw has it
}

// Local returns the address at which the connection has arrived, an
// IPv4-mapped one as IPv4; the zero AddrPort if it has ended.
func (c Conn) Local() netip.AddrPort {
	if c.tcp != nil {
		return unmapped(c.tcp.LocalAddr())
	}
	return c.raw.local()
}

// OnLoop tells whether this is the event loop that has accepted the connection:
// only then, and there, [Conn.Forward] and [Conn.Serve] are possible.
func (c Conn) OnLoop() bool { return c.tcp == nil && c.raw.onLoop() }

// offLoop returns the connection for another goroutine.
func (c Conn) offLoop() Conn {
	c.raw = c.raw.offLoop()
	return c
}

// TCP takes the connection out of the engine. On error it is reset.
func (c Conn) TCP() (*net.TCPConn, error) {
	if c.tcp != nil {
		return c.tcp, nil
	}
	return c.raw.take()
}

// Abort resets the connection.
func (c Conn) Abort() {
	if c.tcp != nil {
		socket.Abort(c.tcp)
		return
	}
	c.raw.abort()
}

// Opening is told how a session goes that an engine opens. It is called where
// other sessions are carried: it must not wait for anything.
type Opening interface {
	// Secured tells who the peer of the connection with TLS has proved to be.
	// After an error the session is not opened.
	Secured(peer tls.ConnectionState) error
	// Failed gives a back, whose session has no other connection.
	Failed(a Conn, f Failure)
	// Ended tells that the session has ended, just before its descriptors are
	// closed, be it that a was lost or cut before there was another one.
	Ended(end End)
}

// Call says where a session's other connection leads.
type Call struct {
	To            netip.AddrPort
	Hello         []byte        // what is said there first; what a has sent already goes right behind
	ConnectWithin time.Duration // how long connecting may take
	AnswerWithin  time.Duration // how long the answer may take from then on
	Sockets       socket.Options
	// Secure, if not nil, makes a client of TLS over raw, by a
	// [socket.Transport]. Its handshake counts as connecting.
	Secure func(raw io.ReadWriter) *tls.Conn
	// Over, if not nil, is connected there already: TCP, or TLS over it. It is
	// the engine's from here on.
	Over net.Conn
}

// Terms are those on which requests are served.
type Terms struct {
	AskWithin time.Duration  // how long the request may take
	Sockets   socket.Options // of the session's other connection
	// Secure, if not nil, makes a server of TLS over raw, by a
	// [socket.Transport]. Its handshake counts as asking.
	Secure func(raw io.ReadWriter) *tls.Conn
}

// Failure is why a session was not opened.
type Failure struct {
	Err  error  // wraps os.ErrDeadlineExceeded when time was up
	Read []byte // what was taken from a, which does not have it any more
	Said bool   // the other side was sent something, which may include Read
	// Acked is how many bytes the other side's kernel has taken of its
	// connection, ever; 0 when that is not known.
	Acked uint64
	// TLS is a's, if its handshake is complete. It goes on over the connection
	// that a's TCP returns.
	TLS *tls.Conn
}

// Answerer is the [Opening] of [Conn.Forward].
type Answerer interface {
	// Answered reads what the other side has said so far. It returns the length
	// of the answer, behind which the session's bytes begin, or 0 when it is
	// not there as a whole. After an error the session is not opened.
	Answered(b []byte) (n int, err error)
	Opening
}

// Way is where a request leads.
type Way struct {
	To            netip.AddrPort
	ConnectWithin time.Duration // how long connecting may take

	// Reply, if not nil, is the whole answer to the request, which leads nowhere:
	// another one is to come. That has to begin within NextWithin, or the opening
	// fails with [ErrNotAsked], and then to be there within AskWithin. What comes
	// behind that other one goes nowhere before it is answered.
	Reply                 []byte
	NextWithin, AskWithin time.Duration
}

// ErrNotAsked is why there is no session of who was to ask for one once more. It
// wraps [os.ErrDeadlineExceeded].
var ErrNotAsked = fmt.Errorf("no other request has come: %w", os.ErrDeadlineExceeded)

// Asker is the [Opening] of [Conn.Serve].
type Asker interface {
	// Asked reads what a has said so far. It returns how long the request is,
	// as far as that shows, and its way when all of it is there. After an error
	// the session is not opened, and a has everything that it had, but for what is
	// [Failure.Read].
	Asked(b []byte) (n int, way Way, err error)
	// Connected returns what a is told when the other side is connected.
	Connected() []byte
	Opening
}
