package socket_test

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/ohrouter/oh-router/internal/socket"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// deadline is when a test that hangs gives up; no test waits for it.
const deadline = 30 * time.Second

// pair returns both ends of a connection of the data path.
func pair(t testing.TB) (accepted, dialled *net.TCPConn) {
	t.Helper()
	return pairOf(t, socket.Options{})
}

// pairOf is pair with options.
func pairOf(t testing.TB, o socket.Options) (accepted, dialled *net.TCPConn) {
	t.Helper()
	ln := listen(t, o)
	defer ln.Close()
	var err error
	if dialled, err = o.Dial(t.Context(), ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if accepted, err = socket.Accept(ln); err != nil {
		t.Fatal(err)
	}
	for _, c := range []*net.TCPConn{accepted, dialled} {
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(deadline))
	}
	return accepted, dialled
}

func listen(t testing.TB, o socket.Options) *net.TCPListener {
	t.Helper()
	ln, err := o.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

func TestHowAConnectionEnds(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func(net.Conn)
		want error // what the peer reads
	}{
		{"Close", func(c net.Conn) { c.Close() }, syscall.ECONNRESET},
		{"Abort", socket.Abort, syscall.ECONNRESET},
		{"Abort under TLS", func(c net.Conn) { socket.Abort(tls.Client(c, &tls.Config{ServerName: "x"})) }, syscall.ECONNRESET},
		{"Orderly", func(c net.Conn) { socket.Orderly(c); c.Close() }, io.EOF},
		{"Orderly under TLS", func(c net.Conn) { socket.Orderly(tls.Client(c, &tls.Config{ServerName: "x"})); c.Close() }, io.EOF},
		{"Abort after Orderly", func(c net.Conn) { socket.Orderly(c); socket.Abort(c) }, syscall.ECONNRESET},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, turned := range []bool{false, true} {
				c, peer := pair(t)
				if turned {
					c, peer = peer, c
				}
				tt.end(c)
				if _, err := peer.Read(make([]byte, 1)); !errors.Is(err, tt.want) {
					t.Errorf("the peer reads %v, want %v (accepted %v)", err, tt.want, !turned)
				}
			}
		})
	}
}

func TestOrderlyDeliversWhatTheKernelHolds(t *testing.T) {
	c, peer := pair(t)
	const size = 1 << 20
	written := make(chan int)
	go func() {
		n, _ := c.Write(make([]byte, size))
		socket.Orderly(c)
		c.Close()
		written <- n
	}()
	n, err := io.Copy(io.Discard, peer)
	if w := <-written; err != nil || n != int64(w) || w != size {
		t.Errorf("the peer reads %d bytes and %v, want %d of %d and an end", n, err, w, size)
	}
}

func TestTCP(t *testing.T) {
	c, _ := pair(t)
	if got := socket.TCP(tls.Client(c, &tls.Config{ServerName: "x"})); got != c {
		t.Errorf("TCP of TLS = %v, want the connection under it", got)
	}
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if got := socket.TCP(a); got != nil {
		t.Errorf("TCP of a pipe = %v, want nil", got)
	}
	socket.Orderly(a) // is no harm
	socket.Abort(a)
	if _, err := b.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the pipe's peer reads %v, want %v", err, io.EOF)
	}
}

func TestTakenPort(t *testing.T) {
	var o socket.Options
	ln := listen(t, o)
	if _, err := o.Listen(t.Context(), ln.Addr().String()); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("Listen on a taken port = %v, want EADDRINUSE", err)
	}
	ln.Close()
	if _, err := socket.Accept(ln); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept of a closed listener = %v, want %v", err, net.ErrClosed)
	}
	if _, err := o.Dial(t.Context(), ln.Addr().String()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("Dial to a closed port = %v, want ECONNREFUSED", err)
	}
}

func TestLimit(t *testing.T) {
	if n := socket.Limit(); n < 16 {
		t.Errorf("Limit = %d, want what a process can have", n)
	}
}
