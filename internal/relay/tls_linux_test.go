package relay_test

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ohrouter/oh-router/internal/relay"
	"github.com/ohrouter/oh-router/internal/socket"
)

// tap keeps what TLS writes until it is told where to cut it.
type tap struct {
	net.Conn
	holds bool
	held  []byte
}

func (c *tap) Write(b []byte) (int, error) {
	if !c.holds {
		return c.Conn.Write(b)
	}
	c.held = append(c.held, b...)
	return len(b), nil
}

// tapped starts a session whose side A is TLS, and returns the tap of its peer.
// Side B is plain, or TLS as well.
func tapped(t *testing.T, nearServes, bothTLS bool) (*fixture, *tap) {
	t.Helper()
	cert := certificate(t)
	f := &fixture{end: make(chan relay.End, 1), t: t, side: [2]relay.Side{relay.A, relay.B}}
	near, far := tcpPair(t)
	c := &tap{Conn: far}
	f.near[0], f.far[0] = tlsOver(t, cert, nearServes, socket.NewTransport(near.(*net.TCPConn)), c)
	f.near[1], f.far[1] = tcpPair(t)
	if bothTLS {
		f.near[1], f.far[1] = tlsOver(t, cert, !nearServes, socket.NewTransport(f.near[1].(*net.TCPConn)), f.far[1])
	}
	withEngine(t, f)
	c.holds = true
	return f, c
}

// sendCut sends what c holds in pieces, each after the session has read the one
// before.
func (f *fixture) sendCut(c *tap, at ...int) {
	f.t.Helper()
	begin := 0
	for _, end := range append(slices.Clone(at), len(c.held)) {
		f.send(c, c.held[begin:end])
		begin = end
	}
	c.held = c.held[:0]
}

// send sends b below TLS and waits until the session has read it.
func (f *fixture) send(c *tap, b []byte) {
	f.t.Helper()
	c.Conn.SetWriteDeadline(time.Now().Add(deadline)) // crypto/tls leaves another one
	if _, err := c.Conn.Write(b); err != nil {
		f.t.Fatal(err)
	}
	near := relay.Descriptors(f.session)[0]
	waitFor(f.t, func() bool { return unread(f.t, c.Conn) == 0 && received(f.t, near) == 0 })
}

