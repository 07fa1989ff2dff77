//go:build linux

// Package delay is a network between router and proxy that takes its time: a
// forwarder that hands on what it reads after half a round trip, connecting
// and closing included. It needs no privileges, unlike the kernel's netem.
//
// It has the delay and the receive window of a long path, not its losses and
// not TCP's slow start: what it shows is how many round trips a chain takes
// and whether its windows fill the path.
package delay

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// window is how much one connection may have on the way in a round trip: the
// kernel's default limit for a receive window (net.ipv4.tcp_rmem).
const window = 6 << 20

// chunk is how much is read at once.
const chunk = 64 << 10

// Serve forwards connections to an address over a path with the given round
// trip, until ctx ends, and waits for all of them.
func Serve(ctx context.Context, ln net.Listener, to netip.AddrPort, roundTrip time.Duration) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	for {
		c, err := ln.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		wg.Go(func() { forward(ctx, c.(*net.TCPConn), to, roundTrip) })
	}
}

// forward carries one connection. The kernel has already told the near side
// that it is connected, a round trip too early: what it has sent since is held
// until then. The far side sees the connection after half a round trip.
func forward(ctx context.Context, near *net.TCPConn, to netip.AddrPort, roundTrip time.Duration) {
	defer near.Close()
	accepted := time.Now()
	oneWay := roundTrip / 2
	until(accepted.Add(oneWay))
	c, err := new(net.Dialer).DialContext(ctx, "tcp4", to.String())
	if err != nil {
		until(accepted.Add(roundTrip))
		near.SetLinger(0)
		return
	}
	far := c.(*net.TCPConn)
	defer far.Close()
	stop := context.AfterFunc(ctx, func() { near.Close(); far.Close() })
	defer stop()
	up, down := newQueue(), newQueue()
	var wg, upRead, downRead sync.WaitGroup
	// Who has ended its stream can still be reset, and no read tells of it.
	reset := func(sender *net.TCPConn, read *sync.WaitGroup) {
		wg.Go(func() {
			read.Wait() // what came before, and a reset that it has met, goes first
			until(time.Now().Add(oneWay))
			sender.SetLinger(0)
			sender.Close()
		})
	}
	upRead.Go(func() { up.fill(near, oneWay, accepted.Add(roundTrip)) })
	wg.Go(func() { up.drain(far, func() { reset(near, &downRead) }) })
	downRead.Go(func() { down.fill(far, oneWay, accepted) })
	wg.Go(func() { down.drain(near, func() { reset(far, &upRead) }) })
	upRead.Wait()
	downRead.Wait()
	wg.Wait()
}

// parcel is what one read has brought, or the end of a direction.
type parcel struct {
	due  time.Time
	data []byte // nil: the end
	err  error  // of the end: io.EOF, or what a reset is
}

// queue holds what is on the way in one direction.
type queue struct {
	mu      sync.Mutex
	changed sync.Cond // signals every change of what follows
	parcels []parcel
	bytes   int
}

func newQueue() *queue {
	q := &queue{}
	q.changed.L = &q.mu
	return q
}

// put waits until the window has room. Acknowledgements take half a round
// trip back, so that half a window is what may be on the way at once.
func (q *queue) put(p parcel) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.bytes >= window/2 {
		q.changed.Wait()
	}
	q.parcels = append(q.parcels, p)
	q.bytes += len(p.data)
	q.changed.Broadcast()
}

// first waits for a parcel and returns it; done takes it away.
func (q *queue) first() parcel {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.parcels) == 0 {
		q.changed.Wait()
	}
	return q.parcels[0]
}

func (q *queue) done() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.bytes -= len(q.parcels[0].data)
	q.parcels[0] = parcel{}
	q.parcels = q.parcels[1:]
	q.changed.Broadcast()
}

// fill reads until the end of the direction. Nothing leaves before open.
func (q *queue) fill(from *net.TCPConn, oneWay time.Duration, open time.Time) {
	for {
		buf := make([]byte, chunk)
		n, err := from.Read(buf)
		leaves := time.Now()
		if leaves.Before(open) {
			leaves = open
		}
		if n > 0 {
			q.put(parcel{due: leaves.Add(oneWay), data: buf[:n]})
		}
		if err != nil {
			q.put(parcel{due: leaves.Add(oneWay), err: err})
			return
		}
	}
}

// drain hands on what is due until the end of the direction. Once it can't, it
// calls gone, and drops the rest.
func (q *queue) drain(to *net.TCPConn, gone func()) {
	broken := false
	for {
		p := q.first()
		until(p.due)
		switch {
		case p.data == nil && errors.Is(p.err, io.EOF):
			_ = to.CloseWrite() // an error says that it is closed
			return
		case p.data == nil:
			to.SetLinger(0)
			to.Close()
			return
		case !broken:
			if _, err := to.Write(p.data); err != nil {
				broken = true
				gone()
			}
		}
		q.done()
	}
}

// until waits for a moment, to some 0.1 ms. The runtime's timers come up to
// 1 ms late, twice the way of the shortest path that is measured.
func until(t time.Time) {
	const coarse = 2 * time.Millisecond
	if d := time.Until(t); d > coarse {
		time.Sleep(d - coarse)
	}
	for {
		d := time.Until(t)
		if d <= 0 {
			return
		}
		ts := unix.NsecToTimespec(int64(d))
		_ = unix.Nanosleep(&ts, nil) // a signal only makes another turn
	}
}
