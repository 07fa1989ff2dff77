//go:build linux

package conformance

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
)

// program is the path of the program under test, scratch a directory for what
// all tests share; TestMain sets them.
var program, scratch string

func TestMain(m *testing.M) {
	flag.Parse()
	// Most tests wait rather than compute: more of them at once than there are
	// cores save minutes. Those that measure are not parallel.
	if err := flag.Set("test.parallel", "8"); err != nil {
		panic(err)
	}
	dir, err := os.MkdirTemp("", "oh-router-conformance-")
	if err == nil {
		scratch = dir
		program, err = build(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "build oh-router:", err)
		os.RemoveAll(dir)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		os.RemoveAll(dir)
		os.Exit(code)
	}))
}

// build compiles the program into dir, with the race detector when the test
// itself has it, and returns its path.
func build(dir string) (string, error) {
	if path := os.Getenv("OH_ROUTER_BINARY"); path != "" {
		return filepath.Abs(path)
	}
	path := filepath.Join(dir, "oh-router")
	args := []string{"build", "-o", path}
	if raceEnabled {
		args = append(args, "-race")
	}
	out, err := exec.Command("go", append(args, "github.com/ohrouter/oh-router/cmd/oh-router")...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
}

// big skips a test that moves or opens much when -short is given.
func big(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("left out by -short")
	}
}
