//go:build linux

package conformance

import (
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
)

// Ports that processes of these tests listen on: below the ephemeral range,
// where an outgoing connection could take one before a process listens, and
// above the router's default range.
const (
	lowPort  = 30000
	highPort = 32700
)

// portPool deals out ports to the tests of this process; what it has dealt out
// comes back at the test's end.
type portPool struct {
	mu    sync.Mutex // guards next and taken
	next  int
	taken map[int]bool
}

var ports = portPool{next: lowPort + rand.N(highPort-lowPort), taken: map[int]bool{}}

// take returns the first of n consecutive ports that nobody uses.
func (p *portPool) take(t testing.TB, n int) int {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for range highPort - lowPort {
		if p.next+n > highPort {
			p.next = lowPort
		}
		first := p.next
		p.next++
		if p.free(first, n) {
			p.next += n - 1
			p.mark(first, n, true)
			t.Cleanup(func() {
				p.mu.Lock()
				defer p.mu.Unlock()
				p.mark(first, n, false)
			})
			return first
		}
	}
	t.Fatalf("no %d free ports in a row from %d to %d", n, lowPort, highPort)
	return 0
}

func (p *portPool) free(first, n int) bool {
	for port := first; port < first+n; port++ {
		if p.taken[port] {
			return false
		}
		l, err := net.Listen("tcp", loopback(port))
		if err != nil {
			return false
		}
		l.Close()
	}
	return true
}

func (p *portPool) mark(first, n int, taken bool) {
	for port := first; port < first+n; port++ {
		p.taken[port] = taken
	}
}

// loopback returns the address of a port on 127.0.0.1.
func loopback(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }
