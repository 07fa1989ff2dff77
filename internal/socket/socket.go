// Package socket sets and reads what package net does not offer of a TCP
// socket: its congestion control, how soon a dead peer is noticed, whether a
// close is a reset, and what the kernel still holds. It knows nothing of links
// and sessions.
//
// See tcp(7) and socket(7).
package socket

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// Options are the settings of the sockets of one leg of the data path. The zero
// value is right for almost everyone.
type Options struct {
	// Congestion is the congestion control, one that [CheckCongestion] has
	// passed; "" is the system's.
	Congestion string
	// DeadAfter is how soon a dead peer is noticed, whether the connection is
	// idle (keep-alive) or data is outstanding (TCP_USER_TIMEOUT, where the
	// system has it). A peer that lives but takes no byte for that long counts
	// as dead, too. It is whole seconds from MinDeadAfter to MaxDeadAfter, and
	// 25 s when it is 0.
	DeadAfter time.Duration
	// Backlog is how many connections may wait to be accepted; 0 is as many as
	// the system permits, which more than that is, too.
	Backlog int
}

// What [Options.DeadAfter] may be. Above the most, Linux would not take as many
// probes as fit in.
const (
	MinDeadAfter = 5 * time.Second
	MaxDeadAfter = 10 * time.Minute
)

func (o Options) deadAfter() time.Duration {
	if o.DeadAfter == 0 {
		return 25 * time.Second
	}
	return o.DeadAfter
}

// keepAlive probes an idle peer after 10 s and then every 5 s, or more often
// when there is less time, so that the last probe's is over with DeadAfter.
// Where there is more time the probes are more: longer pauses would save little,
// and let firewalls on the way forget the connection.
func (o Options) keepAlive() net.KeepAliveConfig {
	total := o.deadAfter()
	gap := min(5*time.Second, (total / 5).Truncate(time.Second))
	idle := min(10*time.Second, 2*total/5)
	probes := (total - idle + gap - 1) / gap
	return net.KeepAliveConfig{Enable: true, Idle: total - probes*gap, Interval: gap, Count: int(probes)}
}

// Listen listens on a TCP address. The connections that it accepts are of the
// data path: they have the options, and until [Orderly] they are reset, not
// closed, when the process dies.
func (o Options) Listen(ctx context.Context, address string) (*net.TCPListener, error) {
	lc := net.ListenConfig{KeepAliveConfig: o.keepAlive(), Control: o.prepareListener}
	if inherits {
		lc.KeepAliveConfig, lc.KeepAlive = net.KeepAliveConfig{}, -1
	}
	lc.SetMultipathTCP(false) // splice wants plain TCP
	network := "tcp"
	if at, err := netip.ParseAddrPort(address); err == nil && at.Addr().Is4() {
		network = "tcp4" // package net takes 0.0.0.0 for all addresses of IPv6, too
	}
	l, err := lc.Listen(ctx, network, address)
	if err != nil {
		return nil, err
	}
	ln := l.(*net.TCPListener)
	if o.Backlog > 0 {
		if err := setBacklog(ln, o.Backlog); err != nil {
			_ = ln.Close() // it is listening for a better reason
			return nil, fmt.Errorf("set the backlog of %s: %w", address, err)
		}
	}
	return ln, nil
}

// Accept returns the listener's next connection, prepared as [Options.Listen]
// says.
func Accept(ln *net.TCPListener) (*net.TCPConn, error) {
	c, err := ln.AcceptTCP()
	if err != nil {
		return nil, err
	}
	if !inherits {
		if err := c.SetLinger(0); err != nil {
			_ = c.Close() // it is gone already
			return nil, err
		}
	}
	return c, nil
}

// Dial connects to a TCP address, with the same promise as the connections of
// [Options.Listen].
func (o Options) Dial(ctx context.Context, address string) (*net.TCPConn, error) {
	d := net.Dialer{KeepAliveConfig: o.keepAlive(), Control: o.prepare}
	if inherits {
		d.KeepAliveConfig, d.KeepAlive = net.KeepAliveConfig{}, -1
	}
	d.SetMultipathTCP(false)
	c, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	tc := c.(*net.TCPConn)
	if err := o.settle(tc); err != nil {
		_ = tc.Close()
		return nil, err
	}
	return tc, nil
}

// TCP returns the TCP connection under c, which may be wrapped in TLS, or nil
// when there is none.
func TCP(c net.Conn) *net.TCPConn {
	for {
		switch v := c.(type) {
		case *net.TCPConn:
			return v
		case interface{ NetConn() net.Conn }:
			c = v.NetConn()
		default:
			return nil
		}
	}
}

// Abort closes c so that its peer sees a reset. What the kernel has not sent
// yet is lost.
func Abort(c net.Conn) {
	if tc := TCP(c); tc != nil {
		_ = tc.SetLinger(0) // fails only on a closed connection
		_ = tc.Close()
	}
	_ = c.Close()
}

// Orderly takes back that c is reset when it is closed or the process dies:
// from here on the kernel delivers what it holds, then a FIN.
func Orderly(c net.Conn) {
	if tc := TCP(c); tc != nil {
		_ = tc.SetLinger(-1) // fails only on a closed connection
	}
}
