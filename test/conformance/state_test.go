//go:build linux

package conformance

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// startKeeping is start with a state directory.
func startKeeping(t testing.TB, f flags) (s *stack, dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "state")
	f.router = append([]string{"--state", dir}, f.router...)
	return start(t, f), dir
}

// crash ends the router as kill -9 does, and starts it again.
func (s *stack) crash(t testing.TB) {
	t.Helper()
	s.router.kill()
	s.startRouter(t)
}

func TestBindingsSurviveCrash(t *testing.T) {
	t.Parallel()
	s, _ := startKeeping(t, flags{ports: 40})
	var before []binding
	for i := range 20 {
		before = append(before, s.bind(t, serve(t, echo).addr, fields{
			"labels": fields{"n": fmt.Sprint(i)}, "idle_timeout": "7m", "max_sessions": i + 1, "allow": []string{"127.0.0.0/8"},
		}))
	}
	s.want(t, 200, "", http.MethodPatch, "/v1/bindings/"+before[0].ID, fields{"ttl": "1h"})
	for tries := 3; ; tries-- { // some time the machine has no other work
		s.router.kill()
		began := time.Now()
		s.router = launch(t, "router, next life", server(t, "router", s.routerFlags...))
		for _, b := range before {
			eventually(t, soon, func() error { return shortSession(b.Address) })
		}
		took := time.Since(began)
		s.router.awaitReady(t, s.api)
		if took <= 2*time.Second {
			break
		}
		t.Logf("all ports serve again %v after the start", took)
		if tries == 0 {
			t.Errorf("all ports serve again %v after the start, want at most 2 s", took)
			break
		}
	}
	for i, b := range before {
		got := s.binding(t, b.ID)
		if got.Port != b.Port || got.Target != b.Target || got.IdleTimeout != "7m0s" || got.MaxSessions != i+1 ||
			got.Labels["n"] != fmt.Sprint(i) || len(got.Allow) != 1 || !got.CreatedAt.Equal(b.CreatedAt) {
			t.Errorf("binding after the crash = %+v, want %+v", got, b)
		}
		if i == 0 && got.ExpiresAt == nil {
			t.Error("the ttl is lost in the crash")
		}
	}
}

func TestQuarantineSurvivesCrash(t *testing.T) {
	t.Parallel()
	s, _ := startKeeping(t, flags{ports: 2})
	tg, other := serve(t, echo), serve(t, echo)
	b := s.bind(t, tg.addr)
	s.release(t, b.ID)
	s.awaitGone(t, b.ID, soon)
	s.crash(t)
	wantRefused(t, b.Address)
	s.want(t, 409, "conflict", http.MethodPost, "/v1/bindings", fields{"target": other.addr, "port": b.Port})
	if o := s.bind(t, other.addr); o.Port == b.Port {
		t.Errorf("another target got port %d, which rests", o.Port)
	}
	if again := s.bind(t, tg.addr); again.Port != b.Port {
		t.Errorf("port after the crash = %d, want %d", again.Port, b.Port)
	}
}

// A binding whose ttl or idle time ends while the router is down is gone after
// it, and its port rests.
func TestExpiryWhileDown(t *testing.T) {
	t.Parallel()
	s, _ := startKeeping(t, flags{})
	short := s.bind(t, serve(t, echo).addr, fields{"ttl": "5s"})
	s.router.kill()
	eventually(t, soon, func() error {
		if left := time.Until(*short.ExpiresAt); left > 0 {
			return fmt.Errorf("%v left", left)
		}
		return nil
	})
	s.startRouter(t)
	s.awaitGone(t, short.ID, soon)
	wantRefused(t, short.Address)
	s.want(t, 409, "conflict", http.MethodPost, "/v1/bindings", fields{"target": serve(t, echo).addr, "port": short.Port})
}

// What was answered is kept, however soon after the answer the crash comes.
func TestAnsweredMeansKept(t *testing.T) {
	t.Parallel()
	s, _ := startKeeping(t, flags{ports: 20})
	for range 5 {
		b := s.bind(t, serve(t, echo).addr)
		s.router.kill()
		s.startRouter(t)
		s.binding(t, b.ID)
		wantEcho(t, connect(t, b.Address))
		s.release(t, b.ID)
		s.router.kill()
		s.startRouter(t)
		s.want(t, 404, "not_found", http.MethodGet, "/v1/bindings/"+b.ID, nil)
		wantRefused(t, b.Address)
	}
}

func TestOrderlyRestartKeepsBindings(t *testing.T) {
	t.Parallel()
	s, _ := startKeeping(t, flags{})
	tg := serve(t, echo)
	b := s.bind(t, tg.addr)
	s.router.signal(t, syscall.SIGTERM)
	if code := s.router.exit(t, soon); code != 0 {
		t.Fatalf("router after SIGTERM: exit status %d, want 0", code)
	}
	s.startRouter(t)
	if again := s.bind(t, tg.addr); again.ID != b.ID || again.Port != b.Port {
		t.Errorf("bind after a restart = %+v, want %+v", again, b)
	}
	wantEcho(t, connect(t, b.Address))
}

