package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/ohrouter/oh-router/internal/api"
	"github.com/ohrouter/oh-router/internal/config"
	"github.com/ohrouter/oh-router/internal/identity"
	"github.com/ohrouter/oh-router/internal/link"
	"github.com/ohrouter/oh-router/internal/proxy"
	"github.com/ohrouter/oh-router/internal/socket"
)

func newProxyCommand(environ []string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "proxy [flags]",
		Short: "Serve the proxy role: dial targets for routers",
		Long: `Serve the proxy role. It takes links from routers and dials the targets that
--allow names. Without --allow it dials nothing; "any" stands for everything
but loopback, link-local and other special addresses, which only a CIDR that
lies within them opens.`,
		Example: `  oh-router proxy --allow '10.0.0.0/8:5432,3306' --allow '*.db.internal:*'
  oh-router proxy --listen 127.0.0.1:9000 --allow '127.0.0.0/8:*' --metrics 127.0.0.1:9001`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return serve(cmd, config.ProxyRole, environ, func(ctx context.Context, p *process) (server, error) {
				return startProxy(ctx, p, p.cfg.Proxy.Listen.String(), p.descriptors(1), link.NewStates(p.metrics))
			})
		},
	}
	config.Flags(cmd.Flags(), config.ProxyRole)
	cmd.AddCommand(newEnrollCommand(environ), newInviteCommand(environ), newRevokeCommand(environ))
	return cmd
}

// proxyServer is a running proxy role.
type proxyServer struct {
	p        *process
	proxy    *proxy.Proxy
	listener *net.TCPListener
	health   *http.Server // nil without --metrics
	metrics  *net.TCPListener
	trust    trust
}

// startProxy opens the proxy's listeners.
func startProxy(ctx context.Context, p *process, address string, budget socket.Budget, states *link.States) (*proxyServer, error) {
	cfg := p.cfg.Proxy
	s := &proxyServer{p: p}
	var err error
	if s.listener, err = listen(ctx, "links", address, "--listen", p.sockets(cfg.LinkCongestion)); err != nil {
		return nil, err
	}
	if cfg.Metrics.IsValid() {
		if s.metrics, err = listen(ctx, "metrics", cfg.Metrics.String(), "--metrics", socket.Options{}); err != nil {
			s.close()
			return nil, err
		}
		s.health = p.httpServer(api.Health(s.parts, p.metricsHandler(), ownNames(cfg.AllowedHosts)))
	}
	if err := s.openTrust(); err != nil {
		s.close()
		return nil, err
	}
	all, ofOne := p.handshakes()
	s.proxy = proxy.New(proxy.Config{
		Own: s.own(), Handshakes: all, HandshakesPerSource: ofOne,
		TLS: s.linkSettings(), Explain: identity.Explain, MaxHandshake: p.cfg.MaxHandshake, HandshakeTimeout: p.cfg.HandshakeTimeout,
		Allow: cfg.Allow, DialTimeout: cfg.DialTimeout, ResolveEvery: resolveEvery, Targets: p.sockets(cfg.TargetCongestion),
		Descriptors: budget, States: states, Relay: p.relay,
		Name: nameOf, Audit: p.audit, Log: p.log, Metrics: p.metrics,
	})
	return s, nil
}

// resolveEvery is short beside what name servers let answers be kept for, and long
// beside a rush of sessions, which need not ask for each.
const resolveEvery = time.Second

// ownNames returns the names that metrics are called by: those that are
// configured, and this machine's.
func ownNames(configured []string) []string {
	own, _ := os.Hostname() // "" is none
	return append(slices.Clone(configured), own)
}

// nameOf returns whose certificate leaf is, which has been checked.
func nameOf(leaf *x509.Certificate) string {
	id, err := identity.Of(leaf)
	if err != nil {
		return ""
	}
	return id.String()
}

// own returns where the proxy itself listens.
func (s *proxyServer) own() []netip.AddrPort {
	list := []netip.AddrPort{s.listener.Addr().(*net.TCPAddr).AddrPort()}
	if s.metrics != nil {
		list = append(list, s.metrics.Addr().(*net.TCPAddr).AddrPort())
	}
	return list
}

