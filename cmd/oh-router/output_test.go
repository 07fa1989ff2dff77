package main

import (
	"math"
	"testing"
	"time"
)

func TestBytesText(t *testing.T) {
	tests := map[uint64]string{
		0:              "0 B",
		1023:           "1023 B",
		1024:           "1.0 KiB",
		1536:           "1.5 KiB",
		1<<20 - 1:      "1.0 MiB",
		5 << 30:        "5.0 GiB",
		math.MaxUint64: "16.0 EiB",
	}
	for n, want := range tests {
		if got := bytesText(n); got != want {
			t.Errorf("bytesText(%d) = %q, want %q", n, got, want)
		}
	}
}

func TestAgeText(t *testing.T) {
	tests := map[time.Duration]string{
		-time.Hour:                      "0s",
		59*time.Second + 1:              "59s",
		time.Minute:                     "1m",
		59*time.Minute + 59*time.Second: "59m",
		47 * time.Hour:                  "47h",
		49 * time.Hour:                  "2d",
	}
	for d, want := range tests {
		if got := ageText(d); got != want {
			t.Errorf("ageText(%v) = %q, want %q", d, got, want)
		}
	}
	now := time.Now()
	if got := agoText(now, now.Add(time.Hour)); got != "now" {
		t.Errorf("agoText of the future = %q, want now", got)
	}
}

func TestExpiresText(t *testing.T) {
	now := time.Now()
	for left, want := range map[time.Duration]string{
		-time.Second: "in 0s", time.Minute - time.Millisecond: "in 1m", time.Hour - time.Second: "in 1h", 8*time.Hour - time.Second: "in 8h",
		59*time.Minute + 20*time.Second: "in 59m", 720*time.Hour - time.Second: "in 30d", 48*time.Hour - time.Second: "in 2d",
	} {
		if got := expiresText(now, new(now.Add(left))); got != want {
			t.Errorf("expiresText of %v from now = %q, want %q", left, got, want)
		}
	}
}

func TestPrintable(t *testing.T) {
	tests := map[string]string{
		"":                     "",
		"größe 10 µs":          "größe 10 µs",
		"a\tb\nc":              `a\tb\nc`,
		"\x1b[2J":              `\x1b[2J`,
		"\u202egnp.exe":        `\u202egnp.exe`,
		"\xff\xfe":             "\ufffd\ufffd",
		"csi\u009b31m\u200b":   `csi\u009b31m\u200b`,
		"backslash \\n is two": `backslash \n is two`,
	}
	for s, want := range tests {
		if got := printable(s); got != want {
			t.Errorf("printable(%q) = %q, want %q", s, got, want)
		}
	}
}
