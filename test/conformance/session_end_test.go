//go:build linux

package conformance

import (
	"errors"
	"net"
	"syscall"
	"testing"
	"time"
)

// ends are the two connections of one session: its client's and its target's.
type ends struct {
	client, target *net.TCPConn
}

// open maps a target of its own and opens a session, through which both ends
// have heard of each other.
func open(t testing.TB, s *stack) ends {
	t.Helper()
	tg := manual(t)
	b := s.bind(t, tg.addr)
	client := connect(t, b.Address)
	e := ends{client, tg.accept(t)}
	err := errors.Join(send(client, 0, 1), receive(e.target, 0, 1), send(e.target, 0, 1), receive(client, 0, 1))
	if err != nil {
		t.Fatalf("first bytes of a session: %v", err)
	}
	return e
}

// awaitEstablished waits until a binding has an open session.
func (s *stack) awaitEstablished(t testing.TB, id string) {
	t.Helper()
	eventually(t, soon, func() error {
		if s.binding(t, id).Sessions == 0 {
			return errors.New("no session is open")
		}
		return nil
	})
}

// sides runs a test both ways round: what one end does, seen by the other.
func sides(t *testing.T, f func(t *testing.T, s *stack, acting, other *net.TCPConn)) {
	t.Parallel()
	s := start(t, flags{ports: 16})
	t.Run("client acts", func(t *testing.T) {
		e := open(t, s)
		f(t, s, e.client, e.target)
	})
	t.Run("target acts", func(t *testing.T) {
		e := open(t, s)
		f(t, s, e.target, e.client)
	})
}

func TestHalfCloseThenLongReply(t *testing.T) {
	sides(t, func(t *testing.T, _ *stack, acting, other *net.TCPConn) {
		if err := errors.Join(send(acting, 1, 100_000), acting.CloseWrite(), receiveAll(other, 1, 100_000)); err != nil {
			t.Fatalf("request and FIN: %v", err)
		}
		// The reply takes longer than anybody's patience for half-closed connections may be.
		deadline := time.Now().Add(2 * time.Second)
		sent := make(chan error, 1)
		const each = 256 << 10
		rounds := 0
		for ; time.Now().Before(deadline) || rounds < 32; rounds++ {
			go func() { sent <- send(other, uint64(rounds), each) }()
			if err := errors.Join(receive(acting, uint64(rounds), each), <-sent); err != nil {
				t.Fatalf("reply, part %d: %v", rounds, err)
			}
			pause()
		}
		other.CloseWrite()
		wantEOF(t, acting, "the end that closed first", 0)
	})
}

func TestResetCrosses(t *testing.T) {
	sides(t, func(t *testing.T, _ *stack, acting, other *net.TCPConn) {
		reset(acting)
		wantReset(t, other, "the other end", 0)
	})
}

// What was received before a reset is delivered before it, to a peer that
// begins to read only after it.
func TestDataBeforeReset(t *testing.T) {
	sides(t, func(t *testing.T, s *stack, acting, other *net.TCPConn) {
		const n = 100_000
		if err := send(acting, 3, n); err != nil {
			t.Fatal(err)
		}
		awaitSent(t, acting)
		reset(acting)
		if err := receive(other, 3, n); err != nil {
			t.Fatalf("data sent before the reset: %v", err)
		}
		wantReset(t, other, "the other end", 0)
	})
}

// The same with more than the kernels on the way hold: the other end reads
// while it arrives.
func TestMuchDataBeforeReset(t *testing.T) {
	sides(t, func(t *testing.T, s *stack, acting, other *net.TCPConn) {
		const n = 16 << 20
		got := make(chan error, 1)
		go func() { got <- receive(slowly{other, 1 << 20}, 4, n) }()
		if err := send(acting, 4, n); err != nil {
			t.Fatal(err)
		}
		awaitSent(t, acting)
		reset(acting)
		if err := <-got; err != nil {
			t.Fatalf("data sent before the reset: %v", err)
		}
		wantReset(t, other, "the other end", 0)
	})
}

