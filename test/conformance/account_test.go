//go:build linux

package conformance

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// nobody is an account without rights, for tests that run as root: root may
// write what is read-only.
const nobody = 65534

// asNobody makes a command run without root's rights.
func asNobody(t testing.TB, cmd *exec.Cmd) {
	t.Helper()
	if os.Getuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		passable(t, filepath.Dir(program))
	}
}

// readOnly takes the right to write from a directory and what is in it, until
// the test's end.
func readOnly(t testing.TB, dir string) {
	t.Helper()
	change := func(file, folder fs.FileMode) {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if d.IsDir() {
				return os.Chmod(path, folder)
			}
			return os.Chmod(path, file)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	change(0o444, 0o555)
	t.Cleanup(func() { change(0o600, 0o700) })
	passable(t, filepath.Dir(dir))
}

// passable lets other accounts pass through a directory of the tests and the
// one above it, both of which are ours.
func passable(t testing.TB, dir string) {
	t.Helper()
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if d == filepath.Clean(os.TempDir()) {
			return
		}
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}
