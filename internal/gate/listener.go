package gate

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/ohrouter/oh-router/internal/audit"
)

// Config is what a [Listener] is made of.
type Config struct {
	// Most and MostOfOne are how many connections there are at once, in all and
	// of one source.
	Most, MostOfOne int
	// TLS has the settings of connections; nil is plain TCP. A peer may send
	// Handshake bytes within Within, and then Request bytes before it is known.
	TLS       *tls.Config
	Handshake int
	Within    time.Duration
	Request   int
	Log       *slog.Logger
}

// Listener takes the connections of an HTTP server. There may be so many, in
// all and of one source; for more, the oldest go that are not known, or are and
// have no call. It is made by [Listen].
type Listener struct {
	net.Listener
	cfg  Config
	ctx  context.Context // ends with Close
	stop context.CancelFunc

	accepted chan accepted // whose handshakes are complete
	turns    Turns
	wg       sync.WaitGroup
	mu       sync.Mutex // guards what follows; never held during I/O that waits
	crowd    Crowd[*conn]
	warned   time.Time
}

// accepted is what Accept returns.
type accepted struct {
	conn net.Conn
	err  error
}

// Listen returns a listener that takes connections from ln until it is closed,
// which closes ln.
func Listen(ln net.Listener, cfg Config) *Listener {
	l := &Listener{
		Listener: ln, cfg: cfg, accepted: make(chan accepted),
		crowd: Crowd[*conn]{Most: cfg.Most, MostOfOne: cfg.MostOfOne},
	}
	l.ctx, l.stop = context.WithCancel(context.Background())
	l.wg.Go(l.acceptAll)
	return l
}

// Accept returns the next connection. With TLS it is a [tls.Conn] whose
// handshake is complete.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case a := <-l.accepted:
		return a.conn, a.err
	case <-l.ctx.Done():
		return nil, net.ErrClosed
	}
}

// Close stops listening, and ends handshakes. It is idempotent.
func (l *Listener) Close() error {
	l.stop()
	err := l.Listener.Close()
	l.wg.Wait()
	return err
}

// Watch has s, which is to serve l, tell when a connection has no call.
func (l *Listener) Watch(s *http.Server) {
	s.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		return context.WithValue(ctx, connKey{}, connOf(c))
	}
	s.ConnState = func(c net.Conn, state http.ConnState) {
		if state == http.StateIdle {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.crowd.Rest(&connOf(c).place)
		}
	}
}

type connKey struct{}

// Known says that the call of ctx is of somebody who has shown who he is. Its
// connection may go on for as long as the call takes.
func Known(ctx context.Context) {
	c, ok := ctx.Value(connKey{}).(*conn)
	if !ok {
		return // it is no connection of a Listener
	}
	if bound := c.bound.Swap(nil); bound != nil {
		bound.Lift() // net/http may be reading
	}
	c.listener.mu.Lock()
	defer c.listener.mu.Unlock()
	c.listener.crowd.Busy(&c.place)
}

// acceptAll only accepts. Errors are for the server, which knows when to go on.
func (l *Listener) acceptAll() {
	for {
		c, err := l.Listener.Accept()
		if err == nil {
			l.take(c)
			continue
		}
		if !l.hand(nil, err) || errors.Is(err, net.ErrClosed) {
			return
		}
	}
}

// hand gives Accept what it returns. It tells whether there is anybody.
func (l *Listener) hand(c net.Conn, err error) bool {
	select {
	case l.accepted <- accepted{c, err}:
		return true
	case <-l.ctx.Done():
		if c != nil {
			_ = c.Close() // nobody will serve it
		}
		return false
	}
}

// take lets a connection in, and drops one if there are too many.
func (l *Listener) take(under net.Conn) {
	c := &conn{Conn: under, listener: l}
	c.place.Who = c
	l.mu.Lock()
	out := l.crowd.Join(&c.place, AddrOf(under.RemoteAddr()))
	warn := out != nil && time.Since(l.warned) >= warnEvery
	if warn {
		l.warned = time.Now()
	}
	n := l.crowd.Len()
	l.mu.Unlock()
	if out != nil {
		out.Who.abort()
	}
	if warn {
		l.cfg.Log.Warn("too many connections: the oldest without a call are dropped", "at", l.Addr().String(), "of", AddrOf(out.Who.RemoteAddr()).String(), "connections", n)
	}
	switch {
	case out == &c.place:
	case l.cfg.TLS != nil:
		l.wg.Go(func() { l.secure(c) })
	default:
		l.hand(c, nil)
	}
}

