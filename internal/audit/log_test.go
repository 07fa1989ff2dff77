package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// stream is a stdout whose writes are in the test's hands.
type stream struct {
	mu   sync.Mutex // guards what follows
	text bytes.Buffer
	do   func(b []byte) (n int, err error) // what a write does first; nil nothing
}

func (s *stream) Write(b []byte) (int, error) {
	s.mu.Lock()
	do := s.do
	s.mu.Unlock()
	n, err := len(b), error(nil)
	if do != nil {
		n, err = do(b)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text.Write(b[:n])
	return n, err
}

func (s *stream) set(do func(b []byte) (int, error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.do = do
}

// events returns the sessions and lost counts of the lines.
func (s *stream) events(t testing.TB) (list []string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for text := range strings.Lines(s.text.String()) {
		var e struct {
			Session string
			Lost    int
		}
		if json.Unmarshal([]byte(text), &e) != nil {
			list = append(list, "torn")
			continue
		}
		if e.Lost > 0 {
			e.Session = fmt.Sprintf("%d lost", e.Lost)
		}
		list = append(list, e.Session)
	}
	return list
}

// open returns a Log of a stream, and what the program's log says.
func open(t testing.TB, s *stream) (*Log, *bytes.Buffer) {
	t.Helper()
	said := new(bytes.Buffer)
	l, err := Open(Config{File: "-", Stdout: s, Log: slog.New(slog.NewTextHandler(said, nil)), Metrics: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	return l, said
}

func TestEventsAreWrittenInOrder(t *testing.T) {
	var s stream
	l, _ := open(t, &s)
	const n = 3000
	for i := range n {
		l.Record(Entry{Event: SessionOpened, Session: fmt.Sprint(i)})
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Errorf("Close once more = %v", err)
	}
	l.Record(Entry{Event: SessionOpened}) // too late, and no harm
	got := s.events(t)
	if len(got) != n {
		t.Fatalf("%d lines, want %d", len(got), n)
	}
	for i, session := range got {
		if session != fmt.Sprint(i) {
			t.Fatalf("line %d is of session %s", i, session)
		}
	}
}

func TestNobodyWaitsForASlowStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s stream
		stuck := make(chan struct{})
		s.set(func(b []byte) (int, error) { <-stuck; return len(b), nil })
		l, said := open(t, &s)
		l.Record(Entry{Event: SessionOpened, Session: "first"})
		synctest.Wait() // it is being written
		const more = 100
		begin := time.Now()
		for range queueSize + more {
			l.Record(Entry{Event: SessionOpened, Session: "more"})
		}
		if time.Since(begin) != 0 {
			t.Errorf("Record has waited for %v", time.Since(begin))
		}
		if n := testutil.ToFloat64(l.lost); n != more {
			t.Errorf("ohrouter_audit_lost_total is %v, want %d", n, more)
		}
		time.Sleep(tellEvery)
		synctest.Wait()
		if !strings.Contains(said.String(), "audit events lost") {
			t.Errorf("the log says %q, want what is lost", said)
		}
		close(stuck)
		synctest.Wait()
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		got := s.events(t)
		if want := fmt.Sprintf("%d lost", more); len(got) != queueSize+2 || got[0] != "first" || got[1] != want {
			t.Errorf("%d lines, beginning with %q, want %d: first, %s and the rest", len(got), got[:2], queueSize+2, want)
		}
	})
}

func TestCloseDoesNotWaitForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s stream
		stuck := make(chan struct{})
		s.set(func(b []byte) (int, error) { <-stuck; return len(b), nil })
		l, _ := open(t, &s)
		l.Record(Entry{Event: SessionOpened})
		synctest.Wait()
		l.Record(Entry{Event: SessionOpened})
		begin := time.Now()
		if err := l.Close(); err == nil || !strings.Contains(err.Error(), "1 events are not written") {
			t.Errorf("Close = %v, want what is not written", err)
		}
		if d := time.Since(begin); d != closeWithin {
			t.Errorf("Close took %v, want %v", d, closeWithin)
		}
		close(stuck)
		synctest.Wait()
	})
}

func TestStreamThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s stream
		l, said := open(t, &s)
		record := func(session string) {
			l.Record(Entry{Event: SessionOpened, Session: session})
			synctest.Wait()
		}
		record("a")
		full := errors.New("no space left on device")
		s.set(func([]byte) (int, error) { return 20, full })
		record("b")
		s.set(func([]byte) (int, error) { return 0, full })
		record("c")
		s.set(nil)
		record("d")
		record("e")
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if got, want := strings.Join(s.events(t), ", "), "a, torn, 2 lost, d, e"; got != want {
			t.Errorf("the lines are %s, want %s", got, want)
		}
		for _, want := range []string{"no space left", "audit log is written again"} {
			if !strings.Contains(said.String(), want) {
				t.Errorf("the log says\n%s\nwant %q", said, want)
			}
		}
		if n := testutil.ToFloat64(l.lost); n != 2 {
			t.Errorf("ohrouter_audit_lost_total is %v, want 2", n)
		}
	})
}

func TestFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "audit.log")
	start := func() *Log {
		l, err := Open(Config{File: name, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()})
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	l := start()
	info, err := os.Stat(name)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file is %v, %v, want it for its owner alone", info, err)
	}
	l.Record(Entry{Event: SessionOpened, Session: "one"})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}

	l = start() // goes on behind what is there
	l.Record(Entry{Event: SessionOpened, Session: "two"})
	lines(t, name, 2)
	if err := os.Rename(name, name+".1"); err != nil {
		t.Fatal(err)
	}
	l.Record(Entry{Event: SessionOpened, Session: "three"})
	lines(t, name+".1", 3)
	l.Reopen()
	for !exists(name) {
		time.Sleep(time.Millisecond) // no event tells of it
	}
	l.Record(Entry{Event: SessionOpened, Session: "four"})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	lines(t, name, 1)
	lines(t, name+".1", 3)
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

// lines waits until a file has so many lines.
func lines(t testing.TB, name string, want int) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); ; {
		b, err := os.ReadFile(name)
		if err == nil && bytes.Count(b, []byte("\n")) == want {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s is %q, %v, want %d lines", name, b, err, want)
		}
		time.Sleep(time.Millisecond) // no event tells of it
	}
}

func TestFileThatCannotBeOpened(t *testing.T) {
	_, err := Open(Config{File: t.TempDir(), Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()})
	if err == nil {
		t.Error("Open of a directory succeeds")
	}
}

func TestReopenThatFails(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "sub", "audit.log")
	if err := os.Mkdir(filepath.Dir(name), 0o700); err != nil {
		t.Fatal(err)
	}
	said := new(stream)
	l, err := Open(Config{File: name, Log: slog.New(slog.NewTextHandler(said, nil)), Metrics: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	moved := filepath.Join(dir, "moved")
	if err := os.Rename(filepath.Dir(name), moved); err != nil {
		t.Fatal(err)
	}
	l.Reopen()
	l.Record(Entry{Event: SessionOpened})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	lines(t, filepath.Join(moved, "audit.log"), 1)
}

func TestNoLog(t *testing.T) {
	l, err := Open(Config{})
	if l != nil || err != nil {
		t.Fatalf("Open without a file = %v, %v", l, err)
	}
	l.Record(Entry{Event: SessionOpened})
	l.Reopen()
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

func BenchmarkRecord(b *testing.B) {
	l, err := Open(Config{File: "-", Stdout: io.Discard, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()})
	if err != nil {
		b.Fatal(err)
	}
	e := example()
	b.ReportAllocs()
	for b.Loop() {
		l.Record(e)
	}
	if err := l.Close(); err != nil {
		b.Fatal(err)
	}
}
