package proxy_test

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/ohrouter/oh-router/internal/link"
	"github.com/ohrouter/oh-router/internal/proxy"
)

// silent opens n links from an address, which say nothing.
func (f *fixture) silent(n int, from string) (conns []net.Conn) {
	f.t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	for range n {
		c, err := d.DialContext(f.t.Context(), "tcp", f.addr)
		if err != nil {
			f.t.Fatal(err)
		}
		f.t.Cleanup(func() { c.Close() })
		conns = append(conns, c)
	}
	return conns
}

// reset tells whether a connection has been.
func reset(c net.Conn) bool {
	c.SetReadDeadline(time.Now().Add(time.Millisecond))
	_, err := c.Read(make([]byte, 1))
	return err != nil && !errors.Is(err, os.ErrDeadlineExceeded)
}

// The budget of the fixture is for half as many sessions as there are links
// here that say nothing.
func TestSilentLinksShutNobodyOut(t *testing.T) {
	for _, from := range []string{"127.0.0.2", "127.0.0.1"} {
		t.Run(from, func(t *testing.T) {
			f := startWith(t, proxy.Config{Handshakes: 16, HandshakesPerSource: 8, HandshakeTimeout: time.Minute}, patient, "127.0.0.1:*")
			x := listen(t, "127.0.0.1", 0)
			early := f.silent(4, "127.0.0.3")
			crowd := f.silent(2*descriptors, from)
			for range 5 {
				begin := time.Now()
				l, server := f.link(x, false)
				say(t, l.Conn(), server, "served all the same")
				if d := time.Since(begin); d > link.Timeout*3/5 {
					t.Errorf("a link took %v", d)
				}
				l.Close()
			}
			for i, c := range early {
				if reset(c) {
					t.Errorf("link %d of another source was dropped", i)
				}
			}
			until(t, "the oldest are dropped", func() bool { return reset(crowd[0]) })
			const youngest = 8 - 5 // the links above may have taken the place of five
			for i, c := range crowd[len(crowd)-youngest:] {
				if reset(c) {
					t.Errorf("link %d of the youngest was dropped", i)
				}
			}
			if n := len(f.log.lines("level=WARN", "say nothing", "of="+from)); n != 1 {
				t.Errorf("%d lines in the log, want one:\n%v", n, f.log.lines("WARN"))
			}
		})
	}
}

func TestSilentLinksOfManySources(t *testing.T) {
	f := startWith(t, proxy.Config{Handshakes: 8, HandshakesPerSource: 4}, patient, "127.0.0.1:*")
	x := listen(t, "127.0.0.1", 0)
	for _, from := range []string{"127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5", "127.0.0.6"} {
		f.silent(4, from)
	}
	l, server := f.link(x, false)
	say(t, l.Conn(), server, "served all the same")
}

func TestWhatHasSpokenIsNoCrowd(t *testing.T) {
	f := startWith(t, proxy.Config{Handshakes: 4, HandshakesPerSource: 2}, patient, "127.0.0.1:*")
	x := listen(t, "127.0.0.1", 0)
	for range 8 {
		l, server := f.link(x, false)
		say(t, l.Conn(), server, "a session")
		p, _ := f.link(x, true)
		if !p.Alive() {
			t.Error("a parked link was dropped")
		}
	}
	f.silent(4, "127.0.0.1")
	l, server := f.link(x, false)
	if _, err := io.WriteString(server, "x"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(l.Conn(), make([]byte, 1)); err != nil {
		t.Error(err)
	}
}
