// Package relay carries bytes both ways between two connections and says how
// that ended. It keeps what TCP promises across the hop: order, back-pressure,
// half-close, and the difference between an end and a reset.
//
// On Linux an [Engine] carries sessions over TCP, and TLS over TCP, without a
// goroutine: an idle one holds neither buffer nor pipe, and between plain
// connections bytes are spliced in bulk. Everywhere else goroutines and buffers
// carry them. DESIGN.md beside this file tells how and why.
package relay

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/ohrouter/oh-router/internal/socket"
)

// Counters count the bytes of a session while they flow. The zero value is
// ready to use.
type Counters struct {
	AB atomic.Uint64 // bytes of a that b's kernel has taken
	BA atomic.Uint64 // bytes of b that a's kernel has taken
}

// Side is one of the two connections of a session.
type Side uint8

// The sides, in the order of [Pipe]'s parameters.
const (
	A Side = iota
	B
)

func (s Side) other() Side { return 1 - s }

// End is how a session ended.
type End struct {
	Side Side  // the connection that ended first
	Err  error // nil when it ended with a FIN; else why it was reset or lost
}

// lingerFor bounds how long a reset waits for a peer that takes nothing of what
// came before it.
const lingerFor = 10 * time.Second

// Pipe carries bytes between a and b until both directions have ended, and
// closes both connections.
//
// The end of one direction is passed on as a FIN while the other goes on. A
// reset of one side becomes a reset of the other, after that has taken all
// bytes that came before, or has taken none for 10 s. Closing a or b from outside ends the
// session; [socket.Abort] makes that a reset.
func Pipe(a, b net.Conn, live *Counters) End {
	s := &session{
		conns: [2]net.Conn{a, b},
		tcp:   [2]*net.TCPConn{socket.TCP(a), socket.TCP(b)},
		moved: [2]*atomic.Uint64{&live.AB, &live.BA},
	}
	var wg sync.WaitGroup
	wg.Go(func() { s.direction(B) })
	s.direction(A)
	wg.Wait()
	s.close()
	return *s.end
}

type session struct {
	conns [2]net.Conn
	tcp   [2]*net.TCPConn // under conns; nil when that is not TCP
	moved [2]*atomic.Uint64

	mu       sync.Mutex       // guards what follows; never held during I/O
	end      *End             // the first end
	lost     [2]error         // why a side was reset or lost
	received [2]bool          // the side's bytes, and how they ended, are all passed on
	finished [2]bool          // a FIN was sent to the side
	watch    [2]chan struct{} // closed when watchReset of the side returns
	aborted  bool             // reset has begun
}

// direction carries the bytes of one side to the other and passes on how they
// end.
func (s *session) direction(from Side) {
	to := from.other()
	failed, err := s.copy(from)
	if failed == to && err != nil {
		s.fail(to, err)
		return
	}
	if err == nil {
		err = s.hiddenLoss(from)
	}
	s.record(from, err)
	if s.setReceived(from) != nil {
		s.reset(from)
		return
	}
	s.unwatch(to)
	s.setFinished(to) // first: what follows a FIN looks like a reset to hiddenLoss
	if err := closeWrite(s.conns[to]); err != nil {
		s.fail(to, err)
		return
	}
	s.watchReset(from)
}

// fail notes that a side cannot be written any more. What it sent before is
// still to be delivered by the direction that reads it; whoever comes last
// passes the loss on.
func (s *session) fail(side Side, err error) {
	s.record(side, err)
	s.mu.Lock()
	last, both := s.received[side], s.lost[side.other()] != nil
	s.mu.Unlock()
	if last || both {
		s.reset(side)
	}
}

const bufferSize = 64 << 10

var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// copy moves bytes until the end of the stream (nil) or a failure of one side.
func (s *session) copy(from Side) (failed Side, err error) {
	to := from.other()
	buf := buffers.Get().(*[bufferSize]byte)
	defer buffers.Put(buf)
	for {
		n, rerr := s.conns[from].Read(buf[:])
		if n > 0 {
			if err := s.write(to, buf[:n]); err != nil {
				return to, err
			}
		}
		switch {
		case errors.Is(rerr, io.EOF):
			return from, nil
		case rerr != nil:
			return from, rerr
		}
	}
}

// write gives b to a side. The kernel ends the wait for a peer that takes
// nothing for [socket.Options.DeadAfter]; when the source is lost meanwhile, it
// ends after lingerFor.
func (s *session) write(to Side, b []byte) error {
	stop := s.lookBack(to)
	n, err := s.conns[to].Write(b)
	stop()
	s.moved[to.other()].Add(uint64(n))
	return err
}

// lookEvery is how often it is looked whether the source of a blocked writer is
// lost.
const lookEvery = time.Second

