//go:build linux

package conformance

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestConfigCheck(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, text string
		code       int
		says       []string
	}{
		{"empty", "", 0, nil},
		{"all sections", "log_level: debug\ndrain_timeout: 5s\nrouter:\n  listen: 127.0.0.1:8081\n  ports: 20000-20100\n  proxy: [\"east=127.0.0.1:9000\"]\nproxy:\n  allow: [\"10.0.0.0/8:3306,5432\", any]\n", 0, nil},
		{"unknown key", "router:\n  lisen: 127.0.0.1:8081\n", 1, []string{"router", "lisen"}},
		{"unknown section", "rooter:\n  listen: 127.0.0.1:8081\n", 1, []string{"rooter"}},
		{"wrong type", "router:\n  idle_timeout: [1]\n", 1, []string{"idle_timeout"}},
		{"bad duration", "router:\n  idle_timeout: soon\n", 1, []string{"idle_timeout", "soon"}},
		{"bad pattern", "proxy:\n  allow: [nonsense]\n", 1, []string{"allow", "nonsense"}},
		{"bad ports", "router:\n  ports: 9-5\n", 1, []string{"ports"}},
		{"bad level", "log_level: loud\n", 1, []string{"log_level", "loud"}},
		{"not YAML", "router: [\n", 1, nil},
		{"key twice", "log_level: info\nlog_level: warn\n", 1, []string{"log_level"}},
		{"park too long", "router:\n  park: 31s\n", 1, []string{"park"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "oh-router.yaml")
			write(t, file, tt.text)
			r := command(t, nil, "config", "check", file)
			if r.code != tt.code {
				t.Errorf("exit status %d, want %d; stderr: %s", r.code, tt.code, r.stderr)
			}
			for _, word := range tt.says {
				if !strings.Contains(r.stdout+r.stderr, word) {
					t.Errorf("says %q, want %q in it", r.stdout+r.stderr, word)
				}
			}
			if tt.code != 0 && !strings.Contains(r.stdout+r.stderr, file) {
				t.Errorf("says %q, want the file's name in it", r.stdout+r.stderr)
			}
		})
	}
	if r := command(t, nil, "config", "check", filepath.Join(t.TempDir(), "none.yaml")); r.code != 1 {
		t.Errorf("config check of no file: exit status %d, want 1", r.code)
	}
	if r := command(t, nil, "config", "check"); r.code != 2 {
		t.Errorf("config check without a file: exit status %d, want 2", r.code)
	}
}

// Flag wins over environment wins over file wins over default.
func TestPrecedence(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "oh-router.yaml")
	write(t, file, "router:\n  idle_timeout: 11m\n")
	const variable = "OH_ROUTER_IDLE_TIMEOUT=12m"
	tests := []struct {
		name  string
		env   []string
		flags []string
		want  string
	}{
		{"default", nil, nil, "5m0s"},
		{"file", nil, []string{"-c", file}, "11m0s"},
		{"environment over file", []string{variable}, []string{"-c", file}, "12m0s"},
		{"flag over all", []string{variable}, []string{"-c", file, "--idle-timeout", "13m"}, "13m0s"},
	}
	tg := serve(t, echo)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			first := ports.take(t, 4)
			cmd := exec.Command(program, append([]string{
				"router", "--state", "none", "--listen", loopback(first), "--proxy", closedPort(t),
				"--ports", fmt.Sprintf("%d-%d", first+1, first+3),
			}, tt.flags...)...)
			cmd.Env = environment(t, tt.env...)
			r := launch(t, "router", cmd)
			s := &stack{api: "http://" + loopback(first)}
			r.awaitReady(t, s.api)
			if b := s.bind(t, tg.addr, fields{"check": false}); b.IdleTimeout != tt.want {
				t.Errorf("idle_timeout = %s, want %s", b.IdleTimeout, tt.want)
			}
		})
	}
}

// Lists in the environment are separated by commas.
func TestListsInEnvironment(t *testing.T) {
	t.Parallel()
	tg, other := serve(t, echo), serve(t, echo)
	first := ports.take(t, 6)
	proxy := exec.Command(program, "proxy", "--listen", loopback(first), "--metrics", loopback(first+1))
	proxy.Env = environment(t, fmt.Sprintf("OH_ROUTER_ALLOW=127.0.0.1/32:%s,127.0.0.1/32:%s", portOf(tg.addr), portOf(other.addr)))
	launch(t, "proxy", proxy).awaitReady(t, "http://"+loopback(first+1))
	s := &stack{api: "http://" + loopback(first+2), routerFlags: []string{
		"--listen", loopback(first + 2), "--proxy", loopback(first), "--state", "none", "--ports", fmt.Sprintf("%d-%d", first+3, first+5),
	}}
	s.startRouter(t)
	for _, target := range []string{tg.addr, other.addr} {
		wantEcho(t, connect(t, s.bind(t, target).Address))
	}
}

// State goes where the service manager says, unless the flag says otherwise.
func TestStateDirectoryVariable(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first := ports.take(t, 3)
	cmd := exec.Command(program, "router", "--listen", loopback(first), "--ports", fmt.Sprintf("%d-%d", first+1, first+2))
	cmd.Env = environment(t, "STATE_DIRECTORY="+dir)
	r := launch(t, "router", cmd)
	r.awaitReady(t, "http://"+loopback(first))
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) == 0 {
		t.Errorf("files in $STATE_DIRECTORY = %v, %v, want some", entries, err)
	}
}

// A mistake in the file or the environment keeps a server from starting.
func TestBadConfigurationStopsStart(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "oh-router.yaml")
	write(t, file, "router:\n  idle_timeut: 5m\n")
	for name, r := range map[string]result{
		"idle_timeut":            command(t, nil, "router", "-c", file),
		"OH_ROUTER_IDLE_TIMEOUT": command(t, []string{"OH_ROUTER_IDLE_TIMEOUT=soon"}, "router", "--state", "none"),
		"none.yaml":              command(t, nil, "router", "-c", "none.yaml"),
	} {
		if r.code != 1 && r.code != 2 || !strings.Contains(r.stderr, name) || r.stdout != "" {
			t.Errorf("router with a mistake in %s: exit status %d, stdout %q, stderr %q", name, r.code, r.stdout, r.stderr)
		}
	}
}
