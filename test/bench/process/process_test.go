//go:build linux

package process

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestEnded(t *testing.T) {
	p, err := Start("talker", exec.Command("sh", "-c", "echo what went wrong >&2; exit 3"), filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	<-p.ended
	if err := p.Ended(); err == nil || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(err.Error(), "what went wrong") {
		t.Errorf("Ended = %v, want how it ended and what it said", err)
	}
	p.Stop() // does no harm
}

// What a program has started ends with it: the pipe that both hold closes.
func TestStop(t *testing.T) {
	held, theirs, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	cmd := exec.Command("sh", "-c", "sleep 100 & wait")
	cmd.ExtraFiles = []*os.File{theirs}
	p, err := Start("parent", cmd, filepath.Join(t.TempDir(), "log"))
	theirs.Close()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Ended(); err != nil {
		t.Errorf("Ended while it runs = %v", err)
	}
	p.Stop()
	if err := held.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := held.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("read = %v, want the end: what the program has started still runs", err)
	}
}

func TestPoll(t *testing.T) {
	broken := errors.New("broken")
	if err := Poll(t.Context(), func() (bool, error) { return false, broken }); !errors.Is(err, broken) {
		t.Errorf("Poll = %v, want what ask says", err)
	}
	tries := 0
	if err := Poll(t.Context(), func() (bool, error) { tries++; return tries == 3, nil }); err != nil || tries != 3 {
		t.Errorf("Poll = %v after %d tries, want 3", err, tries)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(broken)
	if err := Poll(ctx, func() (bool, error) { return false, nil }); !errors.Is(err, broken) {
		t.Errorf("Poll = %v once the context has ended, want its cause", err)
	}
}
