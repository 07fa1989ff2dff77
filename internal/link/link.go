package link

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/ohrouter/oh-router/internal/socket"
)

// Link is a link to a proxy whose target is connected.
type Link struct {
	Resolved netip.AddrPort // the target's address that the proxy connected to

	conn  net.Conn // nil when somebody else has the connection
	proxy *proxy
	place place
	begun time.Time // when connecting began; zero once that has been looked at, and once TLS has proved who the proxy is

	secured *secured          // it is one of these, whose lock guards conn and cut; nil without TLS
	leaf    *x509.Certificate // of the proxy, if it is
	cut     func()            // ends the session that has the connection; nil while the link has it

	// Of a warm link, or one that was:
	release func() // gives back what it costs; nil when that is done
	acked   uint64 // bytes that the proxy's kernel had taken when it became warm; 0 not known
}

// Proxy returns the proxy's name.
func (l *Link) Proxy() string { return l.proxy.Name }

// move notes what the link is doing now, as States.move does.
func (l *Link) move(to state) bool { return l.proxy.states.move(&l.place, to) }

// handshake sends the commands for what is wanted and reads the answer, if
// there is one.
func (l *Link) handshake(ctx context.Context, commands []byte, want Want) (answered bool, err error) {
	limit, given := l.proxy.patience()+Timeout, 0
	early := want.Early != nil && !want.Park
	if early {
		b := want.Early()
		commands, given = slices.Concat(commands, b), len(b)
	}
	err = within(ctx, l.conn, limit, func() error {
		until := time.Now().Add(limit)
		_, werr := l.conn.Write(commands)
		var unsaid error
		if werr == nil && early && l.proxy.pool.distance() >= worthwhile {
			var err error
			if unsaid, err = l.sayMore(ctx, want.Early, given, until); err != nil {
				return err
			}
		}
		var m connectResponse
		if err := l.hear(werr, typeConnect, typeResponse, &m); err != nil {
			return err
		}
		var err error
		if answered, err = l.answered(m); err == nil && unsaid != nil {
			answered, err = false, unsaid // the target would get a stream with a hole
		}
		return err
	})
	if err != nil {
		return answered, err
	}
	if want.Park {
		l.move(parked)
	} else {
		l.move(active)
	}
	return true, nil
}

// sayMore sends what the client says until the proxy does: a client that is at
// some distance itself says its first word later than it connects, and that is
// not to wait for the answer. given has been sent. It looks ever more seldom, and
// leaves the connection with the deadline until. unsaid is why the proxy was not
// told what the client has said: the answer may yet be that it need not be.
func (l *Link) sayMore(ctx context.Context, early func() []byte, given int, until time.Time) (unsaid, err error) {
	tcp := socket.TCP(l.conn)
	if tcp == nil {
		return nil, nil
	}
	for pause := tick; time.Until(until) > pause && ctx.Err() == nil; pause *= 2 {
		if err := tcp.SetReadDeadline(time.Now().Add(pause)); err != nil {
			return nil, err
		}
		err := socket.WaitUntil(tcp, func() bool { return socket.Pending(tcp) })
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			break // the answer tells, also what is wrong
		}
		b := early()
		if len(b) == given {
			continue
		}
		if err := errors.Join(tcp.SetWriteDeadline(time.Now().Add(Timeout)), ctx.Err()); err != nil {
			return nil, err
		}
		if _, err := l.conn.Write(b[given:]); err != nil {
			unsaid = fmt.Errorf("send payload behind %v: %w", typeAck, err)
			break
		}
		given = len(b)
	}
	// In this order: the end of ctx sets a deadline, too, which this may undo.
	return unsaid, errors.Join(tcp.SetReadDeadline(until), ctx.Err())
}

// exchange sends commands, the first of which is said, and reads the answer.
func (l *Link) exchange(b []byte, said, want frameType, answer any) error {
	_, err := l.conn.Write(b)
	return l.hear(err, said, want, answer)
}

// hear reads the answer to what was said, which may have failed: a proxy that
// does not take it may have said why before it hung up.
func (l *Link) hear(werr error, said, want frameType, answer any) error {
	if werr != nil {
		werr = fmt.Errorf("send %v: %w", said, werr)
		if isTimeout(werr) {
			return werr
		}
	}
	if err := frames.read(l.conn, want, answer); err != nil {
		return errors.Join(err, werr)
	}
	return nil
}

