package socket_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"math"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ohrouter/oh-router/internal/socket"
)

func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		b := socket.Backoff{Log: slog.New(slog.NewTextHandler(&log, nil))}
		fails := func(want time.Duration) {
			t.Helper()
			begin := time.Now()
			b.Failed(t.Context(), "clients", syscall.EMFILE)
			if d := time.Since(begin); d != want {
				t.Errorf("Failed waits for %v, want %v", d, want)
			}
		}
		wantLines := func(n int) {
			t.Helper()
			if got := strings.Count(log.String(), "\n"); got != n {
				t.Errorf("%d lines in the log, want %d:\n%s", got, n, log.String())
			}
		}
		b.Succeeded()
		wantLines(0)
		for _, ms := range []int{5, 10, 20, 40, 80, 160, 320, 640, 1000, 1000} {
			fails(time.Duration(ms) * time.Millisecond)
		}
		wantLines(1)
		b.Succeeded()
		b.Succeeded()
		wantLines(2)
		fails(5 * time.Millisecond)
		wantLines(3)

		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		begin := time.Now()
		b.Failed(ctx, "clients", syscall.EMFILE)
		if d := time.Since(begin); d != 0 {
			t.Errorf("Failed waits for %v after its context has ended", d)
		}
	})
}

func TestBudget(t *testing.T) {
	b := socket.NewBudget(3)
	if !b.TryAcquire(2) || b.TryAcquire(2) || !b.TryAcquire(1) || b.TryAcquire(1) {
		t.Error("a budget of 3 does not give 2 and 1, and no more")
	}
	if err := b.Acquire(ended(), 1); !errors.Is(err, context.Canceled) {
		t.Errorf("Acquire from an empty budget = %v, want %v", err, context.Canceled)
	}
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			if err := b.Acquire(context.Background(), 2); err != nil {
				t.Errorf("Acquire = %v", err)
			}
			b.Release(2)
		})
	}
	b.Release(3)
	wg.Wait()
	if !b.TryAcquire(3) {
		t.Error("what was released is not there")
	}
	if big := socket.NewBudget(math.MaxInt); !big.TryAcquire(1_000_000) {
		t.Error("a budget without a limit is exhausted")
	}
}

func TestBudgetWithoutBound(t *testing.T) {
	var b socket.Budget
	if !b.TryAcquire(math.MaxInt) || b.Acquire(t.Context(), math.MaxInt) != nil {
		t.Error("the zero Budget has a bound")
	}
	if err := b.Acquire(ended(), 1); !errors.Is(err, context.Canceled) {
		t.Errorf("Acquire after the context has ended = %v, want %v", err, context.Canceled)
	}
	b.Release(1)
}

// ended returns a context that has ended.
func ended() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}
