package gate

import (
	"container/list"
	"context"
	"net/netip"
	"runtime"
	"sync"
)

// Turns lets as many do what keeps a processor busy as there are processors.
// When more wait, each source has its turn: who begins a thousand handshakes
// waits for them alone. The zero Turns is ready. It is safe for concurrent use.
type Turns struct {
	mu      sync.Mutex // guards what follows
	taken   int
	waiting map[netip.Addr]*list.List // of chan struct{}, which are closed by a turn
	next    list.List                 // of netip.Addr, those who wait
}

// Take waits for a turn until ctx ends. Give ends it.
func (t *Turns) Take(ctx context.Context, from netip.Addr) error {
	t.mu.Lock()
	if t.taken < runtime.NumCPU() {
		t.taken++
		t.mu.Unlock()
		return nil
	}
	source, turn := sourceOf(from), make(chan struct{})
	of := t.waiting[source]
	if of == nil {
		of = new(list.List)
		if t.waiting == nil {
			t.waiting = make(map[netip.Addr]*list.List)
		}
		t.waiting[source] = of
		t.next.PushBack(source)
	}
	place := of.PushBack(turn)
	t.mu.Unlock()
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
	}
	t.mu.Lock()
	of.Remove(place) // a source of whom nobody waits any more goes with its turn
	t.mu.Unlock()
	select {
	case <-turn: // it came meanwhile
		t.Give()
	default:
	}
	return ctx.Err()
}

// For returns what [Handshake.Turn] takes, for a peer at this address.
func (t *Turns) For(ctx context.Context, from netip.Addr) func() (done func(), err error) {
	return func() (func(), error) {
		if err := t.Take(ctx, from); err != nil {
			return nil, err
		}
		return t.Give, nil
	}
}

// Give ends a turn.
func (t *Turns) Give() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for t.next.Len() > 0 {
		front := t.next.Front()
		source := front.Value.(netip.Addr)
		of := t.waiting[source]
		first := of.Front()
		if first != nil {
			of.Remove(first)
		}
		if of.Len() == 0 {
			t.next.Remove(front)
			delete(t.waiting, source)
		} else {
			t.next.MoveToBack(front)
		}
		if first != nil {
			close(first.Value.(chan struct{}))
			return
		}
	}
	t.taken--
}
