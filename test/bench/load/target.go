//go:build linux

package load

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// The first byte that a client sends says what the target does.
const (
	modeEcho   = 'E' // sends everything back, this byte too
	modeSink   = 'U' // reads and counts
	modeSource = 'D' // writes without end
)

// Target serves what the generator sends through a chain. One listener waits
// for the client's first byte, the other greets it with one byte first.
type Target struct {
	echo, greet net.Listener
	start       time.Time
	sunk        atomic.Uint64
	open        atomic.Int64

	mu     sync.Mutex // guards conns and closed
	conns  map[net.Conn]struct{}
	closed bool
	wg     sync.WaitGroup
}

// Stats is what a target has seen.
type Stats struct {
	At   time.Duration `json:"at"`   // since the target's start, when Sunk was read
	Sunk uint64        `json:"sunk"` // bytes that streams up have brought
	Open int64         `json:"open"` // connections
}

// Listen starts a target on free ports of loopback.
func Listen() (*Target, error) {
	t := &Target{start: time.Now(), conns: map[net.Conn]struct{}{}}
	var err error
	if t.echo, err = net.Listen("tcp4", "127.0.0.1:0"); err != nil {
		return nil, err
	}
	if t.greet, err = net.Listen("tcp4", "127.0.0.1:0"); err != nil {
		t.echo.Close()
		return nil, err
	}
	t.wg.Go(func() { t.accept(t.echo, nil) })
	t.wg.Go(func() { t.accept(t.greet, []byte{'G'}) })
	return t, nil
}

// Addrs returns where the target waits for the client, and where it greets it.
func (t *Target) Addrs() (echo, greet netip.AddrPort) {
	return t.echo.Addr().(*net.TCPAddr).AddrPort(), t.greet.Addr().(*net.TCPAddr).AddrPort()
}

// Stats returns what the target has seen so far.
func (t *Target) Stats() Stats {
	return Stats{At: time.Since(t.start), Sunk: t.sunk.Load(), Open: t.open.Load()}
}

// Close ends all connections and waits for them.
func (t *Target) Close() {
	t.echo.Close()
	t.greet.Close()
	t.mu.Lock()
	t.closed = true
	for c := range t.conns {
		c.Close()
	}
	t.mu.Unlock()
	t.wg.Wait()
}

func (t *Target) accept(ln net.Listener, greeting []byte) {
	for {
		c, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			// Out of descriptors: the chain's sessions fail, which is counted.
			time.Sleep(time.Millisecond)
			continue
		}
		t.mu.Lock()
		if t.closed {
			t.mu.Unlock()
			c.Close()
			return
		}
		t.conns[c] = struct{}{}
		t.open.Add(1)
		t.wg.Go(func() { t.serve(c, greeting) })
		t.mu.Unlock()
	}
}

func (t *Target) serve(c net.Conn, greeting []byte) {
	defer func() {
		c.Close()
		t.mu.Lock()
		delete(t.conns, c)
		t.mu.Unlock()
		t.open.Add(-1)
	}()
	if len(greeting) > 0 {
		if _, err := c.Write(greeting); err != nil {
			return
		}
	}
	buf := make([]byte, 4<<10)
	n, err := c.Read(buf)
	if err != nil || n == 0 {
		return
	}
	switch buf[0] {
	case modeSink:
		t.sink(c)
	case modeSource:
		source(c)
	case modeEcho:
		for ; err == nil; n, err = c.Read(buf) {
			if _, err := c.Write(buf[:n]); err != nil {
				return
			}
		}
	}
}

func (t *Target) sink(c net.Conn) {
	buf := make([]byte, chunk)
	for {
		n, err := c.Read(buf)
		t.sunk.Add(uint64(n))
		if err != nil {
			return
		}
	}
}

func source(c net.Conn) {
	buf := make([]byte, chunk)
	for {
		if _, err := c.Write(buf); err != nil {
			return
		}
	}
}

// addresses is the first line that a target process prints.
type addresses struct {
	Echo  netip.AddrPort `json:"echo"`
	Greet netip.AddrPort `json:"greet"`
}

// ServeTarget is the target's process: it prints its addresses, answers each
// line of in with its Stats, and ends with in or ctx.
func ServeTarget(ctx context.Context, in io.Reader, out io.Writer) error {
	t, err := Listen()
	if err != nil {
		return fmt.Errorf("listen as the target: %w", err)
	}
	defer t.Close()
	encode := json.NewEncoder(out)
	var a addresses
	a.Echo, a.Greet = t.Addrs()
	if err := encode.Encode(a); err != nil {
		return err
	}
	for lines := bufio.NewScanner(in); ctx.Err() == nil && lines.Scan(); {
		if err := encode.Encode(t.Stats()); err != nil {
			return err
		}
	}
	return nil
}