// A port that another program took meanwhile does not keep the router down, and
// its binding never shows up on another port.
func TestPortTakenWhileDown(t *testing.T) {
	t.Parallel()
	s, _ := startKeeping(t, flags{})
	taken, kept := s.bind(t, serve(t, echo).addr), s.bind(t, serve(t, echo).addr)
	s.router.kill()
	listen(t, taken.Address, echo)
	s.startRouter(t)
	wantEcho(t, connect(t, kept.Address))
	for _, b := range s.bindings(t, "") {
		if b.Target == taken.Target && b.Port != taken.Port {
			t.Errorf("binding moved to port %d from %d", b.Port, taken.Port)
		}
	}
	if log := s.router.log(t); !strings.Contains(log, fmt.Sprint(taken.Port)) {
		t.Errorf("the log says nothing of port %d, which another program has", taken.Port)
	}
}

// wantNoStart fails the test unless a router with these flags ends at once with
// status 1 and a message that has all the words.
func wantNoStart(t testing.TB, s *stack, words ...string) {
	t.Helper()
	r := launch(t, "router that must not start", server(t, "router", s.routerFlags...))
	if code := r.exit(t, soon); code != 1 {
		t.Errorf("exit status %d, want 1", code)
	}
	for _, word := range words {
		if log := r.log(t); !strings.Contains(log, word) || strings.Contains(log, "goroutine") {
			t.Errorf("stderr = %s, want a sentence with %q", log, word)
		}
	}
}

// files returns the files below a directory.
func files(t testing.TB, dir string) (paths []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			paths = append(paths, path)
		}
		return err
	})
	if err != nil || len(paths) == 0 {
		t.Fatalf("files in %s = %v, %v, want some", dir, paths, err)
	}
	return paths
}

func TestDamagedState(t *testing.T) {
	t.Parallel()
	s, dir := startKeeping(t, flags{})
	for range 3 {
		s.bind(t, serve(t, echo).addr)
	}
	s.router.kill()
	kept := map[string][]byte{}
	for _, path := range files(t, dir) {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if len(b) > 0 {
			kept[path] = b
		}
	}
	for name, damage := range map[string]func(b []byte) []byte{
		"noise":  func(b []byte) []byte { n := make([]byte, len(b)); _, _ = noise(9).Read(n); return n },
		"cut":    func(b []byte) []byte { return b[:len(b)/3] },
		"text":   func([]byte) []byte { return []byte("this is no state of a router\n") },
		"zeroes": func(b []byte) []byte { return make([]byte, len(b)) },
	} {
		t.Run(name, func(t *testing.T) {
			for path, b := range kept {
				if err := os.WriteFile(path, damage(b), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			wantNoStart(t, s, dir)
		})
	}
	for path, b := range kept {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.startRouter(t)
	if got := s.bindings(t, ""); len(got) != 3 {
		t.Errorf("bindings with the state put back = %+v, want 3", got)
	}
}

// TestStateLostWhileServing cuts the file of a router that serves: what there is
// goes on, what is new is not promised, and who supervises it can see why.
func TestStateLostWhileServing(t *testing.T) {
	t.Parallel()
	s, dir := startKeeping(t, flags{})
	b := s.bind(t, serve(t, echo).addr)
	if a := s.want(t, 200, "", http.MethodGet, "/readyz?verbose", nil); !strings.Contains(string(a.body), "[+]store ok") {
		t.Errorf("readyz?verbose = %v, want the store in it", a)
	}
	for _, path := range files(t, dir) {
		if err := os.Truncate(path, 4096); err != nil {
			t.Fatal(err)
		}
	}
	s.want(t, 500, "internal", http.MethodPost, "/v1/bindings", fields{"target": serve(t, echo).addr})
	if a := s.want(t, 200, "", http.MethodGet, "/readyz?verbose", nil); !strings.Contains(string(a.body), "[-]store: "+dir) {
		t.Errorf("readyz?verbose = %v, want it to say that the store takes nothing", a)
	}
	c := connect(t, b.Address)
	wantEcho(t, c)
}

func TestUnusableStateDirectory(t *testing.T) {
	t.Parallel()
	s, dir := startKeeping(t, flags{})
	t.Run("used by another router", func(t *testing.T) {
		first := ports.take(t, 2)
		other := &stack{routerFlags: []string{
			"--state", dir, "--listen", loopback(first), "--ports", fmt.Sprintf("%d-%d", first+1, first+1),
		}}
		wantNoStart(t, other, dir)
	})
	s.router.kill()
	t.Run("is a file", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(file, []byte("text"), 0o600); err != nil {
			t.Fatal(err)
		}
		wantNoStart(t, &stack{routerFlags: append(s.routerFlags, "--state", file)}, file)
	})
	t.Run("read-only", func(t *testing.T) {
		readOnly(t, dir)
		r := server(t, "router", s.routerFlags...)
		asNobody(t, r)
		p := launch(t, "router that must not start", r)
		if code := p.exit(t, soon); code != 1 {
			t.Errorf("exit status %d, want 1", code)
		}
		if log := p.log(t); !strings.Contains(log, dir) {
			t.Errorf("stderr = %s, want a sentence with %s", log, dir)
		}
	})
}