// unread is what a connection has not acknowledged, or its receiver not read.
func unread(t testing.TB, c net.Conn) (n int) {
	t.Helper()
	rc, err := socket.TCP(c).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	err = rc.Control(func(fd uintptr) {
		in, _ := unix.IoctlGetInt(int(fd), unix.SIOCINQ)
		out, _ := unix.IoctlGetInt(int(fd), unix.SIOCOUTQ)
		n = in + out
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// received is what the session has not read of a descriptor of its own.
func received(t testing.TB, fd int) int {
	t.Helper()
	n, err := unix.IoctlGetInt(fd, unix.SIOCINQ)
	if err != nil {
		return 0 // the session has ended
	}
	return n
}

func TestRecordsCutAtEveryByte(t *testing.T) {
	for _, serves := range []bool{false, true} {
		for _, bothTLS := range []bool{false, true} {
			f, c := tapped(t, serves, bothTLS)
			send := func(cut func(size int) []int, messages ...[]byte) {
				t.Helper()
				for _, m := range messages {
					f.far[0].Write(m)
				}
				f.sendCut(c, cut(len(c.held))...)
				want := slices.Concat(messages...)
				got := make([]byte, len(want))
				if _, err := io.ReadFull(f.far[1], got); err != nil || !bytes.Equal(got, want) {
					t.Fatalf("received other bytes than were sent, or %v", err)
				}
			}
			small := [][]byte{[]byte("a"), []byte("few"), []byte("bytes")}
			f.far[0].Write(slices.Concat(small...)) // for the size of it
			records := len(c.held) + 2*22
			f.sendCut(c)
			io.ReadFull(f.far[1], make([]byte, 9))
			for at := range records {
				send(func(int) []int { return []int{at} }, small...)
			}
			send(func(size int) (all []int) {
				for at := range size {
					all = append(all, at)
				}
				return all
			}, small...)
			for _, at := range []int{1, 4, 5, 6, 575, 576, 577, 16_405, 16_406, 16_407, 16_411, 32_811, 32_812, 65_535, 65_536, 65_537} {
				send(func(int) []int { return []int{at, at + 3} }, randomBytes(200_000, byte(at)))
			}
			closeWrite(t, f.far[0])
			f.sendCut(c)
			closeWrite(t, f.far[1])
			if end := f.wait(); end.Err != nil || end.Side != relay.A {
				t.Errorf("end = %+v, want an orderly one by A", end)
			}
		}
	}
}

// The end of a stream is a close_notify, wherever that is cut; a FIN in its
// place, or in the middle of anything, is none.
func TestEndCutAtEveryByte(t *testing.T) {
	const alert = 24
	for at := range alert + 1 {
		f, c := tapped(t, true, false)
		f.far[0].Write([]byte("x"))
		f.sendCut(c)
		closeWrite(t, f.far[0])
		if len(c.held) != alert {
			t.Fatalf("a close_notify of %d bytes, want %d", len(c.held), alert)
		}
		f.send(c, c.held[:at])
		closeWrite(t, c.Conn)
		got, err := io.ReadAll(f.far[1])
		if string(got) != "x" || (err == nil) != (at == alert) || err != nil && !isReset(err) {
			t.Errorf("FIN after %d of %d bytes: received %q, %v", at, alert, got, err)
		}
		f.far[1].Close()
		if end := f.wait(); end.Side != relay.A || (end.Err == nil) != (at == alert) {
			t.Errorf("FIN after %d of %d bytes: end = %+v", at, alert, end)
		}
	}
}

// What crypto/tls has buffered before the session starts is not waited for.
func TestBytesThatCameWithTheHandshake(t *testing.T) {
	cert := certificate(t)
	for _, read := range []int{0, 1, 20_000} {
		f := &fixture{end: make(chan relay.End, 1), t: t}
		near, far := tcpPair(t)
		c := &tap{Conn: far}
		f.near[0], f.far[0] = tlsOver(t, cert, true, socket.NewTransport(near.(*net.TCPConn)), c)
		f.near[1], f.far[1] = tcpPair(t)
		sent := randomBytes(30_000, 4)
		c.holds = true
		f.far[0].Write(sent)
		if _, err := far.Write(c.held); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(f.near[0], make([]byte, read)); err != nil {
			t.Fatal(err)
		}
		withEngine(t, f)
		got := make([]byte, len(sent)-read)
		if _, err := io.ReadFull(f.far[1], got); err != nil || !bytes.Equal(got, sent[read:]) {
			t.Errorf("after %d bytes: %v, or other bytes than were sent", read, err)
		}
	}
}

// crypto/tls keeps nothing of what its largest records needed. If this fails
// with a new version of Go, its fields have changed: see held.
func TestTLSHoldsNoBuffer(t *testing.T) {
	f, c := tapped(t, false, false)
	c.holds = false
	sent := randomBytes(1<<20, 6)
	go f.far[0].Write(sent)
	if _, err := io.ReadFull(f.far[1], make([]byte, len(sent))); err != nil {
		t.Fatal(err)
	}
	f.cut() // an end that crypto/tls reads empties them, too
	f.wait()
	if n, ok := relay.Held(f.near[0].(*tls.Conn)); n > 0 || !ok {
		t.Errorf("it holds %d bytes (known: %v), want 0", n, ok)
	}
}

// What is written as several records goes out whole: nothing of it waits for
// more.
func TestNoRecordWaits(t *testing.T) {
	f, _ := tapped(t, true, false)
	fd := relay.Descriptors(f.session)[relay.A]
	const size = 40_000
	if _, err := f.far[1].Write(make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return f.live.BA.Load() == size })
	if n, err := unix.IoctlGetInt(fd, unix.SIOCOUTQNSD); err != nil || n != 0 {
		t.Errorf("the kernel keeps %d bytes, %v", n, err)
	}
}
