//go:build linux

package conformance

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// cli runs a client command against the stack.
func (s *stack) cli(t testing.TB, args ...string) result {
	t.Helper()
	env := []string{"OH_ROUTER_SERVER=" + s.api}
	if s.secured {
		env = append(env, "OH_ROUTER_CA_FILE="+secured.ca, "OH_ROUTER_TOKEN_FILE="+secured.token)
	}
	return command(t, env, args...)
}

// wantCode fails the test unless a command has ended with a status, and has
// written to stdout only when that is 0.
func wantCode(t testing.TB, r result, code int, args ...string) {
	t.Helper()
	if r.code != code {
		t.Errorf("oh-router %q: exit status %d, want %d\nstdout: %s\nstderr: %s", args, r.code, code, r.stdout, r.stderr)
	}
	if code != 0 && (r.stdout != "" || r.stderr == "") {
		t.Errorf("oh-router %q: stdout %q, stderr %q, want the reason on stderr alone", args, r.stdout, r.stderr)
	}
	if strings.Contains(r.stdout+r.stderr, "\x1b[") {
		t.Errorf("oh-router %q: colour without a terminal: %q", args, r.stdout+r.stderr)
	}
}

func TestClientCommands(t *testing.T) {
	t.Parallel()
	s := start(t, flags{})
	tg := serve(t, echo)
	r := s.cli(t, "bind", tg.addr)
	wantCode(t, r, 0, "bind")
	b := s.bindings(t, "")[0]
	if r.stdout != b.Address+"\n" {
		t.Errorf("bind prints %q, want %q alone", r.stdout, b.Address+"\n")
	}
	held := connect(t, b.Address)
	wantEcho(t, held)
	for _, list := range []struct{ name, id string }{{"bindings", b.ID}, {"sessions", s.sessions(t, "")[0].ID}, {"proxies", s.link}} {
		for _, format := range []string{"table", "wide", "json", "name"} {
			r := s.cli(t, list.name, "-o", format)
			wantCode(t, r, 0, list.name, "-o", format)
			if format != "table" && !strings.Contains(r.stdout, list.id) {
				t.Errorf("%s -o %s prints %q, want %s in it", list.name, format, r.stdout, list.id)
			}
			if format == "name" && strings.TrimSpace(r.stdout) != list.id {
				t.Errorf("%s -o name prints %q, want %q", list.name, r.stdout, list.id)
			}
			if format == "json" && !json.Valid([]byte(r.stdout)) {
				t.Errorf("%s -o json prints %q", list.name, r.stdout)
			}
		}
		wantCode(t, s.cli(t, list.name, "-o", "nonsense"), 2, list.name, "-o nonsense")
	}
	wantCode(t, s.cli(t, "kill", s.sessions(t, "")[0].ID), 0, "kill")
	wantReset(t, held, "client of a killed session", 0)
	wantCode(t, s.cli(t, "kill", "s-none"), 1, "kill", "s-none")
	wantCode(t, s.cli(t, "unbind", tg.addr), 0, "unbind")
	s.awaitGone(t, b.ID, soon)
	wantCode(t, s.cli(t, "unbind", tg.addr), 1, "unbind again")
	s.cli(t, "bind", tg.addr)
	wantCode(t, s.cli(t, "unbind", s.bindings(t, "")[0].ID), 0, "unbind ID")
}

func TestClientFailures(t *testing.T) {
	t.Parallel()
	s := start(t, flags{})
	refused := closedPort(t)
	tests := []struct {
		args []string
		code int
		says string
	}{
		{[]string{"bind", refused}, 1, "target_refused"},
		{[]string{"bind", "192.0.2.1:80"}, 1, "target_denied"},
		{[]string{"bind", "nonsense"}, 0, "nonsense"}, // 1 or 2: who finds it is open
		{[]string{"bind", "--server", "http://" + refused, "a:1"}, 1, refused},
		{[]string{"bindings", "--server", "nonsense"}, 0, "nonsense"},
		{[]string{"bind"}, 2, ""},
		{[]string{"bind", "a:1", "b:1"}, 2, ""},
		{[]string{"unbind"}, 2, ""},
		{[]string{"kill"}, 2, ""},
		{[]string{"bindings", "extra"}, 2, "extra"},
		{[]string{"nonsense"}, 2, "nonsense"},
		{[]string{"bindings", "--nonsense"}, 2, "nonsense"},
		{[]string{"router", "--ports", "nine"}, 2, "ports"},
		{[]string{"router", "--ports", "30-20"}, 2, "ports"},
		{[]string{"router", "--idle-timeout", "soon"}, 2, "idle-timeout"},
		{[]string{"router", "--park", "31s"}, 2, "park"},
		{[]string{"router", "--log-level", "loud"}, 2, "log-level"},
		{[]string{"router", "--listen", "nonsense"}, 2, "listen"},
		{[]string{"proxy", "--allow", "nonsense"}, 2, "allow"},
		{[]string{"proxy", "--dial-timeout", "-1s"}, 2, "dial-timeout"},
		{[]string{"router", "extra"}, 2, "extra"},
	}
	for _, tt := range tests {
		r := s.cli(t, tt.args...)
		if tt.code == 0 && (r.code == 1 || r.code == 2) {
			tt.code = r.code
		}
		wantCode(t, r, tt.code, tt.args...)
		if !strings.Contains(r.stderr, tt.says) || strings.Contains(r.stderr, "goroutine") {
			t.Errorf("oh-router %q says %q, want %q in it", tt.args, r.stderr, tt.says)
		}
	}
}