// warnEvery is how often the log tells that there are too many connections.
const warnEvery = time.Minute

// secure makes the handshake of a connection.
func (l *Listener) secure(c *conn) {
	ctx, cancel := context.WithTimeout(l.ctx, l.cfg.Within)
	defer cancel()
	bound := NewHandshake(c.Conn, l.cfg.Handshake)
	bound.Turn(l.turns.For(ctx, AddrOf(c.RemoteAddr())))
	c.bound.Store(bound)
	t := tls.Server(c, l.cfg.TLS)
	err := t.HandshakeContext(ctx)
	bound.Over()
	if err == nil {
		bound.Refill(l.cfg.Request)
		l.hand(t, nil)
		return
	}
	l.refuse(c, err, ctx.Err() != nil)
}

// refuse ends a connection whose handshake has failed.
func (l *Listener) refuse(c *conn, err error, late bool) {
	level := slog.LevelWarn
	if late || errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, syscall.ECONNRESET) {
		level = slog.LevelDebug // it has gone, or said nothing
	}
	from, _ := c.RemoteAddr().(*net.TCPAddr)
	l.cfg.Log.Log(l.ctx, level, "TLS handshake failed", "client", audit.Stranger(from.AddrPort()), "err", err)
	if foreign, ok := errors.AsType[tls.RecordHeaderError](err); ok && foreign.Conn != nil && isHTTP(foreign.RecordHeader) {
		// As net/http says it: there are many who forget the s of https.
		_, _ = io.WriteString(c, "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n")
	}
	l.lastWord(c)
}

// lastWord lets what was sent arrive, for a moment, and closes: a reset would
// overtake it, and a close that leaves something unread is one.
func (l *Listener) lastWord(c *conn) {
	_ = c.CloseWrite() // on a connection that has ended the rest fails, too
	_ = c.SetReadDeadline(time.Now().Add(lastWords))
	stop := context.AfterFunc(l.ctx, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	_, _ = io.CopyN(io.Discard, c.Conn, MaxHello)
	_ = c.Close()
}

// lastWords is how long a peer that is refused may take to hear it.
const lastWords = time.Second

// isHTTP tells whether what should be the header of a record begins a call of
// HTTP.
func isHTTP(header [5]byte) bool {
	switch string(header[:]) {
	case "GET /", "HEAD ", "POST ", "PUT /", "PATCH", "DELET", "OPTIO":
		return true
	}
	return false
}

// conn is a connection of a Listener.
type conn struct {
	net.Conn
	listener *Listener
	bound    atomic.Pointer[Handshake] // nil: nothing is bounded here
	place    Member[*conn]             // guarded by Listener.mu
}

// connOf returns the connection of a Listener under c.
func connOf(c net.Conn) *conn {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	return c.(*conn)
}

// AddrOf returns the address of a peer; the zero Addr of one that had gone before
// it was asked for.
func AddrOf(peer net.Addr) netip.Addr {
	tcp, ok := peer.(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	return tcp.AddrPort().Addr().Unmap()
}

// Read implements net.Conn.
func (c *conn) Read(b []byte) (int, error) {
	if bound := c.bound.Load(); bound != nil {
		return bound.Read(b)
	}
	return c.Conn.Read(b)
}

// Write implements net.Conn.
func (c *conn) Write(b []byte) (int, error) {
	if bound := c.bound.Load(); bound != nil {
		return bound.Write(b)
	}
	return c.Conn.Write(b)
}

// CloseWrite lets net/http end its direction first when it refuses a body.
func (c *conn) CloseWrite() error {
	if w, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return errors.ErrUnsupported
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.listener.mu.Lock()
	c.listener.crowd.Leave(&c.place)
	c.listener.mu.Unlock()
	return c.Conn.Close()
}

// abort resets a connection that has left the crowd.
func (c *conn) abort() {
	if tcp, ok := c.Conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // without it there is an end all the same
	}
	_ = c.Conn.Close()
}
