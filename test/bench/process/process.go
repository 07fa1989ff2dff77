//go:build linux

// Package process runs the programs of the benchmark in the background, so
// that none of them outlives it.
package process

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// grace is how long a program may take to end after SIGTERM.
const grace = 2 * time.Second

// Process is a program that runs in the background.
type Process struct {
	name  string
	cmd   *exec.Cmd
	log   string        // path of the file with its output; "" it goes elsewhere
	ended chan struct{} // closed when the program has been waited for
	err   error         // how it ended; read after ended only
}

// Start runs cmd. Its output goes to the file log, unless cmd has another
// place for it. The program gets a process group of its own, and is killed
// when the benchmark dies.
func Start(name string, cmd *exec.Cmd, log string) (*Process, error) {
	f, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if cmd.Stdout == nil {
		cmd.Stdout = f
	}
	if cmd.Stderr == nil {
		cmd.Stderr = f
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p := &Process{name: name, cmd: cmd, log: log, ended: make(chan struct{})}
	go p.wait() // ends with the program, which Stop waits for
	return p, nil
}

func (p *Process) wait() {
	p.err = p.cmd.Wait()
	close(p.ended)
}

// PID returns the number of the process; the programs that it starts are its
// children.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Name returns the name given to Start.
func (p *Process) Name() string { return p.name }

// Ended returns nil while the program runs. Once it has ended the error says
// so, with the end of its output.
func (p *Process) Ended() error {
	select {
	case <-p.ended:
		return fmt.Errorf("%s has ended by itself (%v): %s", p.name, p.cmd.ProcessState, p.tail())
	default:
		return nil
	}
}

// Stop ends the program, first kindly, and waits until it has.
func (p *Process) Stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // an error says that it has ended
	select {
	case <-p.ended:
	case <-time.After(grace):
	}
	// The group: what the program has started ends with it.
	_ = syscall.Kill(-p.PID(), syscall.SIGKILL)
	<-p.ended
}

// tail returns the last lines of the program's output.
func (p *Process) tail() string {
	const most = 2 << 10
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	if len(b) > most {
		b = b[len(b)-most:]
	}
	return string(bytes.TrimSpace(b))
}

// Poll calls ask until it tells that it is done, ask fails, or ctx ends. The
// pause in between is short against what the benchmark waits for.
func Poll(ctx context.Context, ask func() (done bool, err error)) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if done, err := ask(); done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}
