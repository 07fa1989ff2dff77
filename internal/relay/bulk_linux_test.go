package relay_test

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ohrouter/oh-router/internal/relay"
	"github.com/ohrouter/oh-router/internal/sysctl"
)

// The socket that a stream in bulk goes to is told how much may wait in it to be
// sent, and the one that it comes from how much to be read.
func TestBoundsOfWhatWaits(t *testing.T) {
	f := start(t, carrier{name: "engine", start: withEngine}, tcp, tcp, false)
	stopped := make(chan struct{})
	go func() { // nobody reads; until the session is cut
		defer close(stopped)
		for b := make([]byte, 1<<20); ; {
			if _, err := f.far[0].Write(b); err != nil {
				return
			}
		}
	}()
	wantInt(t, f.session, relay.B, unix.TCP_NOTSENT_LOWAT, 512<<10)
	wantInt(t, f.session, relay.A, unix.TCP_NOTSENT_LOWAT, 0) // the system's
	unread := func(side relay.Side) int {
		n, err := unix.GetsockoptInt(relay.Descriptors(f.session)[side], unix.SOL_SOCKET, unix.SO_RCVBUF)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	const bound = 2 * 2 << 20 // the kernel counts what it needs itself, socket(7)
	if from := unread(relay.A); from != bound && allowed(t, "net.core.rmem_max") >= bound/2 && allowed(t, "net.ipv4.tcp_rmem") > bound {
		info, err := unix.GetsockoptTCPInfo(relay.Descriptors(f.session)[relay.A], unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil || info.Min_rtt <= 250 { // else this machine is too busy for a near peer
			t.Errorf("SO_RCVBUF where the stream comes from is %d, want %d: %v", from, bound, err)
		}
	}
	if n := unread(relay.B); n == bound {
		t.Errorf("SO_RCVBUF where the stream goes to is %d as well", n)
	}
	f.cut()
	f.wait()
	<-stopped
}

// allowed returns the last number of a setting of the system's, 0 if it has none.
func allowed(t testing.TB, name string) int {
	t.Helper()
	numbers := sysctl.Numbers(name)
	if len(numbers) == 0 {
		t.Log("this system does not tell of", name)
		return 0
	}
	return numbers[len(numbers)-1]
}
