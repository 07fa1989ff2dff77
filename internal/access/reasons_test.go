package access

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	ohrouter "github.com/ohrouter/oh-router"
)

// TestTold has one answer for all that says something about a network.
func TestTold(t *testing.T) {
	all := callers(t)
	want := map[ohrouter.Code]ohrouter.Code{
		ohrouter.TargetDenied: ohrouter.TargetUnreachable, ohrouter.TargetRefused: ohrouter.TargetUnreachable,
		ohrouter.TargetUnreachable: ohrouter.TargetUnreachable, ohrouter.TargetUnresolved: ohrouter.TargetUnreachable,
		ohrouter.TargetTimeout: ohrouter.TargetUnreachable, ohrouter.NoProxy: ohrouter.NoProxy, ohrouter.ProxyUnreachable: ohrouter.ProxyUnreachable,
		ohrouter.Internal: ohrouter.Internal,
	}
	messages := map[ohrouter.Code]string{}
	for _, code := range ohrouter.Codes() {
		err := fmt.Errorf("bind: %w", ohrouter.Errorf(code, "10.1.2.3 says %s", code))
		for _, name := range []string{"anybody", "admin", "viewer", "told"} {
			if whole, got := all[name].Told(err); !whole || ohrouter.Message(got) != ohrouter.Message(err) {
				t.Errorf("%s is told %v of %v", name, got, err)
			}
		}
		whole, told := all["user"].Told(err)
		if whole != (want[code] == "") {
			t.Errorf("a user is told all of %s: %v", code, whole)
		}
		if want[code] == "" {
			if ohrouter.Message(told) != ohrouter.Message(err) {
				t.Errorf("a user is told %v of %v", told, err)
			}
			continue
		}
		message := ohrouter.Message(told)
		if ohrouter.CodeOf(told) != want[code] || messages[want[code]] != "" && messages[want[code]] != message && code != ohrouter.ProxyUnreachable {
			t.Errorf("a user is told %s %q of %s, want one answer with %s", ohrouter.CodeOf(told), message, code, want[code])
		}
		messages[want[code]] = message
	}
}

func TestSnapshotsWithoutReasons(t *testing.T) {
	at := time.Date(2026, 5, 4, 9, 30, 0, 0, time.UTC)
	b := ohrouter.Binding{
		ID: "b1", LastCheck: &ohrouter.Check{OK: true, Resolved: "10.1.2.3:1", At: at},
		LastError: &ohrouter.Failure{Code: ohrouter.TargetDenied, Message: "10.1.2.3 is denied", At: at},
	}
	s := ohrouter.Session{ID: "s1", Resolved: "10.1.2.3:1"}
	all := callers(t)
	if d := cmp.Diff(b, all["viewer"].Binding(b)); d != "" {
		t.Errorf("a viewer sees (-want +got):\n%s", d)
	}
	if got := all["told"].Session(s); got != s {
		t.Errorf("a user who is told sees %+v", got)
	}
	got := all["user"].Binding(b)
	_, message, _ := withheld(ohrouter.TargetDenied)
	want := ohrouter.Binding{
		ID: "b1", LastCheck: &ohrouter.Check{OK: true, At: at},
		LastError: &ohrouter.Failure{Code: ohrouter.TargetUnreachable, Message: message, At: at},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("a user sees (-want +got):\n%s", d)
	}
	if b.LastCheck.Resolved == "" {
		t.Error("the binding itself was changed")
	}
	if got := all["user"].Session(s); got.Resolved != "" || got.ID != "s1" {
		t.Errorf("a user sees %+v", got)
	}
	if got := all["user"].Binding(ohrouter.Binding{ID: "b2"}); got.LastCheck != nil || got.LastError != nil {
		t.Errorf("a user sees %+v", got)
	}
}
