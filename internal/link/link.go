package link

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/ohrouter/oh-router/internal/socket"
)

// Link is a link to a proxy whose target is connected.
type Link struct {
	Proxy    string         // the proxy's name
	Resolved netip.AddrPort // the target's address that the proxy connected to

	conn    net.Conn
	proxy   *proxy
	tracker *tracker
}

// handshake sends what is wanted and reads the answer, if there is one.
func (l *Link) handshake(ctx context.Context, want Want) (answered bool, err error) {
	if err := l.conn.SetDeadline(time.Now().Add(l.proxy.patience() + Timeout)); err != nil {
		return false, err
	}
	stop := context.AfterFunc(ctx, func() {
		_ = l.conn.SetDeadline(time.Unix(1, 0)) // fails only on a closed connection
	})
	defer stop()
	b, err := frames.append(nil, typeConnect, connectCommand{Session: want.Session, Host: want.Target.Host, Port: want.Target.Port, Park: want.Park})
	if err == nil && !want.Park {
		b, err = frames.append(b, typeAck, ackCommand{})
	}
	if err != nil {
		return false, err
	}
	if _, err := l.conn.Write(b); err != nil {
		return false, fmt.Errorf("send %v: %w", typeConnect, err)
	}
	var m connectResponse
	if err := frames.read(l.conn, typeResponse, &m); err != nil {
		return false, err
	}
	l.proxy.learn(m.Patience)
	if l.Resolved, err = m.result(); err != nil {
		return true, err
	}
	if want.Park {
		l.tracker.move(parked)
	} else {
		l.tracker.move(active)
	}
	if !stop() { // ctx has ended: its deadline is set or will be
		return true, ctx.Err()
	}
	return true, l.conn.SetDeadline(time.Time{})
}

// Conn returns the connection that carries the session's bytes once the link
// is acknowledged.
func (l *Link) Conn() net.Conn { return l.conn }

// Ack makes the session of a parked link stand.
func (l *Link) Ack() error {
	b, err := frames.append(nil, typeAck, ackCommand{})
	if err != nil {
		return err
	}
	if _, err := l.conn.Write(b); err != nil {
		return fmt.Errorf("send %v: %w", typeAck, err)
	}
	l.tracker.move(active)
	return nil
}

// Alive tells whether a parked link still stands: a proxy sends nothing before
// the AckCommand, so whatever there is to read is the link's end.
func (l *Link) Alive() bool { return !socket.Pending(socket.TCP(l.conn)) }

// Close closes the link, whatever it is doing. It is idempotent, and also to be
// called when something else has closed its connection.
func (l *Link) Close() {
	if l.tracker.move(closed) {
		l.proxy.links.Add(-1)
		_ = l.conn.Close() // the session is over: nothing left to tell anybody
	}
}
