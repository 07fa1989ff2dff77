// Package audittest lets tests read the audit log of what they test.
package audittest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ohrouter/oh-router/internal/audit"
)

// Stream is an audit log in memory.
type Stream struct {
	*audit.Log

	text bytes.Buffer // the Log's, until it is closed
}

// New returns a stream, which the end of the test closes.
func New(t testing.TB) *Stream {
	t.Helper()
	s := new(Stream)
	var err error
	s.Log, err = audit.Open(audit.Config{File: "-", Stdout: &s.text, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// Lines closes the stream and returns its lines: the event and the fields that
// are asked for, as in "token_created by=t-1 role=". A field that a line does
// not have is empty; one that the documentation does not have is an error.
func (s *Stream) Lines(t testing.TB, fields ...string) (lines []string) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	fieldsOf := documented(t)
	for text := range strings.Lines(s.text.String()) {
		var e map[string]any
		if err := json.Unmarshal([]byte(text), &e); err != nil {
			t.Fatalf("the audit log has the line %q: %v", text, err)
		}
		event := fmt.Sprint(e["event"])
		for f := range e {
			if !slices.Contains(fieldsOf[event], f) {
				t.Errorf("docs/audit.md does not say that %s has the field %s", event, f)
			}
		}
		line := []string{event}
		for _, f := range fields {
			v, ok := e[f]
			if !ok {
				v = ""
			}
			line = append(line, fmt.Sprintf("%s=%v", f, v))
		}
		lines = append(lines, strings.Join(line, " "))
	}
	return lines
}

// Fields returns the names of the fields of a line of this event.
func (s *Stream) Fields(t testing.TB, event audit.Event) []string {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for text := range strings.Lines(s.text.String()) {
		var e map[string]any
		if err := json.Unmarshal([]byte(text), &e); err == nil && e["event"] == string(event) {
			return slices.Sorted(maps.Keys(e))
		}
	}
	t.Fatalf("the audit log has no %s:\n%s", event, s.text.String())
	return nil
}

// documented returns which fields events have, by the documentation. A test runs
// in the directory of its package, which is two levels down.
func documented(t testing.TB) map[string][]string {
	t.Helper()
	text, err := os.ReadFile("../../docs/audit.md")
	if err != nil {
		t.Fatal(err)
	}
	events, before := make(map[string][]string), []string(nil)
	for row := range strings.Lines(string(text)) {
		cells := strings.Split(strings.TrimSpace(row), "|")
		if len(cells) != 6 {
			continue // of no table, or of another
		}
		names := []string{"time", "event"}
		names = append(names, words(cells[4])...)
		if strings.Contains(cells[4], "caller's") {
			names = append(names, "by", "by_name", "from", "call")
		}
		if strings.Contains(cells[4], "the same") {
			names = append(names, before...)
		}
		for _, event := range words(cells[1]) {
			events[event] = names
		}
		before = names
	}
	return events
}

// words returns what stands between back quotes.
func words(cell string) (list []string) {
	for i, word := range strings.Split(cell, "`") {
		if i%2 == 1 {
			list = append(list, word)
		}
	}
	return list
}
