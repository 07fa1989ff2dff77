package link

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
)

// pipe returns both ends of a connection in memory, on which time can be
// simulated. It holds no bytes: a write waits for its reader.
func pipe(t *testing.T) (a, b net.Conn) {
	a, b = net.Pipe()
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// write sends b in the background.
func write(c net.Conn, b []byte) { go c.Write(b) }

func connectFrame(t testing.TB, park bool) []byte {
	t.Helper()
	return encode(t, typeConnect, connectCommand{Session: "s-1", Host: "db.internal", Port: 3306, Park: park})
}

func TestAcceptDeadline(t *testing.T) {
	tests := []struct {
		name string
		peer func(t *testing.T, c net.Conn)
	}{
		{"silent", func(*testing.T, net.Conn) {}},
		{"half a header", func(_ *testing.T, c net.Conn) { write(c, []byte{Version, 1}) }},
		{"a byte a second", func(t *testing.T, c net.Conn) {
			frame := connectFrame(t, true)
			var wg sync.WaitGroup
			t.Cleanup(wg.Wait)
			wg.Go(func() {
				for i := range frame {
					if _, err := c.Write(frame[i : i+1]); err != nil {
						return
					}
					time.Sleep(time.Second) // simulated
				}
			})
		}},
		{"no AckCommand", func(t *testing.T, c net.Conn) { write(c, connectFrame(t, false)) }},
		{"half an AckCommand", func(t *testing.T, c net.Conn) { write(c, append(connectFrame(t, false), Version)) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				states := newStates()
				a := Acceptor{States: states.States}
				conn, peer := pipe(t)
				tt.peer(t, peer)
				start := time.Now()
				_, err := a.Accept(t.Context(), conn)
				if took := time.Since(start); took != Timeout {
					t.Errorf("Accept took %v, want %v", took, Timeout)
				}
				if ohrouter.CodeOf(err) != ohrouter.InvalidRequest || !strings.Contains(err.Error(), "in 5s") {
					t.Errorf("Accept = %v, want %s and the time", err, ohrouter.InvalidRequest)
				}
				if _, err := peer.Read(make([]byte, 1)); err != io.EOF {
					t.Errorf("peer reads %v, want %v", err, io.EOF)
				}
				states.want(t, 0, 0, 0)
			})
		})
	}
}

// parkedRequest returns a request for a parked link and the router's end.
func parkedRequest(t *testing.T, a *Acceptor) (*Request, net.Conn) {
	t.Helper()
	conn, peer := pipe(t)
	write(peer, connectFrame(t, true))
	req, err := a.Accept(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	return req, peer
}

func TestAckTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		states := newStates()
		a := Acceptor{States: states.States}
		req, peer := parkedRequest(t, &a)
		go io.Copy(io.Discard, peer)
		start := time.Now()
		_, err := req.Accept(t.Context(), resolved)
		if took := time.Since(start); took != ackTimeout || !isTimeout(err) {
			t.Errorf("Accept = %v after %v, want a timeout after %v", err, took, ackTimeout)
		}
		states.want(t, 0, 0, 0)
		if len(a.parked) > 0 {
			t.Errorf("%v still counts as parked", a.parked)
		}
	})
}

func TestAckLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		states := newStates()
		req, peer := parkedRequest(t, &Acceptor{States: states.States})
		go func() {
			_ = frames.read(peer, typeResponse, new(connectResponse))
			time.Sleep(ackTimeout - time.Millisecond) // simulated
			states.want(t, 0, 1, 0)
			peer.Write(encode(t, typeAck, ackCommand{}))
			time.Sleep(24 * time.Hour)
			peer.Write([]byte("late"))
		}()
		ctx, cancel := context.WithCancel(t.Context())
		conn, err := req.Accept(ctx, resolved)
		if err != nil {
			t.Fatal(err)
		}
		defer req.Close()
		states.want(t, 0, 0, 1)
		cancel() // it bounds the handshake, not the session
		b := make([]byte, 4)
		if _, err := io.ReadFull(conn, b); err != nil || string(b) != "late" {
			t.Errorf("a day later: %q, %v; want the payload", b, err)
		}
	})
}

func TestAnswerNotRead(t *testing.T) {
	for _, refuse := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			states := newStates()
			req, _ := parkedRequest(t, &Acceptor{States: states.States})
			start := time.Now()
			var err error
			if refuse {
				err = req.Reject(ohrouter.TargetRefused, "")
			} else {
				_, err = req.Accept(t.Context(), resolved)
			}
			if took := time.Since(start); took != Timeout || !isTimeout(err) {
				t.Errorf("refuse %v: %v after %v, want a timeout after %v", refuse, err, took, Timeout)
			}
			states.want(t, 0, 0, 0)
		})
	}
}

func TestAcceptContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		states := newStates()
		a := Acceptor{States: states.States}
		start := time.Now()
		conn, _ := pipe(t)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if _, err := a.Accept(ctx, conn); err != context.Canceled {
			t.Errorf("Acceptor.Accept = %v, want %v", err, context.Canceled)
		}
		req, peer := parkedRequest(t, &a)
		go io.Copy(io.Discard, peer)
		ctx, cancel = context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if _, err := req.Accept(ctx, resolved); err != context.Canceled {
			t.Errorf("Request.Accept = %v, want %v", err, context.Canceled)
		}
		req, peer = parkedRequest(t, &a)
		go io.Copy(io.Discard, peer)
		if _, err := req.Accept(ctx, resolved); err != context.Canceled {
			t.Errorf("Request.Accept after the end = %v, want %v", err, context.Canceled)
		}
		if took := time.Since(start); took != 2*time.Second {
			t.Errorf("took %v, want 2s", took)
		}
		states.want(t, 0, 0, 0)
	})
}

// endsWhile ends a context while something is written.
type endsWhile struct {
	net.Conn
	cancel context.CancelFunc
}

func (c endsWhile) Write(b []byte) (int, error) {
	c.cancel()
	synctest.Wait() // what waits for the end has done what it does
	return len(b), nil
}

func TestContextEndsBetweenSteps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		states := newStates()
		start := time.Now()
		for _, park := range []bool{true, false} {
			conn, peer := pipe(t)
			write(peer, append(connectFrame(t, park), encode(t, typeAck, ackCommand{})...))
			ctx, cancel := context.WithCancel(t.Context())
			req, err := (&Acceptor{States: states.States}).Accept(t.Context(), endsWhile{conn, cancel})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := req.Accept(ctx, resolved); err != context.Canceled {
				t.Errorf("park %v: Accept = %v, want %v", park, err, context.Canceled)
			}
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("took %v, want nothing", took)
		}
		states.want(t, 0, 0, 0)
	})
}

func TestSilentProxy(t *testing.T) {
	tests := []struct {
		name string
		says uint32 // ms
		want time.Duration
	}{
		{"before it said how long it takes", 0, firstPatience + Timeout},
		{"that takes 2 s", 2000, 2*time.Second + Timeout},
		{"that says it takes days", 1 << 31, time.Minute + Timeout},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				states := newStates()
				conn, peer := pipe(t)
				go io.Copy(io.Discard, peer)
				l := newLink(conn, states.States)
				l.proxy.learn(tt.says)
				start := time.Now()
				answered, err := ask(t, t.Context(), l, Want{Target: database})
				if took := time.Since(start); took != tt.want || answered {
					t.Errorf("handshake = %v, %v after %v, want no answer after %v", answered, err, took, tt.want)
				}
				l.Close()
				err = l.proxy.failed(t.Context(), err)
				if want := "proxy dc1 at 127.0.0.1:9000 does not answer in time; check its address, and what lies between it and the router"; ohrouter.Message(err) != want || ohrouter.CodeOf(err) != ohrouter.ProxyUnreachable {
					t.Errorf("it says %s: %q, want %q", ohrouter.CodeOf(err), ohrouter.Message(err), want)
				}
				states.want(t, 0, 0, 0)
			})
		})
	}
}

func TestHandshakeContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		states := newStates()
		conn, peer := pipe(t)
		go io.Copy(io.Discard, peer)
		l := newLink(conn, states.States)
		l.proxy.answered(ohrouter.ProxyUp)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		start := time.Now()
		_, err := ask(t, ctx, l, Want{Target: database})
		if took := time.Since(start); took != time.Second || err == nil {
			t.Errorf("handshake = %v after %v, want an error after 1s", err, took)
		}
		l.Close()
		if err := l.proxy.failed(ctx, err); !errors.Is(err, context.Canceled) {
			t.Errorf("Dial says %v, want %v", err, context.Canceled)
		}
		if s := l.proxy.snapshot(); s.State != ohrouter.ProxyUp || s.LastError != nil {
			t.Errorf("proxy is %s, %v after a caller went away; want it up", s.State, s.LastError)
		}
		states.want(t, 0, 0, 0)
	})
}
