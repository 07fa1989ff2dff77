//go:build linux

package conformance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// soon is how long anything may take that happens at once. It is generous: the
// machine may be busy with other tests.
const soon = 10 * time.Second

// process is a server that runs in the background. Its output goes to files,
// the end of which is shown when the test fails.
type process struct {
	name           string
	cmd            *exec.Cmd
	stdout, stderr string        // paths of the files
	ended          chan struct{} // closed when the process has been waited for
	asked          bool          // the test ends it, or has seen its end
}

// launch runs a command until the test's end at the latest. There SIGTERM must
// end it with exit status 0, which a program with data races does not have.
func launch(t testing.TB, name string, cmd *exec.Cmd) *process {
	t.Helper()
	dir := t.TempDir()
	p := &process{
		name: name, cmd: cmd, ended: make(chan struct{}),
		stdout: filepath.Join(dir, "stdout"), stderr: filepath.Join(dir, "stderr"),
	}
	out, err1 := os.Create(p.stdout)
	errs, err2 := os.Create(p.stderr)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	defer errs.Close()
	cmd.Stdout, cmd.Stderr = out, errs
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL // not to outlive a test that is cut off
	if err := cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	go func() {
		_ = cmd.Wait() // ProcessState tells how it ended
		close(p.ended)
	}()
	t.Cleanup(func() { p.cleanup(t) })
	return p
}

func (p *process) cleanup(t testing.TB) {
	if !p.asked {
		p.signal(t, syscall.SIGTERM)
		if code := p.exit(t, 15*time.Second); code != 0 {
			t.Errorf("%s at the test's end: exit status %d, want 0", p.name, code)
		}
	}
	p.kill()
	log := p.log(t)
	for _, bad := range []string{"panic:", "DATA RACE", "fatal error:"} {
		if strings.Contains(log, bad) {
			t.Errorf("log of %s has %q", p.name, bad)
		}
	}
	if t.Failed() {
		if len(log) > 8<<10 {
			log = "…" + log[len(log)-8<<10:]
		}
		t.Logf("end of the log of %s:\n%s", p.name, log)
	}
}

// signal sends a signal to a process that should be there.
func (p *process) signal(t testing.TB, sig syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		t.Errorf("%v to %s: %v", sig, p.name, err)
	}
}

// stop halts the process with all its threads, until SIGCONT or the test's end.
func (p *process) stop(t testing.TB) {
	t.Helper()
	p.signal(t, syscall.SIGSTOP)
	t.Cleanup(func() { _ = p.cmd.Process.Signal(syscall.SIGCONT) }) // an error says that it has ended
	stats := fmt.Sprintf("/proc/%d/task/*/stat", p.cmd.Process.Pid)
	eventually(t, soon, func() error {
		threads, _ := filepath.Glob(stats)
		for _, path := range threads {
			b, err := os.ReadFile(path)
			if _, state, _ := bytes.Cut(b, []byte(") ")); err == nil && state[0] != 'T' {
				return fmt.Errorf("a thread of %s still runs: %s", p.name, b)
			}
		}
		return nil
	})
}

// exit waits for the process's end, returns its exit status, and fails the test
// when it does not end within the limit.
func (p *process) exit(t testing.TB, limit time.Duration) int {
	t.Helper()
	p.asked = true
	select {
	case <-p.ended:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(limit):
		t.Errorf("%s still runs after %v, want its end", p.name, limit)
		p.kill()
		return -1
	}
}

// kill ends the process the way kill -9 does, and waits for that.
func (p *process) kill() {
	p.asked = true
	_ = p.cmd.Process.Kill() // an error says that it has ended
	<-p.ended
}

// running tells whether the process has not ended yet.
func (p *process) running() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// log returns what the process wrote to stderr.
func (p *process) log(t testing.TB) string {
	t.Helper()
	b, err := os.ReadFile(p.stderr)
	if err != nil {
		t.Error(err)
	}
	return string(b)
}

// descriptors returns how many the process has open.
func (p *process) descriptors(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// rss returns the memory that the process has resident, in bytes.
func (p *process) rss(t testing.TB) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(b))[1])
	if err != nil {
		t.Fatal(err)
	}
	return pages * os.Getpagesize()
}

// eventually fails the test if ask does not return nil within the limit.
func eventually(t testing.TB, limit time.Duration, ask func() error) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for {
		err := ask()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("for %v: %v", limit, err)
		}
		pause()
	}
}

// stays fails the test if ask does not return nil all the time.
func stays(t testing.TB, span time.Duration, ask func() error) {
	t.Helper()
	for start := time.Now(); time.Since(start) < span; pause() {
		if err := ask(); err != nil {
			t.Fatalf("after %v of %v: %v", time.Since(start).Round(time.Millisecond), span, err)
		}
	}
}

// pause is the time between two looks.
func pause() { <-time.After(10 * time.Millisecond) }

// result is what a command that ended has left.
type result struct {
	code           int
	stdout, stderr string
}

// command runs the program to its end with these variables added to an
// environment that has none of its own.
func command(t testing.TB, env []string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*soon)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = environment(t, env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if ctx.Err() != nil {
		t.Fatalf("oh-router %q does not end; stderr: %s", args, &errs)
	}
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		t.Fatalf("oh-router %q: %v", args, err)
	}
	return result{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

// environment returns the variables of a user who has set nothing but these. The
// race detector would sleep for a second at the end of each process.
func environment(t testing.TB, vars ...string) []string {
	home := t.TempDir()
	return append([]string{"HOME=" + home, "PATH=" + os.Getenv("PATH"), "TMPDIR=" + os.TempDir(), "GORACE=atexit_sleep_ms=10"}, vars...)
}
