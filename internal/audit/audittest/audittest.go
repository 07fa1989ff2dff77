// Package audittest lets tests read the audit log of what they test.
package audittest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
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
// not have is empty.
func (s *Stream) Lines(t testing.TB, fields ...string) (lines []string) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for text := range strings.Lines(s.text.String()) {
		var e map[string]any
		if err := json.Unmarshal([]byte(text), &e); err != nil {
			t.Fatalf("the audit log has the line %q: %v", text, err)
		}
		line := []string{fmt.Sprint(e["event"])}
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
