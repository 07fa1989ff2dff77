package proxy_test

import (
	"testing"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/proxy"
)

// TestNamesAreRemembered has names of which the address is to serve other
// sessions, and some that are to be looked up for each.
func TestNamesAreRemembered(t *testing.T) {
	for _, tt := range []struct {
		what     string
		every    time.Duration
		is       []string
		lookedUp int32 // for four sessions
	}{
		{"one address", time.Hour, []string{"127.0.0.1"}, 1},
		{"one of each kind", time.Hour, []string{"::1", "127.0.0.1"}, 1},
		{"written as IPv6", time.Hour, []string{"::ffff:127.0.0.1"}, 1},
		{"several, to share out sessions", time.Hour, []string{"127.0.0.1", "127.0.0.2"}, 4},
		{"long ago", 1, []string{"127.0.0.1"}, 4},
		{"not at all", 0, []string{"127.0.0.1"}, 4},
	} {
		t.Run(tt.what, func(t *testing.T) {
			f, x := startWith(t, proxy.Config{ResolveEvery: tt.every}, patient, "127.0.0.0/8:*", "[::1]:*"), listen(t, "127.0.0.1", 0)
			f.names.resolve = is(tt.is...)
			for i := range 4 {
				l, server := f.link(x.named("db"), false)
				if l.Resolved.Addr().String() != "127.0.0.1" {
					t.Errorf("session %d is connected to %v", i, l.Resolved)
				}
				say(t, l.Conn(), server, "hello")
				say(t, server, l.Conn(), "hello")
			}
			if n := f.names.calls.Load(); n != tt.lookedUp {
				t.Errorf("looked up %d times, want %d", n, tt.lookedUp)
			}
			if n := f.dials(); n != 4 {
				t.Errorf("ohrouter_dial_seconds has %d samples, want 4", n)
			}
		})
	}
}

// TestNameThatMoves has a name lead elsewhere than it did a moment ago, where
// nobody listens any more, or nobody answers.
func TestNameThatMoves(t *testing.T) {
	for _, tt := range []struct {
		what  string
		now   func(t *testing.T) (x *target, was string) // was does not serve x's port
		is    []string
		known int
	}{
		{"refused", besideNobody, []string{"127.0.0.3"}, 1},
		{"silent", func(t *testing.T) (*target, string) { return besideSilent(t, "127.0.0.3"), "127.0.0.2" }, []string{"127.0.0.3"}, 1},
		{"to several", besideNobody, []string{"127.0.0.3", "127.0.0.4"}, 0},
	} {
		t.Run(tt.what, func(t *testing.T) {
			f := startWith(t, proxy.Config{ResolveEvery: time.Hour}, patient, "127.0.0.0/8:*")
			x, was := tt.now(t)
			f.Know(x.named("db").Target, was)
			f.names.resolve = is(tt.is...)
			begin := time.Now()
			l, server := f.link(x.named("db"), false)
			if l.Resolved.Addr().String() != "127.0.0.3" {
				t.Errorf("connected to %v, want where the name leads now", l.Resolved)
			}
			say(t, l.Conn(), server, "hello")
			if d := time.Since(begin); d > patient/2 {
				t.Errorf("connected after %v, want it much sooner than the timeout", d)
			}
			if n, known := f.names.calls.Load(), f.Known(); n != 1 || known != tt.known {
				t.Errorf("looked up %d times, %d names are remembered; want 1 and %d", n, known, tt.known)
			}
		})
	}
}

func besideNobody(t *testing.T) (x *target, was string) {
	return listen(t, "127.0.0.3", 0), "127.0.0.1"
}

// TestKnownNameIsPermitted has a name whose address is known, and must not be
// dialled.
func TestKnownNameIsPermitted(t *testing.T) {
	f, x := startWith(t, proxy.Config{ResolveEvery: time.Hour}, patient, "127.0.0.0/8:*"), listen(t, "127.0.0.1", 0)
	f.names.resolve = is("127.0.0.1")
	f.link(x.named("db"), false)
	f.SetAllow(list(t, "127.0.0.2:*"))
	f.wantCode(x.named("db").Target, ohrouter.TargetDenied)
	if n := len(x.conns); n != 0 {
		t.Errorf("the target has seen %d more connections", n)
	}
}

// TestManyNames has more names than are remembered.
func TestManyNames(t *testing.T) {
	f, x := startWith(t, proxy.Config{ResolveEvery: time.Hour}, patient, "127.0.0.0/8:*"), listen(t, "127.0.0.1", 0)
	f.names.resolve = is("127.0.0.1")
	f.link(x.named("db"), false)
	for port := range uint16(proxy.MaxKnown) {
		f.Know(ohrouter.Target{Host: "other", Port: port + 1}, "127.0.0.1")
	}
	if n := f.Known(); n > proxy.MaxKnown {
		t.Errorf("%d names are remembered", n)
	}
	f.link(x.named("db"), false)
}
