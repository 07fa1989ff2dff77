package relay

import (
	"net"
	"sync"

	"github.com/ohrouter/oh-router/internal/socket"
)

// Engine carries sessions. On Linux those between two plain TCP connections
// run on a few event loops and have no goroutine of their own; all others, and
// those of an engine that [NewEngine] has not made, run [Pipe].
type Engine struct {
	loops loops

	wg     sync.WaitGroup // the loops, and a goroutine for each session that runs Pipe
	mu     sync.Mutex     // guards closed
	closed bool
}

// NewEngine starts the event loops. [Engine.Close] ends them.
func NewEngine() (*Engine, error) {
	e := &Engine{}
	if err := e.loops.start(&e.wg); err != nil {
		return nil, err
	}
	return e, nil
}

// Session is a session that an engine carries.
type Session struct {
	cut func()
}

// Cut resets both connections. It may be called at any time.
func (s *Session) Cut() { s.cut() }

// Start carries bytes between a and b as [Pipe] promises, and returns at once;
// a and b are the engine's from here on. done is called when the session has
// ended, just before its descriptors are closed, where other sessions are
// carried: it must not wait for anything.
func (e *Engine) Start(a, b net.Conn, live *Counters, done func(End)) *Session {
	if s := e.loops.carry(a, b, live, done); s != nil {
		return s
	}
	e.wg.Go(func() { done(Pipe(a, b, live)) })
	return &Session{cut: func() {
		socket.Abort(a)
		socket.Abort(b)
	}}
}

// Close ends the loops and waits until every session's done has returned. The
// sessions are to be ended before.
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
