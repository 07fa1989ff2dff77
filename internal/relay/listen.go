package relay

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"

	"github.com/ohrouter/oh-router/internal/socket"
)

// Listener accepts connections on an engine's loops. It is made by
// [Engine.Listen].
type Listener struct {
	// Addr is where it listens.
	Addr net.Addr

	Accept
	engine *Engine
	ctx    context.Context // ends with the listener
	stop   context.CancelFunc
	raw    rawListener
	tcp    *net.TCPListener // when no loop has it

	mu      sync.Mutex     // guards what follows and raw; not held during anything that waits
	backoff socket.Backoff // its owner is the goroutine of failed while there is one
	failing bool           // there is one
	paused  int
	resumed *sync.Cond // for tcp
	closed  bool
}

// Accept says what is accepted, and what for.
type Accept struct {
	// Accepted is given every connection. It is called where sessions are
	// carried: it must not wait for anything.
	Accepted func(Conn)
	// Descriptors has Each for every connection, which Accepted gives back when
	// it is over. While there are none, clients wait in the kernel.
	Descriptors socket.Budget
	Each        int
	// Missed, if not nil, is told of a connection that has waited for
	// descriptors until the listener was closed.
	Missed func()
	// AckLate is for peers that do not wait to be acknowledged before they
	// have said all, as those of [socket.Options.Dial] do not: what they hear
	// next acknowledges it.
	AckLate bool
	// Log is told, in the words of What, when nothing can be accepted.
	Log  *slog.Logger
	What string
}

// Listen accepts connections until the listener that it returns is closed. ln,
// which [socket.Options.Listen] has made, is the engine's from here on.
func (e *Engine) Listen(ln *net.TCPListener, how Accept) (*Listener, error) {
	l := &Listener{Addr: ln.Addr(), Accept: how, engine: e, backoff: socket.Backoff{Log: how.Log}}
	l.ctx, l.stop = context.WithCancel(context.Background())
	l.resumed = sync.NewCond(&l.mu)
	taken, err := e.loops.listen(l, ln)
	if err != nil {
		l.stop()
		_ = ln.Close() // it is listening for a better reason
		return nil, err
	}
	if !taken {
		l.tcp = ln
		e.wg.Go(l.accept)
	}
	return l, nil
}

// accept is the goroutine of a listener that no loop has.
func (l *Listener) accept() {
	for l.ready() {
		conn, err := socket.Accept(l.tcp)
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			l.backoff.Failed(l.ctx, l.What, err)
			continue
		}
		l.backoff.Succeeded()
		l.deliver(Conn{Remote: unmapped(conn.RemoteAddr()), tcp: conn})
	}
}

// deliver gives a connection to its user, once there are descriptors for it.
func (l *Listener) deliver(c Conn) {
	if l.Descriptors.TryAcquire(l.Each) {
		l.Accepted(c)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pause() // no more of them, while one waits
	l.engine.wg.Go(func() {
		defer l.resume()
		if l.Descriptors.Acquire(l.ctx, l.Each) == nil {
			l.Accepted(c.offLoop())
			return
		}
		if l.Missed != nil {
			l.Missed()
		}
		c.Abort()
	})
}

// unmapped returns the address of an end of a TCP connection.
func unmapped(addr net.Addr) netip.AddrPort {
	a := addr.(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// ready waits while the listener is paused. It returns false once it is closed.
func (l *Listener) ready() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.paused > 0 && !l.closed {
		l.resumed.Wait()
	}
	return !l.closed
}

// pause stops accepting until resume is called as often. The caller holds mu.
func (l *Listener) pause() {
	if l.paused++; l.paused == 1 && !l.closed && l.tcp == nil {
		l.engine.loops.unwatch(l)
	}
}

// resume takes back a pause.
func (l *Listener) resume() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.paused--; l.paused > 0 || l.closed {
		return
	}
	if l.tcp != nil {
		l.resumed.Broadcast()
		return
	}
	if err := l.engine.loops.rewatch(l); err != nil {
		l.failed(err)
	}
}

// failed pauses the listener for a moment because of an error. The caller
// holds mu.
func (l *Listener) failed(err error) {
	if l.failing {
		return
	}
	l.failing = true
	l.pause()
	l.engine.wg.Go(func() {
		l.backoff.Failed(l.ctx, l.What, err)
		l.mu.Lock()
		l.failing = false
		l.mu.Unlock()
		l.resume()
	})
}

// Close stops listening at once. Connections that were not accepted are reset.
// It is idempotent.
func (l *Listener) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	l.closed = true
	l.stop()
	l.resumed.Broadcast()
	if l.tcp != nil {
		_ = l.tcp.Close() // accept sees that it was asked for
		return
	}
	l.engine.loops.unlisten(l)
}