// handshakes returns how many links may be within theirs. Each takes two
// descriptors: all of them leave most for sessions, and those of one source
// leave some for the others.
func (p *process) handshakes() (all, ofOne int) {
	cfg := p.cfg.Proxy.Handshakes
	all = max(min(cfg.Max, p.sessionDescriptors()/8), 2)
	return all, min(cfg.MaxPerSource, all/2)
}

// close takes back what a failed start has opened, which has failed for a better
// reason.
func (s *proxyServer) close() {
	_ = s.listener.Close()
	if s.metrics != nil {
		_ = s.metrics.Close()
	}
}

// openTrust opens the proxy's identity, if it has one.
func (s *proxyServer) openTrust() (err error) {
	state, t := s.p.cfg.Proxy.State, &s.trust
	t.credentials, err = s.p.credentials(identity.Proxy, state, nil)
	if err != nil || t.credentials == nil || s.p.cfg.Certificate.Cert != "" {
		return err
	}
	t.renewer = &identity.Renewer{State: state, Credentials: t.credentials, Log: s.p.log}
	return nil
}

// linkSettings returns the TLS settings of links; nil for plain TCP.
func (s *proxyServer) linkSettings() *tls.Config {
	if s.trust.credentials == nil || s.p.cfg.LinkSecurity == config.ExternalSecurity {
		return nil
	}
	return s.trust.credentials.LinkServer()
}

func (s *proxyServer) run(ctx context.Context, drain func() (context.Context, context.CancelFunc)) error {
	s.p.log.Log(context.Background(), s.p.announcing(), "proxy serves", "listen", s.listener.Addr().String(), "allow", s.p.cfg.Proxy.Allow.Patterns())
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	group, serving := errgroup.WithContext(serving)
	group.Go(func() error { return s.proxy.Serve(s.listener) })
	s.trust.run(serving, group, nil, s.p.audit)
	if s.health != nil {
		group.Go(func() error { return s.p.serveHTTP(serving, s.health, s.metrics) })
	}
	select {
	case <-ctx.Done():
	case <-serving.Done(): // one of them failed
	}
	until, cancel := drain()
	defer cancel()
	s.proxy.Shutdown(until)
	stop()
	err := group.Wait()
	s.p.log.Log(context.Background(), s.p.announcing(), "proxy stopped")
	return err
}

// reload applies what may change while a proxy runs; the rest needs a restart,
// which the log says.
func (s *proxyServer) reload(cfg config.Config) {
	is, was := cfg.Proxy, s.p.cfg.Proxy
	s.proxy.SetAllow(is.Allow)
	s.p.needRestart(map[string]bool{
		"proxy.listen":                    is.Listen != was.Listen,
		"proxy.metrics":                   is.Metrics != was.Metrics,
		"proxy.allowed_hosts":             !slices.Equal(is.AllowedHosts, was.AllowedHosts),
		"proxy.open_metrics":              is.OpenMetrics != was.OpenMetrics,
		"proxy.dial_timeout":              is.DialTimeout != was.DialTimeout,
		"proxy.max_handshakes":            is.Handshakes.Max != was.Handshakes.Max,
		"proxy.max_handshakes_per_source": is.Handshakes.MaxPerSource != was.Handshakes.MaxPerSource,
		"proxy.link_congestion":           is.LinkCongestion != was.LinkCongestion,
		"proxy.target_congestion":         is.TargetCongestion != was.TargetCongestion,
		"proxy.state":                     is.State != was.State,
	})
}

// parts is what /readyz shows.
func (s *proxyServer) parts(context.Context) []api.Part {
	links := api.Part{Name: "links", OK: !s.proxy.Draining(), Required: true, Detail: s.listener.Addr().String()}
	if !links.OK {
		links.Detail = "shutting down"
	}
	parts := []api.Part{links}
	parts = append(parts, s.p.insecure()...)
	return append(parts, s.trust.parts()...)
}
