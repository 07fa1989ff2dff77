package identity

import (
	"bytes"
	"crypto/tls"
	"net"
	"sync"
	"testing"
	"testing/synctest"
)

// flipping changes one bit of the byte that is the n-th to be written.
type flipping struct {
	net.Conn
	n       int
	flipped bool
}

func (f *flipping) Write(p []byte) (int, error) {
	if f.n < len(p) && !f.flipped {
		p, f.flipped = bytes.Clone(p), true
		p[f.n] ^= 1
	}
	f.n -= len(p)
	return f.Conn.Write(p)
}

// TestFlippedBits has somebody on the way who changes what goes by: neither
// side takes a byte of what the other has not said.
func TestFlippedBits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		by := ca(t)
		router, proxy := credentials(t, by, main1, nil), credentials(t, by, east, nil)
		for _, fromServer := range []bool{false, true} {
			n := 0
			for flipped(t, router.LinkClient("east"), proxy.LinkServer(), n, fromServer) {
				n += 29
			}
			if n < 1000 {
				t.Errorf("there were %d bytes to change, want a whole handshake", n)
			}
		}
	})
}

// flipped lets a router and a proxy meet, and tells whether they have said as
// much as that there was something to change.
func flipped(t *testing.T, client, server *tls.Config, n int, fromServer bool) bool {
	a, b := bufferedPipe()
	on := &flipping{Conn: a, n: n}
	if fromServer {
		on.Conn = b
		b = on
	} else {
		a = on
	}
	var c, s side
	var wg sync.WaitGroup
	wg.Go(func() {
		s = meet(tls.Server(b, server), true)
		b.Close()
	})
	c = meet(tls.Client(a, client), false)
	a.Close()
	wg.Wait()
	if ok := c.err == nil && s.err == nil; ok == on.flipped {
		t.Errorf("byte %d, of the server %v, was changed: %v. The router says %v, the proxy %v", n, fromServer, on.flipped, c.err, s.err)
	}
	return on.flipped
}
