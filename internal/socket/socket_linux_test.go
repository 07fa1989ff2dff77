package socket_test

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ohrouter/oh-router/internal/socket"
)

func TestOrderly(t *testing.T) {
	accepted, dialled := pair(t)
	for name, c := range map[string]*net.TCPConn{"accepted": accepted, "dialled": dialled} {
		socket.Orderly(c)
		if got, err := unix.GetsockoptInt(descriptor(t, c), unix.SOL_SOCKET, unix.SO_LINGER); got != 0 || err != nil {
			t.Errorf("%s connection: SO_LINGER after Orderly = %d, %v, want 0", name, got, err)
		}
	}
}

func TestStat(t *testing.T) {
	c, peer := pair(t)
	want := func(when string, is socket.Info) {
		t.Helper()
		if info, ok := socket.Stat(c); !ok || info != is {
			t.Errorf("%s: Stat = %+v, %v, want %+v", when, info, ok, is)
		}
	}
	want("connected", socket.Info{Established: true})
	fill(t, c)
	if info, ok := socket.Stat(c); !ok || info.Unsent == 0 || !info.Established {
		t.Errorf("peer that does not read: Stat = %+v, %v, want bytes that are not sent", info, ok)
	}
	socket.Abort(peer)
	wait(t, c, func(i socket.Info) bool { return i.Closed })
	want("reset", socket.Info{Closed: true})
	if err := socket.TakeError(c); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		t.Errorf("TakeError after a reset = %v, want ECONNRESET", err)
	}
	if err := socket.TakeError(c); err != nil {
		t.Errorf("TakeError once more = %v, want nil", err)
	}

	c, peer = pair(t)
	peer.CloseWrite()
	wait(t, c, func(i socket.Info) bool { return !i.Established })
	want("half-closed", socket.Info{})

	c.Close()
	if info, ok := socket.Stat(c); ok {
		t.Errorf("closed: Stat = %+v, true, want false", info)
	}
}

// wait waits until the kernel says so of c.
func wait(t testing.TB, c *net.TCPConn, is func(socket.Info) bool) {
	t.Helper()
	err := socket.WaitUntil(c, func() bool {
		info, ok := socket.Stat(c)
		return ok && is(info)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// fill writes until nobody takes more.
func fill(t testing.TB, c *net.TCPConn) {
	t.Helper()
	rc, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1<<20)
	err = rc.Write(func(fd uintptr) bool {
		for err == nil {
			_, err = unix.Write(int(fd), b)
		}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestWaitUntil(t *testing.T) {
	c, peer := pair(t)
	asked := make(chan struct{}, 64)
	done := make(chan error)
	go func() {
		done <- socket.WaitUntil(c, func() bool {
			asked <- struct{}{}
			info, ok := socket.Stat(c)
			return ok && !info.Established
		})
	}()
	<-asked
	io.WriteString(peer, "data that nobody reads")
	<-asked // for the data, and again for the end behind it
	peer.CloseWrite()
	if err := <-done; err != nil {
		t.Errorf("WaitUntil = %v, want nil", err)
	}
}

func TestWaitUntilEndsEarly(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func(*net.TCPConn)
		want error
	}{
		{"deadline", func(c *net.TCPConn) { c.SetReadDeadline(time.Unix(1, 0)) }, os.ErrDeadlineExceeded},
		{"closed", func(c *net.TCPConn) { c.Close() }, net.ErrClosed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, _ := pair(t)
			asked, done := make(chan struct{}, 64), make(chan error)
			go func() {
				done <- socket.WaitUntil(c, func() bool { asked <- struct{}{}; return false })
			}()
			<-asked
			tt.end(c)
			if err := <-done; !errors.Is(err, tt.want) {
				t.Errorf("WaitUntil = %v, want %v", err, tt.want)
			}
		})
	}
	c, _ := pair(t)
	c.Close()
	if err := socket.WaitUntil(c, func() bool { return true }); err == nil {
		t.Error("WaitUntil on a closed connection = nil, want an error")
	}
}

func TestPending(t *testing.T) {
	for name, end := range map[string]func(net.Conn){
		"data":  func(peer net.Conn) { io.WriteString(peer, "x") },
		"end":   func(peer net.Conn) { socket.Orderly(peer); peer.Close() },
		"reset": socket.Abort,
	} {
		t.Run(name, func(t *testing.T) {
			c, peer := pair(t)
			if socket.Pending(c) {
				t.Error("Pending = true, and nothing has come")
			}
			end(peer)
			if err := socket.WaitUntil(c, func() bool { return socket.Pending(c) }); err != nil {
				t.Errorf("Pending stays false: %v", err)
			}
			if name == "data" {
				if n, err := c.Read(make([]byte, 2)); n != 1 || err != nil {
					t.Errorf("Read after Pending = %d, %v, want the byte", n, err)
				}
			}
		})
	}
	c, _ := pair(t)
	c.Close()
	if !socket.Pending(c) {
		t.Error("Pending of a closed connection = false")
	}
}