func TestHelpAndVersion(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"help"}, {"--help"}, {"router", "--help"}, {"help", "bind"}, {"version"}, {"completion", "bash"}, {"completion", "zsh"}, {"completion", "fish"}} {
		r := command(t, nil, args...)
		wantCode(t, r, 0, args...)
		if r.stdout == "" || r.stderr != "" {
			t.Errorf("oh-router %q: stdout %d bytes, stderr %q, want it all on stdout", args, len(r.stdout), r.stderr)
		}
	}
	if r := command(t, nil, "version", "-o", "json"); !json.Valid([]byte(r.stdout)) {
		t.Errorf("version -o json prints %q", r.stdout)
	}
}

// Without a router or a free port a server says so and ends; it never stays half up.
func TestServerFailures(t *testing.T) {
	t.Parallel()
	s := start(t, flags{})
	taken := s.api[len("http://"):]
	for _, args := range [][]string{
		{"router", "--state", "none", "--listen", taken},
		{"proxy", "--listen", s.link},
		{"proxy", "--listen", "127.0.0.1:0", "--metrics", taken},
		{"up", "--listen", taken},
	} {
		r := command(t, nil, args...)
		wantCode(t, r, 1, args...)
	}
	for _, args := range [][]string{
		{"router", "--state", "none", "--listen", "0.0.0.0:0"},
		{"router", "--state", "none", "--listen", "127.0.0.1:0", "--bind-address", "0.0.0.0"},
		{"proxy", "--listen", "0.0.0.0:0"},
		{"proxy", "--listen", "[::]:0"},
		{"proxy", "--listen", ":0"},
		{"up", "--listen", "0.0.0.0:0"},
	} {
		r := command(t, nil, args...)
		if r.code != 1 && r.code != 2 || !strings.Contains(r.stderr, "--insecure") {
			t.Errorf("oh-router %q: exit status %d, stderr %q, want a refusal that names --insecure", args, r.code, r.stderr)
		}
	}
}

// A client command that is interrupted says so by its exit status.
func TestInterruptedCommand(t *testing.T) {
	t.Parallel()
	s := start(t, flags{proxy: []string{"--dial-timeout", "30s"}})
	cmd := exec.Command(program, "bind", deaf(t), "--server", s.api)
	cmd.Env = environment(t)
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, soon, func() error {
		for series, value := range scrape(t, s.api) {
			if strings.HasPrefix(series, "ohrouter_links{") && value != "0" {
				return nil
			}
		}
		return fmt.Errorf("no link: the command has not called yet")
	})
	start := time.Now()
	_ = cmd.Process.Signal(syscall.SIGINT)
	_ = cmd.Wait() // ProcessState tells how it ended
	if code := cmd.ProcessState.ExitCode(); code != 130 || out.Len() > 0 || time.Since(start) > 3*time.Second {
		t.Errorf("interrupted bind: exit status %d after %v, stdout %q, want 130 at once", code, time.Since(start), &out)
	}
}

func TestUp(t *testing.T) {
	t.Parallel()
	tg, other := serve(t, echo), serve(t, echo)
	first := ports.take(t, 5)
	home := t.TempDir()
	cmd := exec.Command(program, "up", "--listen", loopback(first), "--ports", fmt.Sprintf("%d-%d", first+1, first+4), "--bind", tg.addr, "--bind", other.addr)
	cmd.Env = append(environment(t), "HOME="+home)
	cmd.Dir = home
	p := launch(t, "up", cmd)
	s := &stack{api: "http://" + loopback(first)}
	p.awaitReady(t, s.api)
	var lines []string
	eventually(t, soon, func() error {
		b, err := os.ReadFile(p.stdout)
		if lines = strings.Fields(string(b)); err != nil || len(lines) != 2 {
			return fmt.Errorf("stdout = %q, %v, want two addresses", b, err)
		}
		return nil
	})
	for _, addr := range lines {
		wantEcho(t, connect(t, addr))
	}
	if b := s.bind(t, tg.addr); b.Address != lines[0] {
		t.Errorf("first --bind printed %s, want %s", lines[0], b.Address)
	}
	if left, _ := filepath.Glob(filepath.Join(home, "*")); len(left) > 0 {
		t.Errorf("up left %v in its home", left)
	}
	// up dials loopback without more words.
	s.want(t, 200, "", "GET", "/route/bind/"+strings.Replace(tg.addr, ":", "/", 1), nil)
}

// A mapped port is no target: two of them that lead to each other would be a
// session without end.
func TestUpDoesNotLoop(t *testing.T) {
	t.Parallel()
	first := ports.take(t, 4)
	p := launch(t, "up", server(t, "up", "--listen", loopback(first), "--ports", fmt.Sprintf("%d-%d", first+1, first+3)))
	s := &stack{api: "http://" + loopback(first)}
	p.awaitReady(t, s.api)
	a := s.bind(t, loopback(first+2), fields{"port": first + 1, "check": false})
	b := s.bind(t, loopback(first+1), fields{"port": first + 2, "check": false})
	self := s.bind(t, loopback(first+3), fields{"port": first + 3, "check": false})
	for _, addr := range []string{a.Address, b.Address, self.Address} {
		wantResetAt(t, addr)
	}
	awaitMetric(t, s.api, outcome("target_denied"), "3")
	s.want(t, 403, "target_denied", http.MethodPost, "/v1/bindings", fields{"target": fmt.Sprintf("localhost:%d", first+1)})
}

// A --bind that fails is told at once, with the reason.
func TestUpWithBadTarget(t *testing.T) {
	t.Parallel()
	first := ports.take(t, 3)
	args := []string{"up", "--listen", loopback(first), "--ports", fmt.Sprintf("%d-%d", first+1, first+2), "--bind", closedPort(t)}
	r := command(t, nil, args...)
	wantCode(t, r, 1, args...)
	if !strings.Contains(r.stderr, "target_refused") {
		t.Errorf("up says %q, want target_refused in it", r.stderr)
	}
}
