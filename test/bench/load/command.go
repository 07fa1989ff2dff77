//go:build linux

package load

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"sync"

	"github.com/ohrouter/oh-router/test/bench/process"
)

// event is a line that a generator process prints.
type event struct {
	Mark   bool    `json:"mark,omitempty"` // the window begins, or ends
	Result *Result `json:"result,omitempty"`
	Error  string  `json:"error,omitempty"` // the job could not be done
}

// ServeJob is the generator's process: it reads a job, says when the window
// begins and ends, prints the result and lives on until in ends, so that its CPU time
// can still be read. The end of in also ends a job.
func ServeJob(ctx context.Context, in io.Reader, out io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	decode, encode := json.NewDecoder(in), json.NewEncoder(out)
	var job Job
	if err := decode.Decode(&job); err != nil {
		return fmt.Errorf("read the job: %w", err)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		defer cancel()
		_, _ = io.Copy(io.Discard, in) // nothing comes but the end
	})
	var said error
	r, err := Do(ctx, job, func() { said = errors.Join(said, encode.Encode(event{Mark: true})) })
	e := event{Result: &r}
	if err != nil {
		e = event{Error: err.Error()}
	}
	if err := errors.Join(said, encode.Encode(e)); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// peer is a process of this package, seen from the benchmark.
type peer struct {
	process *process.Process
	in      io.WriteCloser
	out     io.ReadCloser
	answers *json.Decoder
}

// run starts this very program with a subcommand.
func run(name, dir string) (*peer, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, name)
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	// Not StdoutPipe, which waiting for the process closes under the reader.
	out, theirs, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	cmd.Stdout = theirs
	p, err := process.Start(name, cmd, filepath.Join(dir, name+".log"))
	if err != nil {
		out.Close()
		return nil, err
	}
	return &peer{process: p, in: in, out: out, answers: json.NewDecoder(out)}, nil
}

// read reads the next line of the process.
func (p *peer) read(into any) error {
	err := p.answers.Decode(into)
	if err == nil {
		return nil
	}
	if ended := p.process.Ended(); ended != nil {
		return ended
	}
	return fmt.Errorf("read from the %s: %w", p.process.Name(), err)
}

// PID returns the number of the process.
func (p *peer) PID() int { return p.process.PID() }

// Close ends the process.
func (p *peer) Close() {
	p.in.Close()
	p.process.Stop()
	p.out.Close()
}

// TargetProcess is a running target.
type TargetProcess struct {
	*peer
	Echo, Greet netip.AddrPort
}

// StartTarget runs a target; its log goes to dir.
func StartTarget(name, dir string) (*TargetProcess, error) {
	p, err := run(name, dir)
	if err != nil {
		return nil, err
	}
	var a addresses
	if err := p.read(&a); err != nil {
		p.Close()
		return nil, err
	}
	return &TargetProcess{peer: p, Echo: a.Echo, Greet: a.Greet}, nil
}

// Stats asks the target what it has seen.
func (t *TargetProcess) Stats() (Stats, error) {
	var s Stats
	if _, err := io.WriteString(t.in, "\n"); err != nil {
		return s, err
	}
	return s, t.read(&s)
}

// Generator is a running generator.
type Generator struct{ *peer }

// StartJob runs a generator with a job; its log goes to dir.
func StartJob(name, dir string, job Job) (*Generator, error) {
	p, err := run(name, dir)
	if err != nil {
		return nil, err
	}
	if err := json.NewEncoder(p.in).Encode(job); err != nil {
		p.Close()
		return nil, fmt.Errorf("hand over the job: %w", err)
	}
	return &Generator{p}, nil
}

// Mark waits until the job's window begins or, called again, ends.
func (g *Generator) Mark() error {
	var e event
	if err := g.read(&e); err != nil {
		return err
	}
	if e.Error != "" {
		return errors.New(e.Error)
	}
	return nil
}

// Result waits for the job's end.
func (g *Generator) Result() (Result, error) {
	var e event
	if err := g.read(&e); err != nil {
		return Result{}, err
	}
	if e.Error != "" || e.Result == nil {
		return Result{}, errors.New(e.Error)
	}
	return *e.Result, nil
}
