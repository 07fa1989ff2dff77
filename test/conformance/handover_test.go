//go:build linux

package conformance

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"
)

// atHandOver connects clients to targets that act as soon as they have accepted,
// after a growing delay, so that what a target does meets the hand-over of the
// checked link at every moment. Half of the bindings have no checked link.
func atHandOver(t *testing.T, act func(*net.TCPConn), check func(got []byte, err error) error) {
	t.Helper()
	s := start(t, flags{ports: 320, router: []string{"--park", "200ms"}})
	rounds := 300
	if testing.Short() || isSecured(t) {
		rounds = 60
	}
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := w; i < rounds && !t.Failed(); i += 4 {
				tg := serve(t, act)
				a := s.call(t, http.MethodPost, "/v1/bindings", fields{"target": tg.addr, "check": i/4%2 == 0})
				if a.code() == "target_unreachable" {
					continue // it reset the connection while the proxy made it
				}
				if a.status != http.StatusCreated {
					t.Errorf("bind %d = %v, want 201", i, a)
					continue
				}
				b := decode[binding](t, a)
				<-time.After(time.Duration(i) * 10 * time.Microsecond)
				if err := check(readAll(b.Address)); err != nil {
					t.Errorf("client %d: %v", i, err)
				}
			}
		})
	}
	wg.Wait()
}

// readAll connects and reads to the end.
func readAll(addr string) ([]byte, error) {
	c, err := net.DialTimeout("tcp", addr, soon)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(soon))
	return io.ReadAll(c)
}

// cleanEnd returns a check that a client got just this and a clean end.
func cleanEnd(want string) func(got []byte, err error) error {
	return func(got []byte, err error) error {
		if string(got) != want || err != nil {
			return fmt.Errorf("reads %q, %v, want %q and a clean end", got, err, want)
		}
		return nil
	}
}

func TestTargetSpeaksAndHalfClosesAtOnce(t *testing.T) {
	t.Parallel()
	atHandOver(t, func(c *net.TCPConn) {
		fmt.Fprint(c, "bye")
		c.CloseWrite()
		drain(c)
	}, cleanEnd("bye"))
}

func TestTargetSpeaksAndClosesAtOnce(t *testing.T) {
	t.Parallel()
	atHandOver(t, func(c *net.TCPConn) { fmt.Fprint(c, "bye") }, cleanEnd("bye"))
}

func TestTargetHalfClosesAtOnce(t *testing.T) {
	t.Parallel()
	atHandOver(t, func(c *net.TCPConn) {
		c.CloseWrite()
		drain(c)
	}, cleanEnd(""))
}

func TestTargetClosesAtOnce(t *testing.T) {
	t.Parallel()
	atHandOver(t, func(*net.TCPConn) {}, cleanEnd(""))
}

func TestTargetResetsAtOnce(t *testing.T) {
	t.Parallel()
	atHandOver(t, reset, func(got []byte, err error) error {
		if len(got) > 0 || !isReset(err) {
			return fmt.Errorf("reads %q, %v, want a reset", got, err)
		}
		return nil
	})
}