// lookBack ends a write to a side that takes nothing for lingerFor since its
// source was lost: what it would be sent next is a reset.
func (s *session) lookBack(to Side) (stop func()) {
	tcp := s.tcp[to]
	if tcp == nil {
		return func() {}
	}
	var mu sync.Mutex // guards what follows
	var timer *time.Timer
	var over bool
	var taken uint64
	var since time.Time // the source is lost and nothing is taken
	look := func() {
		mu.Lock()
		defer mu.Unlock()
		if over {
			return
		}
		if lost := s.hiddenLoss(to.other()); lost != nil {
			s.record(to.other(), lost)
			if now := socket.Acked(tcp); since.IsZero() || now != taken {
				since, taken = time.Now(), now
			}
			if time.Since(since) >= lingerFor {
				_ = tcp.SetWriteDeadline(time.Unix(1, 0)) // fails only on a closed connection
				return
			}
		}
		timer.Reset(lookEvery)
	}
	mu.Lock()
	defer mu.Unlock()
	timer = time.AfterFunc(lookEvery, look)
	return func() {
		mu.Lock()
		defer mu.Unlock()
		over = true
		timer.Stop()
	}
}

// record notes that a side ended: how the first one did is how the session
// did.
func (s *session) record(side Side, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.end == nil {
		s.end = &End{Side: side, Err: err}
	}
	if s.lost[side] == nil {
		s.lost[side] = err
	}
}

// setReceived notes that all bytes of a side are passed on and returns why the
// side was lost, if it was: a writer may have found out before its reader.
func (s *session) setReceived(side Side) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.received[side] = true
	if s.lost[side] != nil {
		s.end.promote(side, s.lost[side])
	}
	return s.lost[side]
}

// promote makes a FIN that turned out to be a reset one.
func (e *End) promote(side Side, err error) {
	if e.Side == side && e.Err == nil {
		e.Err = err
	}
}

func (s *session) setFinished(side Side) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.finished[side] = true
}

// hiddenLoss returns why a side was lost whose stream seems to have ended. The
// kernel reports a reset once, to whoever asks first: a writer may have taken
// the error, and the reader is told of an end.
func (s *session) hiddenLoss(side Side) error {
	tcp := s.tcp[side]
	if tcp == nil {
		return nil
	}
	if err := socket.TakeError(tcp); err != nil {
		return err
	}
	// Looked at first: once the side has its FIN, both ends may close in peace.
	info, ok := socket.Stat(tcp)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lost[side] == nil && !s.finished[side] && ok && info.Closed {
		return errReset
	}
	return s.lost[side]
}

var errReset error = syscall.ECONNRESET

// reset passes the loss of one side on to the other as a reset, after that has
// taken what came before.
func (s *session) reset(lost Side) {
	s.mu.Lock()
	already := s.aborted
	s.aborted = true
	s.mu.Unlock()
	if already {
		return
	}
	if tcp := s.tcp[lost.other()]; tcp != nil {
		drain(tcp)
	}
	socket.Abort(s.conns[lost.other()])
	socket.Abort(s.conns[lost])
}

// drain waits until c's peer has taken everything that was written, or has
// taken nothing for lingerFor. No event tells of it, so it looks, ever less
// often.
func drain(c *net.TCPConn) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	unsent, deadline := -1, time.Now().Add(lingerFor)
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		info, ok := socket.Stat(c)
		if !ok || info.Closed || info.Unsent == 0 || time.Now().After(deadline) {
			return
		}
		if unsent >= 0 && info.Unsent < unsent {
			deadline = time.Now().Add(lingerFor)
		}
		unsent = info.Unsent
		timer.Reset(pause)
		<-timer.C
	}
}

// close ends an orderly session so that the kernel delivers what it holds.
func (s *session) close() {
	if !s.aborted { // both directions have ended: nobody writes it any more
		for _, c := range s.conns {
			socket.Orderly(c)
		}
	}
	for _, c := range s.conns {
		_ = c.Close() // the session is over: nothing left to tell anybody
	}
}

// closeWrite passes the end of a stream on. A connection that cannot be closed
// by half is closed.
func closeWrite(c net.Conn) error {
	if hc, ok := c.(interface{ CloseWrite() error }); ok {
		return hc.CloseWrite()
	}
	return c.Close()
}

// watchReset waits until the other direction has ended, while a side that has
// sent its FIN may still be reset.
func (s *session) watchReset(side Side) {
	tcp := s.tcp[side]
	done := make(chan struct{})
	defer close(done)
	s.mu.Lock()
	if tcp == nil || s.received[side.other()] || s.lost[side.other()] != nil || s.aborted {
		s.mu.Unlock()
		return
	}
	s.watch[side] = done
	s.mu.Unlock()
	err := socket.WaitUntil(tcp, func() bool {
		info, ok := socket.Stat(tcp)
		return !ok || info.Closed
	})
	if err != nil {
		return // unwatch, or closed from outside
	}
	err = socket.TakeError(tcp)
	if err == nil {
		err = errReset
	}
	s.record(side, err)
	s.reset(side)
}

// unwatch ends watchReset before the side gets its FIN: what follows looks
// like a reset and is none.
func (s *session) unwatch(side Side) {
	s.mu.Lock()
	watch := s.watch[side]
	s.mu.Unlock()
	if watch != nil {
		_ = s.tcp[side].SetReadDeadline(time.Unix(1, 0)) // fails only on a closed connection
		<-watch
	}
}
