package access

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
)

func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tokens, err := Open(t.Context(), Config{})
		if err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex // guards seen
		var seen []string
		told := func() string {
			mu.Lock()
			defer mu.Unlock()
			defer func() { seen = nil }()
			return strings.Join(seen, " ")
		}
		create := func(name string, ttl time.Duration) ohrouter.NewToken {
			made, err := tokens.Create(t.Context(), ohrouter.TokenSpec{Name: name, Role: ohrouter.Admin, TTL: ohrouter.Duration(ttl)})
			if err != nil {
				t.Fatal(err)
			}
			return made
		}
		create("root", 0)
		create("long", time.Hour)
		create("short", 10*time.Second)
		gone := create("revoked", 10*time.Second)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			tokens.Watch(ctx, func(token ohrouter.Token) {
				mu.Lock()
				defer mu.Unlock()
				seen = append(seen, token.Name)
			})
		})
		synctest.Wait()
		if err := tokens.Revoke(t.Context(), gone.ID); err != nil {
			t.Fatal(err)
		}
		create("second", 20*time.Second)
		create("first", 15*time.Second)

		time.Sleep(10*time.Second - time.Nanosecond)
		synctest.Wait()
		if got := told(); got != "" {
			t.Errorf("%q have ended before their time", got)
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if got := told(); got != "short" {
			t.Errorf("after 10 s %q have ended, want short", got)
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if got := told(); got != "first" {
			t.Errorf("after 15 s %q have ended, want first", got)
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if got := told(); got != "second" {
			t.Errorf("after 20 s %q have ended, want second", got)
		}
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if got := told(); got != "long" {
			t.Errorf("then %q have ended, want long", got)
		}
		cancel()
		wg.Wait()
	})
}

// TestKnownThoughInvalid: whose time has ended is refused, and known for the
// audit log.
func TestKnownThoughInvalid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tokens, err := Open(t.Context(), Config{})
		if err != nil {
			t.Fatal(err)
		}
		made, err := tokens.Create(t.Context(), ohrouter.TokenSpec{Name: "root", Role: ohrouter.Admin, TTL: ohrouter.Duration(time.Hour)})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if who, err := tokens.Authenticate(made.Secret); ohrouter.CodeOf(err) != ohrouter.Unauthorized || who.Owner() != made.ID {
			t.Errorf("a token that has ended is %q, %v, want %s, unauthorized", who.Owner(), err, made.ID)
		}
		other := newSecret()
		if who, err := tokens.Authenticate(other); ohrouter.CodeOf(err) != ohrouter.Unauthorized || who.Owner() != "" {
			t.Errorf("one that nobody made is %q, %v, want nobody, unauthorized", who.Owner(), err)
		}
		if !slices.ContainsFunc(tokens.List(), func(l ohrouter.Token) bool { return l.LastUsedAt == nil }) {
			t.Error("the refused call counts as a use")
		}
	})
}
