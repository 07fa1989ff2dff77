package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ohrouter/oh-router/test/bench/report"
)

// facts describes the machine and the run, as far as figures depend on it.
func facts(o *options) []report.Fact {
	closing := "FIN"
	if o.reset {
		closing = "RST"
	}
	return []report.Fact{
		{Name: "kernel", Value: kernel()},
		{Name: "processor", Value: fmt.Sprintf("%s, %d cores", field("/proc/cpuinfo", "model name"), runtime.NumCPU())},
		{Name: "memory", Value: field("/proc/meminfo", "MemTotal")},
		{Name: "congestion control", Value: line("/proc/sys/net/ipv4/tcp_congestion_control")},
		{Name: "Go", Value: runtime.Version()},
		{Name: "rounds", Value: fmt.Sprintf("%d, windows of %v after %v", o.rounds, o.window, o.warmup)},
		{Name: "crr clients", Value: "close with " + closing + ", connect from 16 addresses"},
		{Name: "idle sessions", Value: fmt.Sprint(o.idle)},
	}
}

func kernel() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(u.Sysname[:]) + " " + unix.ByteSliceToString(u.Release[:]) + " " + unix.ByteSliceToString(u.Machine[:])
}

// line returns the first line of a file.
func line(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return "unknown"
	}
	first, _, _ := strings.Cut(string(b), "\n")
	return first
}

// field returns the value of the first line "key: value" of a file.
func field(path, key string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return "unknown"
	}
	for l := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(l, ":"); ok && strings.TrimSpace(k) == key {
			return strings.TrimSpace(v)
		}
	}
	return "unknown"
}

// show prints the report and writes the files that were asked for.
func (b *benchmark) show() error {
	if err := b.report.Markdown(os.Stdout); err != nil {
		return err
	}
	if b.opts.markdown != "" {
		if err := write(b.opts.markdown, func(f *os.File) error { return b.report.Markdown(f) }); err != nil {
			return err
		}
	}
	if b.opts.json != "" {
		if err := write(b.opts.json, func(f *os.File) error { return b.report.JSON(f) }); err != nil {
			return err
		}
	}
	if b.opts.svg == "" {
		return nil
	}
	if err := os.MkdirAll(b.opts.svg, 0o755); err != nil {
		return err
	}
	for _, g := range b.report.Groups {
		path := filepath.Join(b.opts.svg, "bench-"+g.ID+".svg")
		if err := write(path, func(f *os.File) error { return b.report.SVG(f, g) }); err != nil {
			return err
		}
	}
	return nil
}

// write makes a file.
func write(path string, content func(*os.File) error) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := content(f); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
