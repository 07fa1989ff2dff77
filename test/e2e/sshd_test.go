package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestSSH(t *testing.T) {
	t.Parallel()
	s := startSSHD(t)
	addr := startPair(t).bind(t, s.addr)

	t.Run("command", func(t *testing.T) { sshCommand(t, s, addr) })
	t.Run("stdin to its end", func(t *testing.T) { sshHalfClose(t, s, addr) })
	t.Run("scp", func(t *testing.T) { scpUpAndDown(t, s, addr) })
}

// sshCommand runs commands whose output and exit status have to come back.
func sshCommand(t *testing.T, s *sshd, addr string) {
	if got := succeed(t, s.command(t.Context(), addr, "echo it works")); got != "it works\n" {
		t.Errorf("echo = %q, want it works", got)
	}
	out, err := output(s.command(t.Context(), addr, "seq 200000; exit 42"))
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok || exit.ExitCode() != 42 {
		t.Errorf("exit 42: %v, want exit status 42", err)
	}
	var want strings.Builder
	for i := range 200_000 {
		fmt.Fprintln(&want, i+1)
	}
	if out != want.String() {
		t.Errorf("output before the exit = %d bytes that differ from the %d wanted", len(out), want.Len())
	}
}

// sshHalfClose sends a stream to a command that answers at its end.
func sshHalfClose(t *testing.T, s *sshd, addr string) {
	const size = 16 << 20
	cmd := s.command(t.Context(), addr, "wc -c")
	cmd.Stdin = bytes.NewReader(make([]byte, size))
	if got := strings.TrimSpace(succeed(t, cmd)); got != fmt.Sprint(size) {
		t.Errorf("wc -c of %d bytes = %s", size, got)
	}
}

// scpUpAndDown copies a file to the server and back.
func scpUpAndDown(t *testing.T, s *sshd, addr string) {
	dir := t.TempDir()
	original, there, back := filepath.Join(dir, "original"), filepath.Join(dir, "there"), filepath.Join(dir, "back")
	sum := randomFile(t, original, 32<<20)
	succeed(t, s.copy(t.Context(), addr, original, ":"+there))
	checkFile(t, there, sum)
	succeed(t, s.copy(t.Context(), addr, ":"+there, back))
	checkFile(t, back, sum)
}
