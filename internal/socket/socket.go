// Package socket sets and reads what package net does not offer of a TCP
// socket: how soon a dead peer is noticed, whether a close is a reset, and
// what the kernel still holds. It knows nothing of links and sessions.
//
// See tcp(7) and socket(7).
package socket

import (
	"context"
	"net"
	"syscall"
	"time"
)

// A dead peer is noticed within [DeadAfter], whether the connection is idle
// (keep-alive) or data is outstanding (TCP_USER_TIMEOUT, where the system has
// it). A peer that lives but takes no byte for that long counts as dead, too.
const (
	DeadAfter = 25 * time.Second
	probeIdle = 10 * time.Second // silence before the first keep-alive probe
	probeGap  = 5 * time.Second
	probes    = int((DeadAfter - probeIdle) / probeGap)
)

// keepAlive is how every connection of the data path is kept alive.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: probeIdle, Interval: probeGap, Count: probes}

// Listen listens on a TCP address. The connections that it accepts are of the
// data path: a dead peer is noticed within [DeadAfter], and until [Orderly]
// they are reset, not closed, when the process dies.
func Listen(ctx context.Context, address string) (*net.TCPListener, error) {
	lc := net.ListenConfig{KeepAliveConfig: keepAlive, Control: control}
	if inherits {
		lc.KeepAliveConfig, lc.KeepAlive = net.KeepAliveConfig{}, -1
	}
	lc.SetMultipathTCP(false) // splice wants plain TCP
	ln, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return ln.(*net.TCPListener), nil
}

// Accept returns the listener's next connection, prepared as [Listen] says.
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

// Dial connects to a TCP address, with the same promise as [Listen]'s
// connections.
func Dial(ctx context.Context, address string) (*net.TCPConn, error) {
	d := net.Dialer{KeepAliveConfig: keepAlive, ControlContext: controlContext}
	if inherits {
		d.KeepAliveConfig, d.KeepAlive = net.KeepAliveConfig{}, -1
	}
	d.SetMultipathTCP(false)
	c, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	tc := c.(*net.TCPConn)
	if !inherits {
		if err := tc.SetLinger(0); err != nil {
			_ = tc.Close()
			return nil, err
		}
	}
	return tc, nil
}

func controlContext(_ context.Context, network, address string, c syscall.RawConn) error {
	return control(network, address, c)
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
