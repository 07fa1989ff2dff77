package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/ohrouter/oh-router/internal/socket"
)

// Link is a link to a proxy whose target is connected.
type Link struct {
	Proxy    string         // the proxy's name
	Resolved netip.AddrPort // the target's address that the proxy connected to

	conn    net.Conn // nil when somebody else has the connection
	proxy   *proxy
	tracker tracker
	release func() // of a warm link that is closed, or taken; nil for others
	acked   uint64 // bytes that the proxy's kernel had taken when it was warm
}

// handshake sends what is wanted and reads the answer, if there is one.
func (l *Link) handshake(ctx context.Context, want Want) (answered bool, err error) {
	b, err := want.commands()
	if err != nil {
		return false, err
	}
	if want.Early != nil && !want.Park {
		b = append(b, want.Early()...)
	}
	err = within(ctx, l.conn, l.proxy.patience()+Timeout, Timeout, func() error {
		if _, err := l.conn.Write(b); err != nil {
			return fmt.Errorf("send %v: %w", typeConnect, err)
		}
		var m connectResponse
		if err := frames.read(l.conn, typeResponse, &m); err != nil {
			return err
		}
		var err error
		answered, err = l.answered(m)
		return err
	})
	if err != nil {
		return answered, err
	}
	if want.Park {
		l.tracker.move(parked)
	} else {
		l.tracker.move(active)
	}
	return true, nil
}

// answered takes what the proxy has answered. It tells whether that was an
// answer; if so, the error says why the target is not connected.
func (l *Link) answered(m connectResponse) (is bool, err error) {
	l.Resolved, err = m.result()
	if err != nil && m.Code == "" {
		return false, err
	}
	l.proxy.learn(m.Patience)
	return true, err
}

// within lets do read from c and write to c for so long, or until ctx ends,
// which fails do. When do succeeds, c has no deadline any more.
func within(ctx context.Context, c net.Conn, read, write time.Duration, do func() error) error {
	now := time.Now()
	if err := errors.Join(c.SetReadDeadline(now.Add(read)), c.SetWriteDeadline(now.Add(write))); err != nil {
		return err
	}
	// No deadline is set by do: it could undo what the end of ctx has set.
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

// settle is how long Ack waits for the news that the proxy had given the link
// up.
const settle = 5 * time.Millisecond

// Ack makes the session of a parked link stand. It fails when the link is not
// parked any more, also when the proxy's news of that was still under way: for
// that, Ack waits a moment for a target that does not speak first.
func (l *Link) Ack() error {
	if !l.tracker.move(active) { // a second AckCommand would be payload
		return errors.New("acknowledge a link: it is not parked")
	}
	b, err := frames.append(nil, typeAck, ackCommand{})
	if err != nil {
		return err
	}
	if _, err := l.conn.Write(b); err != nil {
		return fmt.Errorf("send %v: %w", typeAck, err)
	}
	return l.settled()
}

// settled waits until there is something to read, but not for long, and
// returns an error if that is the link's end.
func (l *Link) settled() error {
	tcp := socket.TCP(l.conn)
	if tcp == nil {
		return nil // nothing tells without reading
	}
	if err := tcp.SetReadDeadline(time.Now().Add(settle)); err != nil {
		return err
	}
	err := socket.WaitUntil(tcp, func() bool { return socket.Pending(tcp) })
	switch {
	case err == nil && socket.Ended(tcp):
		return errors.New("acknowledge a link: the proxy has given it up")
	case err != nil && !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, errors.ErrUnsupported):
		return err
	}
	return tcp.SetReadDeadline(time.Time{})
}

// taken gives back what a link costs while it is warm.
func (l *Link) taken() {
	if l.release != nil {
		l.release()
		l.release = nil
	}
}

// Alive tells whether a parked or warm link still stands: a proxy sends nothing
// before the next command, so whatever there is to read is the link's end.
func (l *Link) Alive() bool { return !socket.Pending(socket.TCP(l.conn)) }

// Close closes the link, whatever it is doing. It is idempotent, and also to be
// called when something else has closed its connection.
func (l *Link) Close() {
	if l.tracker.move(closed) {
		l.proxy.closed(l)
		l.taken()
		if l.conn != nil {
			_ = l.conn.Close() // the session is over: nothing left to tell anybody
		}
	}
}
