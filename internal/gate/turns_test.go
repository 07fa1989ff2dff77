package gate

import (
	"context"
	"net/netip"
	"runtime"
	"testing"
	"testing/synctest"
)

func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var turns Turns
		busy, well := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
		for range runtime.NumCPU() {
			if err := turns.Take(t.Context(), busy); err != nil {
				t.Fatal(err)
			}
		}
		got := make(chan string, 16)
		wait := func(ctx context.Context, name string, from netip.Addr) {
			go func() {
				if err := turns.Take(ctx, from); err != nil {
					name += " gave up"
				}
				got <- name
			}()
			synctest.Wait()
		}
		want := func(name string) {
			t.Helper()
			synctest.Wait()
			select {
			case g := <-got:
				if g != name {
					t.Errorf("it is the turn of %s, want %s", g, name)
				}
			default:
				t.Errorf("it is nobody's turn, want %s", name)
			}
		}
		impatient, giveUp := context.WithCancel(t.Context())
		wait(t.Context(), "busy 1", busy)
		wait(impatient, "busy 2", busy)
		wait(t.Context(), "busy 3", busy)
		wait(t.Context(), "well 1", well)
		wait(t.Context(), "busy 4", busy)
		if len(got) > 0 {
			t.Errorf("%s did not wait", <-got)
		}
		giveUp()
		want("busy 2 gave up")
		for _, name := range []string{"busy 1", "well 1", "busy 3", "busy 4"} {
			turns.Give()
			want(name)
		}
		alone, giveUp := context.WithCancel(t.Context())
		wait(alone, "alone", well)
		giveUp()
		want("alone gave up")
		for range runtime.NumCPU() {
			turns.Give()
		}
		if turns.taken != 0 || turns.waiting.Len() != 0 {
			t.Errorf("in the end %d turns are taken, and %d wait", turns.taken, turns.waiting.Len())
		}
	})
}

// TestTurnThatComesTooLate has turns come at the moment when who waits gives up.
// None is lost.
func TestTurnThatComesTooLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var turns Turns
		from, all := netip.MustParseAddr("192.0.2.1"), runtime.NumCPU()
		for range all {
			if err := turns.Take(t.Context(), from); err != nil {
				t.Fatal(err)
			}
		}
		for range 1000 {
			ctx, giveUp := context.WithCancel(t.Context())
			got := make(chan error, 1)
			go func() { got <- turns.Take(ctx, from) }()
			synctest.Wait()
			giveUp()
			turns.Give()
			if err := <-got; err == nil {
				t.Fatal("a turn that was given up is taken")
			}
			if turns.taken != all-1 {
				t.Fatalf("%d turns are taken, want all of %d but the one that was given up", turns.taken, all)
			}
			if err := turns.Take(t.Context(), from); err != nil {
				t.Fatal(err)
			}
		}
	})
}
