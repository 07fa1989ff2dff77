package audit

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
)

// told returns the lines of a stream as "event code source session ×count".
func (s *stream) told(t testing.TB) (list []string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for text := range strings.Lines(s.text.String()) {
		var e struct {
			Event, Code, Client, Router, From, Session, Reason string
			Count                                              int
		}
		if err := json.Unmarshal([]byte(text), &e); err != nil {
			t.Fatal(err)
		}
		line := strings.Join(strings.Fields(strings.Join([]string{e.Event, e.Code, e.Client, e.Router, e.From, e.Session, e.Reason}, " ")), " ")
		if e.Count > 0 {
			line += fmt.Sprintf(" ×%d", e.Count)
		}
		list = append(list, line)
	}
	s.text.Reset()
	return list
}

// refusal is one at the link port.
func refusal(from, reason string) Entry {
	return Entry{Event: LinkRefused, Router: netip.MustParseAddrPort(from), Code: ohrouter.Unauthorized, Reason: reason}
}

func expect(t testing.TB, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("told\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestRefusalsAreSummed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s stream
		l, _ := open(t, &s)
		for i := range 1000 {
			l.Record(refusal(fmt.Sprintf("10.0.0.1:%d", 1000+i), fmt.Sprint("for ", i)))
		}
		l.Record(refusal("10.0.0.2:1", "another source"))
		l.Record(refusal("[2001:db8::1]:1", "one of a network"))
		l.Record(refusal("[2001:db8::2]:1", "another of it"))
		other := refusal("10.0.0.1:1", "another code")
		other.Code = ohrouter.InvalidRequest
		l.Record(other)
		l.Record(Entry{Event: SessionOpened, Session: "s-1"})
		l.Record(Entry{Event: SessionOpened, Session: "s-1"})
		synctest.Wait()
		expect(t, s.told(t),
			"link_refused unauthorized 10.0.0.1:1000 for 0",
			"link_refused unauthorized 10.0.0.2:1 another source",
			"link_refused unauthorized [2001:db8::1]:1 one of a network",
			"link_refused invalid_request 10.0.0.1:1 another code",
			"session_opened s-1",
			"session_opened s-1")

		time.Sleep(sumEvery)
		synctest.Wait()
		expect(t, s.told(t),
			"link_refused unauthorized 10.0.0.1:1999 for 999 ×999",
			"link_refused unauthorized [2001:db8::2]:1 another of it ×1")

		l.Record(refusal("10.0.0.1:1", "goes on"))
		l.Record(refusal("10.0.0.2:1", "begins anew"))
		synctest.Wait()
		expect(t, s.told(t), "link_refused unauthorized 10.0.0.2:1 begins anew")
		time.Sleep(sumEvery)
		synctest.Wait()
		expect(t, s.told(t), "link_refused unauthorized 10.0.0.1:1 goes on ×1")

		time.Sleep(3 * sumEvery)
		l.Record(refusal("10.0.0.1:1", "first"))
		l.Record(refusal("10.0.0.1:1", "at the end"))
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		expect(t, s.told(t), "link_refused unauthorized 10.0.0.1:1 first", "link_refused unauthorized 10.0.0.1:1 at the end ×1")
	})
}

