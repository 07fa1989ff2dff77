//go:build linux

package conformance

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// target is a server that clients reach through oh-router.
type target struct {
	addr    string
	accepts atomic.Int64
	ln      *net.TCPListener
	conns   chan *net.TCPConn // accepted ones, when nobody handles them
}

// serve runs a target that handles each connection in a goroutine and closes it
// after that; all have ended at the test's end.
func serve(t testing.TB, handle func(*net.TCPConn)) *target {
	t.Helper()
	return listen(t, "127.0.0.1:0", func(c *net.TCPConn) {
		defer c.Close()
		handle(c)
	})
}

// manual runs a target whose connections the test takes with accept.
func manual(t testing.TB) *target {
	t.Helper()
	conns := make(chan *net.TCPConn, 4096)
	tg := listen(t, "127.0.0.1:0", func(c *net.TCPConn) { conns <- c })
	tg.conns = conns
	return tg
}

func listen(t testing.TB, addr string, handle func(*net.TCPConn)) *target {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	tg := &target{addr: l.Addr().String(), ln: l.(*net.TCPListener)}
	var (
		mu    sync.Mutex // guards conns
		conns []*net.TCPConn
		wg    sync.WaitGroup
	)
	wg.Go(func() {
		for {
			c, err := tg.ln.AcceptTCP()
			if err != nil {
				return
			}
			_ = c.SetDeadline(time.Now().Add(2 * time.Minute))
			tg.accepts.Add(1)
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
			wg.Go(func() { handle(c) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for _, c := range conns {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return tg
}

// accept returns the next connection.
func (tg *target) accept(t testing.TB) *net.TCPConn {
	t.Helper()
	select {
	case c := <-tg.conns:
		return c
	case <-time.After(soon):
		t.Fatalf("no connection at target %s within %v", tg.addr, soon)
		return nil
	}
}

// echo sends back what it gets until the client ends.
func echo(c *net.TCPConn) {
	_, _ = io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c})
}

// connect opens a connection that is closed at the test's end at the latest.
func connect(t testing.TB, addr string) *net.TCPConn {
	t.Helper()
	return connectFrom(t, "", addr)
}

// dial connects to addr from another address of this machine, or from any if it
// is "".
func dial(from, addr string) (*net.TCPConn, error) {
	d := net.Dialer{Timeout: soon}
	if from != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
	}
	c, err := d.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), c.SetDeadline(time.Now().Add(time.Minute))
}

// connectFrom is connect with another address of this machine.
func connectFrom(t testing.TB, from, addr string) *net.TCPConn {
	t.Helper()
	c, err := dial(from, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// wantRefused fails the test unless nobody listens at addr.
func wantRefused(t testing.TB, addr string) {
	t.Helper()
	if err := refused(addr); err != nil {
		t.Fatal(err)
	}
}

func refused(addr string) error {
	c, err := net.DialTimeout("tcp", addr, soon)
	if err == nil {
		c.Close()
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("connect to %s: %v, want %v", addr, err, syscall.ECONNREFUSED)
	}
	return nil
}

// reset closes a connection with RST.
func reset(c *net.TCPConn) {
	_ = c.SetLinger(0)
	c.Close()
}

// wantReset reads to the end, which must be a reset after n bytes (any number
// if n is negative).
func wantReset(t testing.TB, c net.Conn, who string, n int64) {
	t.Helper()
	got, err := io.Copy(io.Discard, struct{ io.Reader }{c})
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("%s reads %d bytes, then %v, want %v", who, got, err, syscall.ECONNRESET)
	}
	if n >= 0 && got != n {
		t.Fatalf("%s reads %d bytes before the reset, want %d", who, got, n)
	}
}

// wantResetAt fails the test unless a client of addr is reset before it gets
// anything, as early as while it connects.
func wantResetAt(t testing.TB, addr string) {
	t.Helper()
	c, err := dial("", addr)
	if errors.Is(err, syscall.ECONNRESET) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	wantReset(t, c, "client", 0)
}

// wantEOF reads to the end, which must be a clean one after n bytes.
func wantEOF(t testing.TB, c net.Conn, who string, n int64) {
	t.Helper()
	if got, err := io.Copy(io.Discard, struct{ io.Reader }{c}); err != nil || got != n {
		t.Fatalf("%s reads %d bytes, then %v, want %d and a clean end", who, got, err, n)
	}
}

// exchange sends a line to an echoing target and reads it back.
func exchange(c net.Conn) error {
	line := []byte("is anybody there?\n")
	if _, err := c.Write(line); err != nil {
		return err
	}
	got := make([]byte, len(line))
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if !bytes.Equal(got, line) {
		return fmt.Errorf("echo = %q, want %q", got, line)
	}
	return nil
}

// wantEcho fails the test unless the other end echoes.
func wantEcho(t testing.TB, c net.Conn) {
	t.Helper()
	if err := exchange(c); err != nil {
		t.Fatalf("exchange with the target: %v", err)
	}
}

// noise returns the endless bytes of a seed.
func noise(seed uint64) io.Reader {
	var key [32]byte
	for i := range 8 {
		key[i] = byte(seed >> (8 * i))
	}
	return rand.NewChaCha8(key)
}

// send writes n bytes of a seed.
func send(w io.Writer, seed uint64, n int64) error {
	_, err := io.CopyN(struct{ io.Writer }{w}, noise(seed), n)
	return err
}

// receive reads n bytes, which must be those of the seed.
func receive(r io.Reader, seed uint64, n int64) error {
	want := noise(seed)
	a, b := make([]byte, 64<<10), make([]byte, 64<<10)
	for done := int64(0); done < n; {
		chunk := min(n-done, int64(len(a)))
		got, err := io.ReadFull(r, a[:chunk])
		_, _ = want.Read(b[:got])
		if !bytes.Equal(a[:got], b[:got]) {
			return fmt.Errorf("bytes %d to %d are not those sent", done, done+int64(got))
		}
		done += int64(got)
		if err != nil {
			return fmt.Errorf("after %d of %d bytes: %w", done, n, err)
		}
	}
	return nil
}

// receiveAll is receive and then a clean end.
func receiveAll(r io.Reader, seed uint64, n int64) error {
	if err := receive(r, seed, n); err != nil {
		return err
	}
	if k, err := r.Read(make([]byte, 1)); k != 0 || err != io.EOF {
		return fmt.Errorf("after %d bytes: read %d more and %v, want %v", n, k, err, io.EOF)
	}
	return nil
}

// awaitSent waits until the peer's kernel has taken what was written.
func awaitSent(t testing.TB, c *net.TCPConn) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, soon, func() error {
		var left int
		var ioctl error
		err := raw.Control(func(fd uintptr) { left, ioctl = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) })
		if err := errors.Join(err, ioctl); err != nil || left > 0 {
			return fmt.Errorf("%d bytes are not acknowledged: %v", left, err)
		}
		return nil
	})
}

// slowly is a reader that takes its time.
type slowly struct {
	r    io.Reader
	each int // bytes before a pause
}

func (s slowly) Read(b []byte) (int, error) {
	pause()
	return s.r.Read(b[:min(len(b), s.each)])
}
