package proxy_test

import (
	"io"
	"slices"
	"strings"
	"testing"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/audit"
	"github.com/ohrouter/oh-router/internal/audit/audittest"
	"github.com/ohrouter/oh-router/internal/proxy"
	"github.com/ohrouter/oh-router/internal/socket"
)

func TestAudit(t *testing.T) {
	log := audittest.New(t)
	f := startWith(t, proxy.Config{Audit: log.Log}, patient, "127.0.0.1:*")
	f.names.resolve = is("127.0.0.1")
	x := listen(t, "127.0.0.1", 0)
	n := 0
	ends := func() { // one after the other, for their order
		n++
		until(t, "the session's end is recorded", func() bool { return len(f.log.lines("session ended")) == n })
	}

	l, server := f.link(x, false) // on a loop
	say(t, l.Conn(), server, "up")
	server.Close()
	if _, err := io.Copy(io.Discard, l.Conn()); err != nil {
		t.Fatal(err)
	}
	l.Close()
	ends()
	l, server = f.link(x.named("db"), false) // in a goroutine
	say(t, server, l.Conn(), "down")
	socket.Abort(server)
	wantReset(t, "router", l.Conn())
	ends()
	f.wantCode(ohrouter.Target{Host: "10.0.0.1", Port: 1}, ohrouter.TargetDenied)
	f.wantCode(ohrouter.Target{Host: "127.0.0.1", Port: 1}, ohrouter.TargetRefused)
	l, _ = f.link(x, false)
	f.SetAllow(list(t, "127.0.0.2:*"))
	wantReset(t, "router", l.Conn())
	ends()
	f.Shutdown(ended())

	got := log.Lines(t, "session", "target", "resolved", "bytes_up", "bytes_down", "outcome", "code")
	direct, named := "session=s-1 target="+x.String()+" resolved="+x.String(), "session=s-1 target="+x.named("db").String()+" resolved="+x.String()
	want := []string{
		"session_opened " + direct + " bytes_up= bytes_down= outcome= code=",
		"session_closed " + direct + " bytes_up=2 bytes_down=0 outcome=target_closed code=",
		"session_opened " + named + " bytes_up= bytes_down= outcome= code=",
		"session_closed " + named + " bytes_up=0 bytes_down=4 outcome=target_reset code=",
		"session_refused session=s-1 target=10.0.0.1:1 resolved= bytes_up= bytes_down= outcome= code=target_denied",
		"session_refused session=s-1 target=127.0.0.1:1 resolved= bytes_up= bytes_down= outcome= code=target_refused",
		"session_opened " + direct + " bytes_up= bytes_down= outcome= code=",
		"session_closed " + direct + " bytes_up=0 bytes_down=0 outcome=target_denied code=",
	}
	if !slices.Equal(got, want) {
		t.Errorf("the audit log has\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for _, name := range []string{"router", "duration"} {
		if fields := log.Fields(t, audit.SessionClosed); !slices.Contains(fields, name) {
			t.Errorf("session_closed has %v, want %s among them", fields, name)
		}
	}
}
