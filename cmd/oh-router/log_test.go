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

func TestErrorsOfHTTPServers(t *testing.T) {
	var said strings.Builder
	to, end := newLog(&said, config.TextLog, slog.LevelInfo)
	errors := slog.NewLogLogger(serverLog{to.Handler()}, slog.LevelWarn)
	for i := range 100 {
		errors.Printf("http: TLS handshake error from 127.0.0.1:%d: read: \x1b[2J", i+1)
		errors.Printf("http: TLS handshake error from [::1]:%d: EOF", i+1)
	}
	errors.Printf("http: Accept error: no room\n")
	end()
	for _, want := range []string{
		`level=WARN msg="TLS handshake not finished" client=127.0.0.1:1 err="read: \\x1b[2J"`,
		`level=WARN msg="TLS handshake not finished" client=[::1]:1 err=EOF`,
		`level=WARN msg="http: Accept error: no room"`,
		`client=127.0.0.1:100 err="read: \\x1b[2J" count=99`,
		`client=[::1]:100 err=EOF count=99`,
	} {
		if !strings.Contains(said.String(), want+"\n") {
			t.Errorf("the log says\n%s\nwant %s", said.String(), want)
		}
	}
	if n := strings.Count(said.String(), "\n"); n != 5 {
		t.Errorf("%d lines, want 5:\n%s", n, said.String())
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
