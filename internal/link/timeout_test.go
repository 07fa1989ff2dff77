package link

import (
	"net"
	"testing"
	"testing/synctest"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
)

func TestHandshakeTimeout(t *testing.T) {
	for set, want := range map[time.Duration]time.Duration{0: Timeout, 1 * time.Second: time.Second, time.Minute: time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			silent, conn := net.Pipe()
			defer silent.Close()
			a := &Acceptor{States: newStates().States, HandshakeTimeout: set}
			begin := time.Now()
			_, err := a.Accept(t.Context(), conn)
			if took := time.Since(begin); ohrouter.CodeOf(err) != ohrouter.InvalidRequest || took != want {
				t.Errorf("with %v Accept = %v after %v, want a failure after %v", set, err, took, want)
			}
		})
	}
}
