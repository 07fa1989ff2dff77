package e2e

import (
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
)

// Ports that tests listen on: below every system's ephemeral range, where any
// outgoing connection could take one between our look and the server's listen,
// and below the router's default range.
const (
	lowPort  = 10000
	highPort = 19999
)

// portPool deals out ports that nobody listens on, each one once per round, so
// that tests of one process never compete for one. Another process may: it is
// made unlikely by a random start, and serve tries again.
type portPool struct {
	mu   sync.Mutex // guards next
	next int
}

var ports = portPool{next: lowPort + rand.N(highPort-lowPort)}

// take returns the first of n consecutive free ports of 127.0.0.1.
func (p *portPool) take(t testing.TB, n int) int {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for range (highPort - lowPort) / n {
		if p.next+n > highPort {
			p.next = lowPort
		}
		first := p.next
		p.next += n
		if allFree(first, n) {
			return first
		}
	}
	t.Fatalf("no %d free ports in a row from %d to %d", n, lowPort, highPort)
	return 0
}

func allFree(first, n int) bool {
	for port := first; port < first+n; port++ {
		l, err := net.Listen("tcp", loopback(port))
		if err != nil {
			return false
		}
		l.Close()
	}
	return true
}

// loopback returns the address of a port on 127.0.0.1.
func loopback(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }
