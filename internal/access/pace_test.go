package access

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
)

// TestCallsPerSecond has a user who loops, beside others who do not.
func TestCallsPerSecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tokens := open(t, Config{})
		root := create(t, tokens, admin("root"))
		spec := user("loops", "any")
		spec.CallsPerSecond = new(5)
		loops := create(t, tokens, spec)
		other := create(t, tokens, user("other", "any"))
		viewer := create(t, tokens, ohrouter.TokenSpec{Name: "viewer", Role: ohrouter.Viewer})

		calls := func(token ohrouter.NewToken, tries int) (taken int, last error) {
			for range tries {
				if _, err := tokens.Authenticate(token.Secret); err != nil {
					last = err
				} else {
					taken++
				}
			}
			return taken, last
		}
		taken, err := calls(loops, 1000)
		wait, ok := errors.AsType[Wait](err)
		if taken != 10 || ohrouter.CodeOf(err) != ohrouter.QuotaExceeded || !ok || wait.Seconds() != 1 {
			t.Errorf("%d calls at once are taken, then %v; want 10 and quota_exceeded for 1 s", taken, err)
		}
		if n, err := calls(other, 2*defaultCallsPerSecond); err != nil {
			t.Errorf("beside it %d calls of another: %v", n, err)
		}
		if n, _ := calls(viewer, 1000); n != 2*defaultCallsPerSecond {
			t.Errorf("a viewer makes %d calls at once, want %d", n, 2*defaultCallsPerSecond)
		}
		if n, err := calls(root, 1000); err != nil {
			t.Errorf("after %d calls an admin gets %v", n, err)
		}

		time.Sleep(time.Duration(wait))
		if n, _ := calls(loops, 1000); n != 1 {
			t.Errorf("after the wait that was asked for %d calls are taken, want 1", n)
		}
		time.Sleep(time.Second)
		if n, _ := calls(loops, 1000); n != 5 {
			t.Errorf("a second later %d calls are taken, want 5", n)
		}
		time.Sleep(time.Hour)
		if n, _ := calls(loops, 1000); n != 10 {
			t.Errorf("an hour later %d calls at once are taken, want 10", n)
		}
	})
}
