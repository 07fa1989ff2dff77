package gate

import (
	"context"
	"net/netip"
	"runtime"
	"sync"

	"github.com/ohrouter/oh-router/internal/fair"
)

// Turns lets as many do what keeps a processor busy as there are processors.
// When more wait, each source has its turn: who begins a thousand handshakes
// waits for them alone. The zero Turns is ready. It is safe for concurrent use.
type Turns struct {
	mu      sync.Mutex // guards what follows
	taken   int
	waiting fair.Queue[*turn]
}

// turn is what somebody waits for.
type turn struct {
	come chan struct{} // closed by Give
	gone bool          // nobody waits any more
}

// Take waits for a turn until ctx ends. Give ends it.
func (t *Turns) Take(ctx context.Context, from netip.Addr) error {
	t.mu.Lock()
	if t.taken < runtime.NumCPU() {
		t.taken++
		t.mu.Unlock()
		return nil
	}
	mine := &turn{come: make(chan struct{})}
	t.waiting.Push(from, mine)
	t.mu.Unlock()
	select {
	case <-mine.come:
		return nil
	case <-ctx.Done():
	}
	t.mu.Lock()
	mine.gone = true
	t.mu.Unlock()
	select {
	case <-mine.come: // it came meanwhile
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
	for next, ok := t.waiting.Pop(); ok; next, ok = t.waiting.Pop() {
		if !next.gone {
			close(next.come)
			return
		}
	}
	t.taken--
}
