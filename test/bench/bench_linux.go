package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/ohrouter/oh-router/test/bench/chain"
	"github.com/ohrouter/oh-router/test/bench/load"
	"github.com/ohrouter/oh-router/test/bench/process"
	"github.com/ohrouter/oh-router/test/bench/report"
)

// benchmark is a run.
type benchmark struct {
	opts   *options
	dir    string // of everything that the run makes
	target *load.TargetProcess
	chains []chain.Chain
	groups []group
	report *report.Report
	broken bool // an oh-router chain has failed
}

// bench runs everything that opts ask for and shows what it has found, also
// when ctx ends it early.
func bench(ctx context.Context, opts *options) (err error) {
	if err := raiseLimit(); err != nil {
		return err
	}
	b := &benchmark{opts: opts}
	if b.dir, err = os.MkdirTemp("", "oh-router-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	if err := b.prepare(ctx); err != nil {
		return err
	}
	if b.target, err = load.StartTarget(targetCommand, b.dir); err != nil {
		return err
	}
	defer b.target.Close()
	if opts.distance {
		err = b.far(ctx)
	} else {
		err = b.near(ctx)
	}
	if err != nil && ctx.Err() == nil {
		return err
	}
	if err := b.show(); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return errors.New("interrupted; what is shown is of the rounds until then")
	}
	if b.broken {
		return errors.New("oh-router has failed, see above")
	}
	return nil
}

// raiseLimit takes all descriptors that the process may have. Setting the
// limit, even to what it is, makes the programs that are started inherit it:
// the runtime would give them the lower one.
func raiseLimit() error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	limit.Cur = limit.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("raise the limit of descriptors: %w", err)
	}
	return nil
}

// prepare decides what is measured.
func (b *benchmark) prepare(ctx context.Context) error {
	var err error
	groups := nearGroups()
	if b.opts.distance {
		groups = farGroups()
	}
	if b.groups, err = choose(groups, b.opts.only, b.opts.smoke); err != nil {
		return err
	}
	binaries, err := b.binaries(ctx)
	if err != nil {
		return err
	}
	var missing []string
	if b.chains, missing, err = chain.Choose(chain.Known(binaries), b.opts.chains, b.opts.tls); err != nil {
		return err
	}
	if len(b.chains) == 0 {
		return fmt.Errorf("no chain can be measured: %s", strings.Join(missing, "; "))
	}
	b.report = &report.Report{
		Title: "oh-router beside other forwarders", Started: time.Now(), Command: b.opts.command,
		Facts: facts(b.opts), Missing: missing,
	}
	for _, g := range b.groups {
		b.report.Groups = append(b.report.Groups, g.Group)
	}
	for _, c := range b.chains {
		b.report.Chains = append(b.report.Chains, report.Chain{
			Name: c.Name, Version: c.Version, Remark: c.Remark, Ours: c.Ours, Base: c.Base(),
		})
		b.say("chain %s %s", c.Name, c.Version)
	}
	for _, m := range missing {
		b.say("no chain %s", m)
	}
	return nil
}

// binaries returns the oh-router programs to measure: those of the command
// line, else one built now.
func (b *benchmark) binaries(ctx context.Context) ([]chain.Binary, error) {
	var all []chain.Binary
	for _, s := range b.opts.binaries {
		name, path, ok := strings.Cut(s, "=")
		if !ok {
			name, path = chain.OHRouter, s
		}
		all = append(all, chain.Binary{Name: name, Path: path})
	}
	if len(all) > 0 {
		return all, nil
	}
	if len(b.opts.chains) > 0 && !slices.Contains(b.opts.chains, chain.OHRouter) {
		return []chain.Binary{{Name: chain.OHRouter, Path: "not built"}}, nil
	}
	path := filepath.Join(b.dir, "oh-router")
	b.say("build oh-router")
	version := "dev"
	if out, err := exec.CommandContext(ctx, "git", "describe", "--tags", "--always", "--dirty").Output(); err == nil {
		version = strings.TrimSpace(string(out))
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w -X main.version="+version,
		"-o", path, "github.com/ohrouter/oh-router/cmd/oh-router")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build oh-router: %w\n%s", err, out)
	}
	return []chain.Binary{{Name: chain.OHRouter, Path: path}}, nil
}

// say tells whoever waits what happens.
func (b *benchmark) say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%s "+format+"\n", append([]any{time.Now().Format(time.TimeOnly)}, args...)...)
}

// fail notes that a chain could not be measured.
func (b *benchmark) fail(c chain.Chain, w workload, err error) {
	cell := b.report.At(w.id, c.Name)
	cell.Failures++
	cell.Error = err.Error()
	b.say("%s, %s: %v", c.Name, w.id, err)
	b.broken = b.broken || c.Ours
}

// instance is a running chain and what is between its hops.
type instance struct {
	*chain.Running
	delays []*process.Process
}

func (in *instance) delayPIDs() (pids []int) {
	for _, d := range in.delays {
		pids = append(pids, d.PID())
	}
	return pids
}

// Stop ends all of it.
func (in *instance) Stop() {
	in.Running.Stop()
	for _, d := range in.delays {
		d.Stop()
	}
}

// start sets a chain up, its hops a round trip apart.
func (b *benchmark) start(ctx context.Context, c chain.Chain, spec chain.Spec, roundTrip time.Duration) (*instance, error) {
	in := &instance{}
	spec.Dir = b.dir
	if roundTrip > 0 {
		spec.Link = func(to netip.AddrPort) (netip.AddrPort, error) { return in.apart(b.dir, to, roundTrip) }
	}
	var err error
	if in.Running, err = c.Start(ctx, spec); err != nil {
		for _, d := range in.delays {
			d.Stop()
		}
		return nil, err
	}
	return in, nil
}

// apart runs a delaying forwarder and returns where it listens.
func (in *instance) apart(dir string, to netip.AddrPort, roundTrip time.Duration) (netip.AddrPort, error) {
	self, err := os.Executable()
	if err != nil {
		return netip.AddrPort{}, err
	}
	ports, err := chain.FreePorts(1)
	if err != nil {
		return netip.AddrPort{}, err
	}
	cmd := exec.Command(self, delayCommand, ports[0].String(), to.String(), roundTrip.String())
	d, err := process.Start(delayCommand, cmd, filepath.Join(dir, delayCommand+".log"))
	if err != nil {
		return netip.AddrPort{}, err
	}
	in.delays = append(in.delays, d)
	return ports[0], nil
}