// TestStrangersDoNotCrowdOut: however many strangers are refused, each refusal
// is counted, and those of users and sessions are told as they are.
func TestStrangersDoNotCrowdOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s stream
		l, _ := open(t, &s)
		const strangers = 20 * queueSize
		stuck := make(chan struct{})
		s.set(func(b []byte) (int, error) { <-stuck; return len(b), nil })
		source := netip.MustParseAddr("10.0.0.0")
		for i := range strangers {
			l.Record(Entry{Event: CallDenied, Code: ohrouter.Unauthorized, By: Caller{From: netip.AddrPortFrom(source, 1), Call: fmt.Sprint("GET /", i)}})
			source = source.Next()
		}
		user := Caller{Token: "t-user", From: netip.MustParseAddrPort("10.0.0.1:1"), Call: "GET /v1/bindings/b-1"}
		l.Record(Entry{Event: CallDenied, Code: ohrouter.NotFound, By: user})
		l.Record(Entry{Event: SessionOpened, Session: "s-1"})
		close(stuck)
		synctest.Wait()
		got := s.told(t)
		if len(got) != mostOfStrangers+2 || got[mostOfStrangers] != "call_denied not_found 10.0.0.1:1" || got[mostOfStrangers+1] != "session_opened s-1" {
			t.Errorf("%d lines, the last %q, want %d and those of the user and the session", len(got), got[len(got)-2:], mostOfStrangers+2)
		}
		time.Sleep(sumEvery)
		synctest.Wait()
		expect(t, s.told(t), fmt.Sprintf("call_denied unauthorized %s ×%d", tooMany, strangers-mostOfStrangers))
		time.Sleep(2 * sumEvery)
		synctest.Wait()
		l.sums.mu.Lock()
		if len(l.sums.kinds) != 0 || len(l.sums.members) != 0 {
			t.Errorf("%d kinds are kept, want none", len(l.sums.kinds))
		}
		l.sums.mu.Unlock()
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestUsersHaveTheirDenialsToldApart(t *testing.T) {
	var s stream
	l, _ := open(t, &s)
	for token, n := range map[string]int{"t-1": 1000, "t-2": 10} {
		for i := range n {
			l.Record(Entry{Event: CallDenied, Code: ohrouter.TargetDenied, By: Caller{Token: token, Call: "POST /v1/bindings"}, Reason: fmt.Sprintf("10.0.0.%d:1 is not granted", i)})
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	got := s.told(t)
	if want := fmt.Sprintf("call_denied target_denied %s ×%d", tooMany, 1000-mostOfToken); len(got) != mostOfToken+1+10 || got[len(got)-1] != want {
		t.Errorf("%d lines, the last %q, want %d for each target of one token, as many of the other as there is room, and %q", len(got), got[len(got)-1], 10, want)
	}
}

func TestLostSumsAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s stream
		l, _ := open(t, &s)
		for range 100 {
			l.Record(refusal("10.0.0.1:1", "again"))
		}
		synctest.Wait()
		s.set(func([]byte) (int, error) { return 0, errSlow })
		time.Sleep(sumEvery)
		synctest.Wait()
		s.set(nil)
		l.Record(Entry{Event: SessionOpened})
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if got := s.events(t); !slices.Equal(got, []string{"", "99 lost", ""}) {
			t.Errorf("the lines are %q, want one, 99 lost and one", got)
		}
	})
}

func TestQuiet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var said stream
		quiet, end := Quiet(slog.NewTextHandler(&said, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}}))
		log := slog.New(quiet)
		lines := func() []string {
			said.mu.Lock()
			defer said.mu.Unlock()
			defer said.text.Reset()
			return strings.Split(strings.TrimSuffix(said.text.String(), "\n"), "\n")
		}
		stranger := func(s string) Stranger { return Stranger(netip.MustParseAddrPort(s)) }
		for i := range 100 {
			log.With("role", "proxy").Warn("link refused", "router", stranger(fmt.Sprintf("10.0.0.1:%d", i+1)), "code", ohrouter.Unauthorized, "err", i)
			log.Warn("link refused", "router", "10.0.0.1:1") // somebody who is known
		}
		got := lines()
		if len(got) != 101 || got[0] != `level=WARN msg="link refused" role=proxy router=10.0.0.1:1 code=unauthorized err=0` {
			t.Errorf("%d lines, the first %s", len(got), got[0])
		}
		time.Sleep(sumEvery)
		synctest.Wait()
		expect(t, lines(), `level=WARN msg="link refused" role=proxy router=10.0.0.1:100 code=unauthorized err=99 count=99`)

		source := netip.MustParseAddr("10.1.0.0")
		for range 2 * mostOfStrangers {
			log.Warn("link refused", "router", Stranger(netip.AddrPortFrom(source, 1)), "code", ohrouter.InvalidRequest)
			source = source.Next()
		}
		if got := lines(); len(got) != mostOfStrangers-1 {
			t.Errorf("%d lines, want %d", len(got), mostOfStrangers-1)
		}
		end()
		expect(t, lines(), fmt.Sprintf(`level=WARN msg="link refused" code=invalid_request of="%s" count=%d`, tooMany, mostOfStrangers+1))
		log.Warn("link refused", "router", stranger("10.0.0.1:1"))
		log.Warn("link refused", "router", stranger("10.0.0.1:1"))
		if got := lines(); len(got) != 2 {
			t.Errorf("after the end %q, want both", got)
		}
	})
}
