package main

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/ohrouter/oh-router/internal/audit"
	"github.com/ohrouter/oh-router/internal/config"
)

func TestLogOfForeignTexts(t *testing.T) {
	const token = "ohr_canary"
	foreign := "\x1b[2J\u202e\u009b31m\nlevel=ERROR " + token + strings.Repeat("x", 1<<20)
	for _, format := range []config.LogFormat{config.TextLog, config.JSONLog} {
		var said strings.Builder
		log, end := newLog(&said, format, slog.LevelInfo)
		log.Info("said", "text", foreign, "err", errors.New(foreign), "took", time.Second)
		end()
		got := said.String()
		if strings.Count(got, "\n") != 1 || len(got) > 4*maxLogged || strings.ContainsAny(got, "\x1b\u202e\u009b") || strings.Contains(got, token) {
			t.Errorf("%s: %.9000q, want one line without what cannot be seen, cut, and no token", format, got)
		}
		if !strings.Contains(got, "ohr_…") || !strings.Contains(got, `1s`) {
			t.Errorf("%s: %.200q, want what can be said", format, got)
		}
	}
}

// TestStrangersAreSummed: what is said of strangers has a limit, whatever else
// the line has.
func TestStrangersAreSummed(t *testing.T) {
	var said strings.Builder
	log, end := newLog(&said, config.JSONLog, slog.LevelInfo)
	for i := range 10_000 {
		log.With("proxy", "east").Warn("link refused", "router", audit.Stranger{}, "code", "unauthorized", "err", fmt.Errorf("for %d", i))
	}
	end()
	if n := strings.Count(said.String(), "\n"); n != 2 || !strings.Contains(said.String(), `"count":9999`) {
		t.Errorf("%d lines:\n%s\nwant one, and one of the others", n, said.String())
	}
}