// answered takes what the proxy has answered. It tells whether that was an
// answer; if so, the error says why the target is not connected.
func (l *Link) answered(m connectResponse) (is bool, err error) {
	l.Resolved, err = m.result()
	if err != nil && m.Code == "" {
		return false, err
	}
	l.proxy.learn(m.Patience)
	if err == nil && m.Took > 0 {
		l.answeredIn(time.Duration(m.Took) * time.Microsecond)
	}
	return true, err
}

// within lets do read from c for so long and write to c for [Timeout], or until
// ctx ends, which fails do. When do succeeds, c has no deadline any more.
func within(ctx context.Context, c net.Conn, read time.Duration, do func() error) error {
	now := time.Now()
	if err := errors.Join(c.SetReadDeadline(now.Add(read)), c.SetWriteDeadline(now.Add(Timeout))); err != nil {
		return err
	}
	// If do sets a deadline it looks at ctx behind that: it could undo what the
	// end of ctx has set.
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) }) // fails only on a closed connection
	err := do()
	if !stop() && err == nil {
		err = ctx.Err() // its deadline is set, or will be
	}
	if err != nil {
		return err
	}
	return c.SetDeadline(time.Time{})
}

// Conn returns the connection that carries the session's bytes once the link
// is acknowledged; nil for a link of [Handshake.Link].
func (l *Link) Conn() net.Conn { return l.conn }

// Take returns the connection and leaves it to the caller, who closes it. cut is
// called when the link must not go on, see [Dialer.Cut].
func (l *Link) Take(cut func()) net.Conn {
	if l.secured != nil {
		l.secured.mu.Lock()
		defer l.secured.mu.Unlock()
		l.cut = cut
	}
	conn := l.conn
	l.conn = nil
	return conn
}

// How long Ack waits for the news that the proxy had given the link up: settle
// in any case, and quiet, and as long as making two links takes, while nobody
// has anything to say.
const (
	settle = 5 * time.Millisecond
	quiet  = 50 * time.Millisecond
	tick   = time.Millisecond // between looks at the client
)

// Ack makes the session of a parked link stand. It fails when the link is not
// parked any more, also when the proxy's news of that was still under way: for
// that, Ack waits until the target speaks, or the client, but not for long. A
// nil client is not waited for. Ack fails when ctx ends, too.
func (l *Link) Ack(ctx context.Context, client *net.TCPConn) error {
	if !l.move(active) { // a second AckCommand would be payload
		return errors.New("acknowledge a link: it is not parked")
	}
	if _, err := l.conn.Write(frames.ack); err != nil {
		return fmt.Errorf("send %v: %w", typeAck, err)
	}
	return l.settled(ctx, client, settle, quiet+2*l.proxy.pool.distance())
}

// settled waits until there is something to read, and returns an error if that
// is the link's end. It waits for atLeast, unless ctx ends, and then for the
// client to say something, for atMost in all.
func (l *Link) settled(ctx context.Context, client *net.TCPConn, atLeast, atMost time.Duration) error {
	tcp := socket.TCP(l.conn)
	if tcp == nil {
		return nil // nothing tells without reading
	}
	begin := time.Now()
	for until := begin.Add(atLeast); ; until = time.Now().Add(tick) {
		if err := tcp.SetReadDeadline(until); err != nil {
			return err
		}
		err := socket.WaitUntil(tcp, func() bool { return socket.Pending(tcp) })
		late := errors.Is(err, os.ErrDeadlineExceeded)
		switch {
		case late && ctx.Err() != nil:
			return ctx.Err()
		case err != nil && !late && !errors.Is(err, errors.ErrUnsupported):
			return err
		case socket.Ended(tcp): // also when that came with the deadline, on a busy machine
			return errors.New("acknowledge a link: the proxy has given it up")
		case !late, client == nil, socket.Pending(client), time.Since(begin) >= atMost:
			return tcp.SetReadDeadline(time.Time{})
		}
	}
}

// Alive tells whether a parked or warm link still stands: a proxy sends nothing
// before the next command, so whatever there is to read is the link's end.
func (l *Link) Alive() bool { return !socket.Pending(socket.TCP(l.conn)) }

// Close closes the link, whatever it is doing. It is idempotent, and also to be
// called when something else has closed its connection.
func (l *Link) Close() {
	if l.move(closed) {
		l.proxy.links.Add(-1)
		if l.secured != nil {
			l.secured.remove(l)
		}
		l.taken()
		if l.conn != nil {
			closeTCP(l.conn) // the session is over: nothing left to tell anybody
		}
	}
}

// closeTCP closes c, which is a reset unless [socket.Orderly] was called. A
// Close of TLS would tell of an end in order, and may wait for a peer that does
// not read.
func closeTCP(c net.Conn) {
	for {
		over, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		c = over.NetConn()
	}
	_ = c.Close()
}
