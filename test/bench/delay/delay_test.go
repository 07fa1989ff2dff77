//go:build linux

package delay

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"
)

const roundTrip = 20 * time.Millisecond

// path starts a delayed path to a listener of the test. It returns the near
// end, that listener, and when it began to connect.
func path(t *testing.T) (*net.TCPConn, net.Listener, time.Time) {
	t.Helper()
	far, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- Serve(ctx, ln, far.Addr().(*net.TCPAddr).AddrPort(), roundTrip) }()
	t.Cleanup(func() {
		far.Close()
		cancel()
		if err := <-served; err != nil {
			t.Errorf("Serve = %v", err)
		}
	})
	start := time.Now()
	c, err := net.Dial("tcp4", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*net.TCPConn), far, start
}

// took checks that something ended after so many round trips.
func took(t *testing.T, what string, start time.Time, roundTrips float64) {
	t.Helper()
	// No upper limit: other programs may keep the machine busy.
	if want := time.Duration(roundTrips * float64(roundTrip)); time.Since(start) < want {
		t.Errorf("%s took %v, want at least %v", what, time.Since(start), want)
	}
}

func TestRoundTrips(t *testing.T) {
	near, ln, start := path(t)
	if _, err := near.Write([]byte("a")); err != nil {
		t.Fatal(err)
	}
	far, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	took(t, "connecting, seen from the far side", start, 0.5)
	buf := make([]byte, 1)
	if _, err := io.ReadFull(far, buf); err != nil {
		t.Fatal(err)
	}
	took(t, "the first byte after connecting", start, 1.5)
	if _, err := far.Write([]byte("b")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(near, buf); err != nil {
		t.Fatal(err)
	}
	took(t, "its answer", start, 2)
}

func TestHalfCloseAndOrder(t *testing.T) {
	near, ln, start := path(t)
	sent := make([]byte, 3*window)
	for i := range sent {
		sent[i] = byte(i / 1000)
	}
	wrote := make(chan error, 1)
	go func() {
		_, err := near.Write(sent)
		wrote <- errors.Join(err, near.CloseWrite())
	}()
	far, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	got, err := io.ReadAll(far)
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%d bytes arrived, %v, want the %d sent", len(got), err, len(sent))
	}
	took(t, "three windows", start, 3)
	if err := <-wrote; err != nil {
		t.Error(err)
	}
	if _, err := far.Write([]byte("reply")); err != nil {
		t.Fatal(err)
	}
	far.Close()
	if got, err := io.ReadAll(near); string(got) != "reply" || err != nil {
		t.Errorf("reply = %q, %v", got, err)
	}
}

func TestReset(t *testing.T) {
	near, ln, _ := path(t)
	far, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	far.(*net.TCPConn).SetLinger(0)
	far.Close()
	if _, err := near.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read = %v, want a reset", err)
	}
}

// Who ends its stream, and then goes while the other still talks, resets it.
func TestResetAfterEnd(t *testing.T) {
	near, ln, _ := path(t)
	far, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	near.CloseWrite()
	if n, err := far.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Fatalf("read = %d, %v, want the end", n, err)
	}
	near.SetLinger(0)
	near.Close()
	far.SetDeadline(time.Now().Add(time.Minute))
	for err = nil; err == nil; {
		_, err = far.Write(make([]byte, chunk))
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("a minute later it still takes bytes")
	}
}

func TestRefused(t *testing.T) {
	near, ln, _ := path(t)
	ln.Close()
	// It may have been accepted by the listener's kernel in time: then its
	// closing resets it.
	if _, err := near.Read(make([]byte, 1)); err == nil {
		t.Error("read succeeds, want an error")
	}
}

func TestUntil(t *testing.T) {
	for _, d := range []time.Duration{-time.Second, 0, 300 * time.Microsecond, 3 * time.Millisecond} {
		start := time.Now()
		until(start.Add(d))
		if time.Since(start) < d {
			t.Errorf("until(%v) took only %v", d, time.Since(start))
		}
	}
}
