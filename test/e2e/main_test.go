package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
)

// ohRouter is the path of the program under test; TestMain sets it.
var ohRouter string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "oh-router-e2e-bin-")
	if err == nil {
		ohRouter, err = build(dir)
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
// itself has it, and returns its path. OH_ROUTER_BINARY names one that is there
// already, such as a package's.
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
