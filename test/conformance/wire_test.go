//go:build linux

package conformance

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

// wire is what lies between a router and a proxy, with somebody on it who can
// change what goes by. He sees records of TLS: he cannot look into them.
type wire struct {
	addr   string // for the router
	tamper atomic.Pointer[tampering]

	mu       sync.Mutex // guards recorded
	recorded [][]byte   // of each link, what the router has sent
}

// tampering is what is done to the n-th record of a link.
type tampering struct {
	name    string
	toProxy bool
	with    func(record, next []byte) []byte // instead of both
}

// tampered is long after the handshake, in the middle of a session's bytes.
const tampered = 30

// tap returns a wire to a proxy.
func tap(t testing.TB, proxy string) *wire {
	t.Helper()
	w := &wire{}
	w.addr = serve(t, func(router *net.TCPConn) {
		c, err := net.Dial("tcp", proxy)
		if err != nil {
			return
		}
		to := c.(*net.TCPConn)
		defer to.Close()
		w.mu.Lock()
		link := len(w.recorded)
		w.recorded = append(w.recorded, nil)
		w.mu.Unlock()
		heard := func(record []byte) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.recorded[link] = append(w.recorded[link], record...)
		}
		var wg sync.WaitGroup
		wg.Go(func() { w.carry(to, router, true, heard) })
		w.carry(router, to, false, func([]byte) {})
		wg.Wait()
	}).addr
	return w
}

// carry passes records on, and the end.
func (w *wire) carry(to, from *net.TCPConn, toProxy bool, heard func([]byte)) {
	next := func() ([]byte, error) {
		record := make([]byte, 5, 5+16<<10+256)
		if _, err := io.ReadFull(from, record); err != nil {
			return nil, err
		}
		record = record[:5+int(binary.BigEndian.Uint16(record[3:]))]
		_, err := io.ReadFull(from, record[5:])
		heard(record)
		return record, err
	}
	for n := 0; ; n++ {
		record, err := next()
		if how := w.tamper.Load(); err == nil && how != nil && how.toProxy == toProxy && n == tampered {
			var behind []byte
			if behind, err = next(); err == nil {
				record = how.with(record, behind)
			}
		}
		if err == nil {
			_, err = to.Write(record)
		}
		switch {
		case errors.Is(err, io.EOF):
			to.CloseWrite()
			return
		case err != nil:
			reset(to)
			reset(from)
			return
		}
	}
}

// flip returns what changes one bit of a record, counted from its end if at is
// negative.
func flip(at int) func(record, next []byte) []byte {
	return func(record, next []byte) []byte {
		record = bytes.Clone(record)
		record[(at+len(record))%len(record)] ^= 1
		return append(record, next...)
	}
}

// tamperings are what somebody on the wire can do.
func tamperings() (all []tampering) {
	for _, toProxy := range []bool{true, false} {
		all = append(
			all,
			tampering{"a bit of the type", toProxy, flip(0)},
			tampering{"a bit of the version", toProxy, flip(1)},
			tampering{"a bit of the length", toProxy, flip(4)},
			tampering{"a bit of the first byte", toProxy, flip(5)},
			tampering{"a bit of the middle", toProxy, flip(300)},
			tampering{"a bit of the tag", toProxy, flip(-1)},
			tampering{"a record twice", toProxy, func(r, next []byte) []byte { return slices.Concat(r, r, next) }},
			tampering{"a record less", toProxy, func(_, next []byte) []byte { return next }},
			tampering{"two records swapped", toProxy, func(r, next []byte) []byte { return slices.Concat(next, r) }},
			tampering{"a record of nobody", toProxy, func(r, next []byte) []byte {
				return slices.Concat(r, []byte{23, 3, 3, 0, 32}, make([]byte, 32), next)
			}},
			tampering{"an alert that says it is all", toProxy, func(r, next []byte) []byte {
				return slices.Concat(r, []byte{21, 3, 3, 0, 2, 1, 0}, next)
			}},
		)
	}
	return all
}

// Who changes what goes over the wire ends the session, with a reset at both
// ends, and never makes anybody read a byte that was not sent.
func TestTamperedWire(t *testing.T) {
	t.Parallel()
	behind := start(t, flags{secured: true})
	w := tap(t, behind.link)
	s := start(t, flags{secured: true, ports: 32, proxies: []string{w.addr}, router: []string{"--pool", "0-0"}})
	for _, how := range tamperings() {
		t.Run(fmt.Sprintf("%s to the proxy %v", how.name, how.toProxy), func(t *testing.T) {
			e := open(t, s)
			w.tamper.Store(&how)
			defer w.tamper.Store(nil)
			from, to := e.client, e.target
			if !how.toProxy {
				from, to = to, from
			}
			const n = 4 << 20
			sent := make(chan error, 1)
			go func() { sent <- send(from, 7, n) }()
			if err := receive(to, 7, n); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("who reads: %v, want what was sent and then a reset", err)
			}
			<-sent
			wantBrokenWrites(t, from)
		})
	}
	wantEcho(t, connect(t, s.bind(t, serve(t, echo).addr).Address))
}

// What was recorded on the wire opens nothing at another time.
func TestReplayedLink(t *testing.T) {
	t.Parallel()
	behind := start(t, flags{secured: true})
	w := tap(t, behind.link)
	s := start(t, flags{secured: true, proxies: []string{w.addr}, router: []string{"--pool", "0-0"}})
	tg := serve(t, echo)
	b := s.bind(t, tg.addr)
	for range 3 { // the later ones resume
		if err := shortSession(b.Address); err != nil {
			t.Fatal(err)
		}
	}
	s.awaitSessions(t, 0)
	w.mu.Lock()
	links := slices.Clone(w.recorded)
	w.mu.Unlock()
	was := tg.accepts.Load()
	for i, link := range links {
		wantClosed(t, behind.link, fmt.Sprintf("link %d again", i), link, soon)
	}
	if err := wantAccepts(tg, was); err != nil || len(links) < 3 {
		t.Errorf("after %d recorded links were sent again: %v", len(links), err)
	}
	wantEcho(t, connect(t, b.Address))
}
