package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/client"
	"github.com/ohrouter/oh-router/internal/config"
	"github.com/ohrouter/oh-router/internal/link"
)

func newUpCommand(environ []string) *cobra.Command {
	var binds []string
	cmd := &cobra.Command{
		Use:        "up [--bind HOST:PORT]...",
		SuggestFor: []string{"start", "run"},
		Short:      "Run router and proxy in one process, to try them or to develop with them",
		Long: `Run router and proxy in one process on loopback. The mapped address of every
--bind goes to stdout, a line each; everything else to stderr. It keeps nothing
on disk and dials every target, this machine's own included.`,
		Example: `  oh-router up --bind 127.0.0.1:5432
  oh-router up --bind db.internal:3306 --bind cache.internal:6379`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 && strings.Contains(args[0], ":") {
				return usageErrorf("unexpected argument %q; to map it: oh-router up --bind %s", args[0], args[0])
			}
			return takes()(cmd, args)
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			var targets []ohrouter.Target
			for _, b := range binds {
				t, err := ohrouter.ParseTarget(b)
				if err != nil {
					return usageErrorf("--bind: %s", ohrouter.Message(err))
				}
				targets = append(targets, t)
			}
			return serve(cmd, config.Up, environ, func(ctx context.Context, p *process) (server, error) {
				usual, _ := (&apiAccess{environ: environ}).usual()
				return startUp(ctx, p, targets, usual)
			})
		},
	}
	cmd.Flags().StringArrayVar(&binds, "bind", nil, "`HOST:PORT` to bind at the start and print the mapped address of; may be repeated")
	config.Flags(cmd.Flags(), config.Up)
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		if e, ok := errors.AsType[*pflag.NotExistError](err); ok && e.GetSpecifiedName() == "allow" {
			return usageErrorf("unknown flag: --allow; 'oh-router up' dials every target and has no allow-list")
		}
		return flagError(cmd, err)
	})
	return cmd
}

// upServer is both roles, joined by a link over loopback.
type upServer struct {
	p       *process
	router  *routerServer
	proxy   *proxyServer
	targets []ohrouter.Target // to bind at the start
	usual   string            // the server of commands that are told none
}

func startUp(ctx context.Context, p *process, targets []ohrouter.Target, usual string) (server, error) {
	p.greets = true
	states := link.NewStates(p.metrics)
	proxy, err := startProxy(ctx, p, "127.0.0.1:0", p.descriptors(2), states)
	if err != nil {
		return nil, err
	}
	local := []link.Proxy{{Name: "local", Address: proxy.listener.Addr().String()}}
	router, err := startRouter(ctx, p, local, p.descriptors(2), states)
	if err != nil {
		proxy.close()
		return nil, err
	}
	proxy.proxy.Beside(router.router.Mapped)
	return &upServer{p: p, router: router, proxy: proxy, targets: targets, usual: usual}, nil
}

func (s *upServer) run(ctx context.Context, drain func() (context.Context, context.CancelFunc)) error {
	// The proxy ends after the router, whose sessions end there.
	proxyCtx, stopProxy := context.WithCancel(context.WithoutCancel(ctx))
	group, groupCtx := errgroup.WithContext(ctx)
	routerCtx, stopRouter := context.WithCancel(groupCtx)
	defer stopRouter()
	group.Go(func() error { return s.proxy.run(proxyCtx, drain) })
	group.Go(func() error {
		defer stopProxy()
		return s.router.run(routerCtx, drain)
	})
	group.Go(func() error { return s.greet(ctx) })
	return group.Wait()
}

func (s *upServer) reload(cfg config.Config) {
	s.router.reload(cfg)
	s.proxy.reload(cfg)
}

// greet binds what was asked for, prints where it is and what to do next.
func (s *upServer) greet(ctx context.Context) error {
	url := "http://" + reachable(s.router.listener.Addr().(*net.TCPAddr).AddrPort()).String()
	c, err := client.New(client.Config{Server: url})
	if err != nil {
		return err
	}
	var bound []ohrouter.Binding
	for _, t := range s.targets {
		b, _, err := c.Bind(ctx, ohrouter.BindingSpec{Target: t})
		if ctx.Err() != nil {
			return nil // stopped before it had begun
		}
		if err != nil {
			return callFailure(err)
		}
		if _, err := fmt.Fprintln(s.p.stdout, b.Address); err != nil {
			return fmt.Errorf("print the mapped address: %w", err)
		}
		bound = append(bound, b)
	}
	s.print(url, bound)
	return nil
}

// print shows a newcomer what is there. It goes to stderr, where nobody parses
// it, so that failing to write it is no failure.
func (s *upServer) print(url string, bound []ohrouter.Binding) {
	at := ""
	if url != s.usual {
		at = " --server " + url
	}
	say := func(format string, args ...any) { _, _ = fmt.Fprintf(s.p.stderr, format, args...) }
	say("\n  API      %s   (docs: %s/docs)\n", url, url)
	for _, b := range bound {
		say("  bound    %v  ->  %s%s\n", b.Target, b.Address, kept(b))
	}
	if len(bound) > 0 {
		say("  now      connect your client to %s\n", bound[0].Address)
	}
	say("  more     oh-router bind HOST:PORT%s\n", at)
	say("  or       curl %s/route/bind/HOST/PORT\n", url)
	say("  stop     Ctrl-C\n\n")
}

// kept says how long a binding stays that nobody uses.
func kept(b ohrouter.Binding) string {
	if b.IdleTimeout == 0 {
		return ""
	}
	return fmt.Sprintf("   (released after %v without use)", b.IdleTimeout)
}

// reachable returns the address at which this machine reaches a listener. One of
// all addresses has those of IPv4, and there may be no IPv6.
func reachable(a netip.AddrPort) netip.AddrPort {
	if a.Addr().IsUnspecified() {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), a.Port())
	}
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}
