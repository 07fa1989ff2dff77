package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// process is a program that runs in the background. Its output goes to a file,
// the end of which is shown when the test fails.
type process struct {
	name  string
	cmd   *exec.Cmd
	log   string        // path of the file
	ended chan struct{} // closed when the program has been waited for
	err   error         // how it ended; read after ended only
	gone  bool          // the test knows that it has ended
}

// start runs cmd until the test's end at the latest. There the stop signal has to
// end it with exit status 0, which a program with data races does not have.
func start(t testing.TB, name string, cmd *exec.Cmd, stop os.Signal) *process {
	t.Helper()
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	p := &process{name: name, cmd: cmd, log: log.Name(), ended: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.ended)
	}()
	t.Cleanup(func() {
		if !p.gone {
			p.stop(t, stop)
		}
		if t.Failed() {
			t.Logf("end of the log of %s:\n%s", name, p.tail())
		}
	})
	return p
}

// running tells whether the program has not ended yet.
func (p *process) running() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// stop asks the program to end and waits for that.
func (p *process) stop(t testing.TB, sig os.Signal) {
	t.Helper()
	if !p.running() {
		t.Errorf("%s has ended by itself: %v", p.name, p.err)
		return
	}
	_ = p.cmd.Process.Signal(sig) // an error says that it has just ended
	p.wait(t)
}

// wait returns when the program, which was asked to, has ended with exit status 0.
func (p *process) wait(t testing.TB) {
	t.Helper()
	p.gone = true
	select {
	case <-p.ended:
		if p.err != nil {
			t.Errorf("the end of %s: %v, want exit status 0", p.name, p.err)
		}
	case <-time.After(30 * time.Second):
		t.Errorf("%s still runs 30 s after it was asked to end", p.name)
		p.kill()
	}
}

// kill ends the program the way kill -9 does, and waits for that.
func (p *process) kill() {
	p.gone = true
	_ = p.cmd.Process.Kill() // an error says that it has just ended
	<-p.ended
}

// tail returns the last lines of what the program wrote.
func (p *process) tail() string {
	const most = 8 << 10
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	if len(b) > most {
		b = b[len(b)-most:]
		_, b, _ = bytes.Cut(b, []byte("\n"))
	}
	return string(b)
}

// program is what serve needs to know to run a server.
type program struct {
	name    string
	command func(port int) *exec.Cmd
	ready   func(ctx context.Context, port int) error // nil once it serves
	stop    os.Signal                                 // asks for an orderly end
}

// serve starts a server on a free port and waits until it is ready. One that
// ends before that is tried twice more on other ports: another program may have
// been faster to take the first.
func serve(t testing.TB, prog program) (*process, int) {
	t.Helper()
	var p *process
	for range 3 {
		port := ports.take(t, 1)
		p = start(t, prog.name, prog.command(port), prog.stop)
		err := poll(t, time.Minute, func(ctx context.Context) error {
			if !p.running() {
				return nil
			}
			return prog.ready(ctx, port)
		})
		if err != nil {
			t.Fatalf("%s is not ready: %v", prog.name, err)
		}
		if p.running() {
			return p, port
		}
		p.gone = true
	}
	t.Fatalf("%s ends instead of serving: %v\n%s", prog.name, p.err, p.tail())
	return nil, 0
}

// poll calls ask until it returns nil, and returns its last error if that does
// not happen within the limit.
func poll(t testing.TB, limit time.Duration, ask func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ask(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("for %v: %w", limit, err)
		case <-tick.C:
		}
	}
}

// eventually fails the test if ask does not return nil within the limit.
func eventually(t testing.TB, limit time.Duration, ask func(ctx context.Context) error) {
	t.Helper()
	if err := poll(t, limit, ask); err != nil {
		t.Fatal(err)
	}
}

// output runs a client to its end and returns what it wrote to stdout. The error
// has what it wrote to stderr.
func output(cmd *exec.Cmd) (string, error) {
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := explain(cmd.Run(), cmd, &errs)
	return out.String(), err
}

// explain adds to a client's error which client it was and what it wrote to stderr.
func explain(err error, cmd *exec.Cmd, stderr *bytes.Buffer) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, stderr)
}

// inBackground starts a client and returns a func that does the rest of output.
func inBackground(t testing.TB, cmd *exec.Cmd) func() (string, error) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Wait() }) // a second time, unless the test has failed
	return func() (string, error) {
		err := explain(cmd.Wait(), cmd, &errs)
		return out.String(), err
	}
}

// succeed is output for a client that must exit with 0.
func succeed(t testing.TB, cmd *exec.Cmd) string {
	t.Helper()
	out, err := output(cmd)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// need returns the path of an installed program. Without it the test is
// skipped, or fails where the servers are required.
func need(t testing.TB, name string) string {
	t.Helper()
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	// Debian keeps servers out of a user's PATH, PostgreSQL's even out of root's.
	for _, pattern := range []string{"/usr/sbin/", "/usr/local/sbin/", "/usr/lib/postgresql/*/bin/"} {
		found, _ := filepath.Glob(pattern + name)
		for _, path := range slices.Backward(found) { // the newest version first
			if path, err := exec.LookPath(path); err == nil {
				return path
			}
		}
	}
	if os.Getenv("OH_ROUTER_REQUIRE_SERVERS") == "1" {
		t.Fatalf("%s is not installed: make test-deps", name)
	}
	t.Skipf("%s is not installed: make test-deps", name)
	return ""
}

// dataDir returns a directory for a server's files that belongs to the account
// it runs as.
func dataDir(t testing.TB, account string) string {
	t.Helper()
	dir := t.TempDir()
	// Other accounts have to pass through the directory that holds it.
	if err := os.Chmod(filepath.Dir(dir), 0o711); err != nil {
		t.Fatal(err)
	}
	giveTo(t, dir, account)
	return dir
}