// A session of which one direction has ended can still be reset from either end.
func TestResetAfterHalfCloseBySameEnd(t *testing.T) {
	sides(t, func(t *testing.T, _ *stack, acting, other *net.TCPConn) {
		acting.CloseWrite()
		wantEOF(t, other, "the other end", 0)
		reset(acting)
		wantBrokenWrites(t, other)
	})
}

func TestResetAfterHalfCloseByOtherEnd(t *testing.T) {
	sides(t, func(t *testing.T, _ *stack, acting, other *net.TCPConn) {
		other.CloseWrite()
		wantEOF(t, acting, "the acting end", 0)
		reset(acting)
		wantReset(t, other, "the other end", 0)
	})
}

// wantBrokenWrites fails the test unless a connection whose reading direction
// has ended learns of a reset: the kernel tells it on write.
func wantBrokenWrites(t testing.TB, c *net.TCPConn) {
	t.Helper()
	eventually(t, soon, func() error {
		_, err := c.Write([]byte("x"))
		if errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) {
			return nil
		}
		if err != nil {
			t.Fatalf("write: %v, want EPIPE or ECONNRESET", err)
		}
		return errors.New("writes succeed, want EPIPE or ECONNRESET")
	})
}

// One end writes much and closes at once; the other reads slowly.
func TestFlushOnClose(t *testing.T) {
	sides(t, func(t *testing.T, _ *stack, acting, other *net.TCPConn) {
		const n = 20 << 20
		sent := make(chan error, 1)
		go func() { sent <- errors.Join(send(acting, 5, n), acting.Close()) }()
		if err := errors.Join(receiveAll(slowly{other, 128 << 10}, 5, n), <-sent); err != nil {
			t.Fatal(err)
		}
	})
}

func TestKillSession(t *testing.T) {
	t.Parallel()
	s := start(t, flags{})
	e := open(t, s)
	id := s.sessions(t, "")[0].ID
	s.want(t, 204, "", "DELETE", "/v1/sessions/"+id, nil)
	wantReset(t, e.client, "client", 0)
	wantReset(t, e.target, "target", 0)
	s.awaitSessions(t, 0)
	s.want(t, 404, "not_found", "DELETE", "/v1/sessions/"+id, nil)
	awaitMetric(t, s.api, outcome("killed"), "1")
}

// A session that is killed while data waits for a reader is gone at once.
func TestKillBlockedSession(t *testing.T) {
	t.Parallel()
	s := start(t, flags{})
	e := open(t, s)
	written := make(chan error, 1)
	go func() { written <- send(e.target, 6, 1<<30) }()
	eventually(t, soon, func() error {
		if len(e.client.RemoteAddr().String()) > 0 && s.sessions(t, "")[0].BytesDown > 0 {
			return nil
		}
		return errors.New("nothing flows")
	})
	s.want(t, 204, "", "DELETE", "/v1/sessions/"+s.sessions(t, "")[0].ID, nil)
	select {
	case err := <-written:
		if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
			t.Errorf("target writes: %v, want a reset", err)
		}
	case <-time.After(soon):
		t.Errorf("target still writes %v after the kill", soon)
	}
	wantReset(t, e.client, "client", -1)
	s.awaitSessions(t, 0)
}

func TestOutcomes(t *testing.T) {
	t.Parallel()
	tests := []struct {
		outcome string
		end     func(e ends)
	}{
		{"client_closed", func(e ends) { e.client.CloseWrite(); drain(e.target); e.target.Close(); drain(e.client) }},
		{"target_closed", func(e ends) { e.target.CloseWrite(); drain(e.client); e.client.Close(); drain(e.target) }},
		{"client_reset", func(e ends) { reset(e.client) }},
		{"target_reset", func(e ends) { reset(e.target) }},
	}
	s := start(t, flags{ports: 16})
	for _, tt := range tests {
		tt.end(open(t, s))
		awaitMetric(t, s.api, outcome(tt.outcome), "1")
	}
	s.awaitSessions(t, 0)
}

// drain reads to the end.
func drain(c *net.TCPConn) {
	for b := make([]byte, 4096); ; {
		if _, err := c.Read(b); err != nil {
			return
		}
	}
}
