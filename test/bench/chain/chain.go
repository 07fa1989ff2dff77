//go:build linux

// Package chain sets up the forwarders that the benchmark compares: each of
// two hops, every hop a program of its own on loopback, in the best plain
// configuration that is known for it.
package chain

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
	"time"

	"github.com/ohrouter/oh-router/test/bench/load"
	"github.com/ohrouter/oh-router/test/bench/measure"
	"github.com/ohrouter/oh-router/test/bench/process"
)

// Names that the reports know.
const (
	Direct   = "direct"
	OHRouter = "oh-router"
	HAProxy  = "haproxy" // what the ratios are to
)

// Chain is a way from a client to a target.
type Chain struct {
	Name    string
	TLS     bool                    // the link between the hops is TLS; off by default
	Ours    bool                    // oh-router: its failure is the benchmark's
	Version string                  // of the programs, for the report
	Remark  string                  // what a reader has to know of the configuration
	needs   []string                // programs
	version []string                // command line whose output holds the version
	read    func(out string) string // finds it there; nil: the first number with a dot
	usable  func() error
	start   func(*site) error
}

// Base returns the name of the chain that the ratios of c are to: one whose
// link is of the same kind.
func (c Chain) Base() string {
	if c.TLS {
		return HAProxy + "-tls"
	}
	return HAProxy
}

// Spec is where and how to set a chain up.
type Spec struct {
	Dir     string           // for configuration, keys and logs; must exist
	Targets []netip.AddrPort // the chain gets an entry for each
	NoCheck bool             // oh-router: bind without connecting to the target
	// Link returns where the first hop reaches the second, which listens at
	// to. nil: there.
	Link func(to netip.AddrPort) (netip.AddrPort, error)
}

// Running is a chain that carries sessions.
type Running struct {
	Chain
	Entries []netip.AddrPort // one for each target
	Hops    []*process.Process
	API     string // oh-router: URL of the router; else ""
}

// Stop ends the chain's programs.
func (r *Running) Stop() {
	for _, h := range r.Hops {
		h.Stop()
	}
}

// Start sets a chain up. A port that another program takes at the wrong moment
// costs another try.
func (c Chain) Start(ctx context.Context, spec Spec) (*Running, error) {
	var errs []error
	for try := range 3 {
		dir, err := os.MkdirTemp(spec.Dir, fmt.Sprintf("%s-%d-", c.Name, try))
		if err != nil {
			return nil, err
		}
		r, err := c.try(ctx, spec, dir)
		if err == nil {
			return r, nil
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, fmt.Errorf("start %s: %w", c.Name, errors.Join(errs...))
}

func (c Chain) try(ctx context.Context, spec Spec, dir string) (_ *Running, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, 20*time.Second, errors.New("it is not ready after 20 s"))
	defer cancel()
	s := &site{Spec: spec, ctx: ctx, dir: dir}
	defer func() {
		if err != nil {
			(&Running{Hops: s.hops}).Stop()
		}
	}()
	if err := c.start(s); err != nil {
		return nil, err
	}
	if err := s.await(s.entries...); err != nil {
		return nil, err
	}
	return &Running{Chain: c, Entries: s.entries, Hops: s.hops, API: s.api}, nil
}

// Probe waits until a session through the first entry reaches the target.
func (r *Running) Probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	var last error
	err := process.Poll(ctx, func() (bool, error) {
		last = load.Probe(ctx, r.Entries[0])
		return last == nil, r.ended()
	})
	if err != nil {
		return fmt.Errorf("probe %s: %w (%v)", r.Name, err, last)
	}
	return nil
}

func (r *Running) ended() error {
	var errs []error
	for _, h := range r.Hops {
		errs = append(errs, h.Ended())
	}
	return errors.Join(errs...)
}

// site is a chain while it is being set up.
type site struct {
	Spec
	ctx     context.Context
	dir     string // of this chain
	entries []netip.AddrPort
	hops    []*process.Process
	api     string
}

// link returns where the first hop reaches the second.
func (s *site) link(to netip.AddrPort) (netip.AddrPort, error) {
	if s.Link == nil {
		return to, nil
	}
	return s.Link(to)
}

// ports returns n free addresses and, first, one free address for each target,
// which are the entries.
func (s *site) ports(n int) ([]netip.AddrPort, error) {
	all, err := FreePorts(len(s.Targets) + n)
	if err != nil {
		return nil, err
	}
	s.entries = all[:len(s.Targets)]
	return all[len(s.Targets):], nil
}

// run starts a hop's program.
func (s *site) run(hop, program string, args ...string) error {
	path, err := lookPath(program) // sshd insists on being called by its whole path
	if err != nil {
		return err
	}
	cmd := exec.Command(path, args...)
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "OH_ROUTER_") })
	p, err := process.Start(hop, cmd, filepath.Join(s.dir, hop+".log"))
	if err != nil {
		return err
	}
	s.hops = append(s.hops, p)
	return nil
}

// file writes a file of the chain and returns its path.
func (s *site) file(name, content string) (string, error) {
	path := filepath.Join(s.dir, name)
	return path, os.WriteFile(path, []byte(content), 0o600)
}

// await waits until all addresses listen.
func (s *site) await(addrs ...netip.AddrPort) error {
	return process.Poll(s.ctx, func() (bool, error) {
		if err := (&Running{Hops: s.hops}).ended(); err != nil {
			return false, err
		}
		return measure.Listening(addrs...)
	})
}
