package relay_test

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ohrouter/oh-router/internal/relay"
)

// The socket that a stream in bulk goes to is told how much may wait in it; the
// other one is not.
func TestBoundOfWhatWaitsToBeSent(t *testing.T) {
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
	f.cut()
	f.wait()
	<-stopped
}
