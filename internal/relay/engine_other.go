//go:build !linux

package relay

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

// loops are the event loops, of which this system has none.
type loops struct{}

func (*loops) start(int, time.Duration, *sync.WaitGroup) error       { return nil }
func (*loops) carry(_, _ net.Conn, _ *Counters, _ func(End)) Session { return nil }
func (*loops) listen(*Listener, *net.TCPListener) (bool, error)      { return false, nil }
func (*loops) unlisten(*Listener)                                    {}
func (*loops) rewatch(*Listener) error                               { return nil }
func (*loops) unwatch(*Listener)                                     {}
func (*loops) close()                                                {}
func (*loops) descriptors() int                                      { return 0 }

// These stand for what only an event loop has.
type (
	rawConn     struct{}
	rawListener struct{}
)

func (rawConn) onLoop() bool                { return false }
func (c rawConn) offLoop() rawConn          { return c }
func (rawConn) take() (*net.TCPConn, error) { return nil, net.ErrClosed }
func (rawConn) abort()                      {}
func (rawConn) local() netip.AddrPort       { return netip.AddrPort{} }

// Forward is not possible on this system, see [Conn.OnLoop].
func (Conn) Forward(Call, Answerer, *Counters) Session { panic("no event loop") }

// Serve is not possible on this system, see [Conn.OnLoop].
func (Conn) Serve(Terms, Asker, *Counters) Served { panic("no event loop") }
