//go:build !linux

package relay

import (
	"net"
	"sync"
)

// loops are the event loops, of which this system has none.
type loops struct{}

func (*loops) start(*sync.WaitGroup) error                            { return nil }
func (*loops) carry(_, _ net.Conn, _ *Counters, _ func(End)) *Session { return nil }
func (*loops) close()                                                 {}
