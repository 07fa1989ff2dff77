package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/access"
	"github.com/ohrouter/oh-router/internal/api"
	"github.com/ohrouter/oh-router/internal/config"
	"github.com/ohrouter/oh-router/internal/gate"
	"github.com/ohrouter/oh-router/internal/link"
	"github.com/ohrouter/oh-router/internal/registry"
	"github.com/ohrouter/oh-router/internal/relay"
	"github.com/ohrouter/oh-router/internal/router"
	"github.com/ohrouter/oh-router/internal/socket"
	"github.com/ohrouter/oh-router/internal/store/bolt"
)

func newRouterCommand(environ []string) *cobra.Command {
	cmd := &cobra.Command{
		Use:        "router [flags]",
		SuggestFor: []string{"serve", "server"},
		Short:      "Serve the router role: the REST API and the mapped ports",
		Long: `Serve the router role. Clients ask its REST API for targets and connect to the
mapped ports that it answers with; it reaches the targets through the proxies
that --proxy names.`,
		Example: `  oh-router router
  oh-router router --listen 127.0.0.1:8080 --proxy east=127.0.0.1:9000 --proxy west=127.0.0.1:9001
  oh-router router -c /etc/oh-router.yaml`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return serve(cmd, config.RouterRole, environ, func(ctx context.Context, p *process) (server, error) {
				return startRouter(ctx, p, proxyList(p.cfg.Router.Proxies), p.descriptors(1), link.NewStates(p.metrics))
			})
		},
	}
	config.Flags(cmd.Flags(), config.RouterRole)
	return cmd
}

func proxyList(configured []config.ProxyAddress) []link.Proxy {
	var list []link.Proxy
	for _, a := range configured {
		list = append(list, link.Proxy{Name: a.Name, Address: a.Address})
	}
	return list
}

// routerServer is a running router role.
type routerServer struct {
	p        *process
	dialer   *link.Dialer
	router   *router.Router
	registry *registry.Registry
	tokens   *access.Tokens
	store    *bolt.Store // nil: memory only
	http     *http.Server
	listener *net.TCPListener
	trust    trust
}

// startRouter opens everything that a router needs: when it returns, the
// bindings of the last run are back, and the API's port takes connections that
// run will answer.
func startRouter(ctx context.Context, p *process, proxies []link.Proxy, budget socket.Budget, states *link.States) (_ *routerServer, err error) {
	cfg := p.cfg.Router
	s := &routerServer{p: p, dialer: link.NewDialer(proxies, states)}
	s.dialer.Pool = link.Pool{Min: cfg.Pool.Min, Max: cfg.Pool.Max, Descriptors: budget}
	s.dialer.Sockets, s.dialer.MaxHandshake = p.sockets(cfg.LinkCongestion), p.cfg.MaxHandshake
	s.router = router.New(router.Config{
		BindAddress: cfg.BindAddress, Clients: p.sockets(cfg.ClientCongestion), Linker: linker{s.dialer}, Relay: p.relay, Park: cfg.Park,
		Descriptors: budget, Audit: p.audit, Log: p.log, Metrics: p.metrics,
	})
	defer func() {
		if err != nil {
			s.abandon()
		}
	}()
	if s.listener, err = listen(ctx, "the REST API", cfg.Listen.String(), "--listen", socket.Options{}); err != nil {
		return nil, err
	}
	mapped, err := listen(ctx, "mapped ports", netip.AddrPortFrom(cfg.BindAddress, 0).String(), "--bind-address", socket.Options{})
	if err != nil {
		return nil, err
	}
	_ = mapped.Close() // it has shown that there can be some
	if cfg.State != "" {
		store, err := bolt.Open(cfg.State)
		if err != nil {
			return nil, &failure{message: err.Error(), hint: "A router with --state none keeps nothing.", exit: exitFailed}
		}
		s.store = store
	}
	if err := s.openTrust(ctx); err != nil {
		return nil, err
	}
	if s.tokens, err = s.openTokens(ctx); err != nil {
		return nil, err
	}
	s.registry = registry.New(registry.Config{
		PortLow: cfg.Ports.Low, PortHigh: cfg.Ports.High, IdleTimeout: cfg.IdleTimeout, Quarantine: cfg.Quarantine, Store: s.records(), NeedAllow: s.exposed(),
		Listeners: s.router, Owners: s.tokens, KnowsProxy: s.dialer.Knows, Audit: p.audit, Log: p.log, Metrics: p.metrics,
	})
	if err := s.registry.Restore(ctx); err != nil {
		return nil, err
	}
	apiConfig := api.Config{
		Bindings: s.registry, Sessions: s.router, Proxies: s.dialer.Proxies, Advertise: cfg.Advertise,
		Access: s.tokens, Hosts: cfg.AllowedHosts, OpenMetrics: cfg.OpenMetrics, AllowRequester: s.exposed(),
		Parts: s.parts, Metrics: p.metricsHandler(), Known: gate.Known, Audit: p.audit, Log: p.log,
	}
	s.trust.serve(&apiConfig, s.dialer.TLS != nil)
	handler, err := api.New(apiConfig)
	if err != nil {
		return nil, err
	}
	s.http = p.httpServer(handler)
	s.http.TLSConfig = s.trust.https()
	if p.cfg.HandshakeTimeout > 0 {
		s.http.ReadHeaderTimeout = p.cfg.HandshakeTimeout
	}
	return s, nil
}

// exposed tells whether other machines reach the API, or mapped ports.
func (s *routerServer) exposed() bool {
	cfg := s.p.cfg.Router
	return !cfg.Listen.Addr().IsLoopback() || !cfg.BindAddress.IsLoopback()
}

// openTokens returns the tokens of the state directory. Where other machines
// reach the API or mapped ports every call needs one, unless the operator says that something else protects it.
func (s *routerServer) openTokens(ctx context.Context) (*access.Tokens, error) {
	cfg := access.Config{Required: s.exposed() && !s.p.cfg.Insecure}
	if s.store != nil {
		cfg.Store = s.store
	}
	tokens, err := access.Open(ctx, cfg)
	if err == nil && cfg.Required && len(tokens.List()) == 0 {
		how := "stop the router and make one: oh-router token create root --role admin --out root.token --state " + shellWord(s.p.cfg.Router.State)
		if s.store == nil {
			how = "none can be made without a state directory: name one with --state"
		}
		s.p.log.Warn("there is no API token, so nobody may call", "try", how)
	}
	return tokens, err
}

// shellWord returns s as a shell takes it for one word.
func shellWord(s string) string {
	if strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// records returns the store for the registry.
func (s *routerServer) records() registry.Store {
	if s.store == nil {
		return nil
	}
	return s.store
}

// abandon takes back what a failed start has opened.
func (s *routerServer) abandon() {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	s.router.Shutdown(ended)
	if s.listener != nil {
		_ = s.listener.Close() // the start has failed for a better reason
	}
	if s.store != nil {
		_ = s.store.Close()
	}
}

func (s *routerServer) run(ctx context.Context, drain func() (context.Context, context.CancelFunc)) error {
	s.p.log.Log(context.Background(), s.p.announcing(), "router serves", "listen", s.listener.Addr().String(), "ports", s.p.cfg.Router.Ports.String(),
		"bind_address", s.p.cfg.Router.BindAddress.String(), "state", s.p.cfg.Router.State)
	// The API and the books outlive the drain: it can be watched.
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	group, serving := errgroup.WithContext(serving)
	group.Go(func() error { return s.p.serveHTTP(serving, s.http, s.listener) })
	group.Go(func() error { return s.registry.Run(serving) })
	group.Go(func() error { s.dialer.Watch(serving, s.p.log); return nil })
	group.Go(func() error { s.tokens.Watch(serving, s.tokenExpired); return nil })
	s.trust.run(serving, group, s.dialer, s.p.audit)
	select {
	case <-ctx.Done():
	case <-serving.Done(): // one of them failed
	}
	s.registry.Drain()
	until, cancel := drain()
	defer cancel()
	s.router.Shutdown(until)
	stop()
	err := group.Wait()
	if s.store != nil {
		if cerr := s.store.Close(); cerr != nil && err == nil {
			err = fmt.Errorf("close the state store: %w", cerr)
		}
	}
	s.p.log.Log(context.Background(), s.p.announcing(), "router stopped")
	return err
}

// reload applies what may change while a router runs; the rest needs a
// restart, which the log says.
func (s *routerServer) reload(cfg config.Config) {
	is, was := cfg.Router, s.p.cfg.Router
	s.registry.Reconfigure(is.IdleTimeout, is.Quarantine)
	s.router.SetPark(is.Park)
	p := s.p.cfg
	same := cfg.Certificate == p.Certificate && cfg.LinkSecurity == p.LinkSecurity && cfg.Insecure == p.Insecure
	switch {
	case !same: // what was checked of the proxies holds for links as they will be
		s.p.log.Warn("proxies not reloaded: how links are secured has changed, which needs a restart")
	case is.Proxies != nil:
		s.dialer.SetProxies(proxyList(is.Proxies))
	}
	s.p.needRestart(map[string]bool{
		"router.listen":                     is.Listen != was.Listen,
		"router.bind_address":               is.BindAddress != was.BindAddress,
		"router.advertise":                  is.Advertise != was.Advertise,
		"router.ports":                      is.Ports != was.Ports,
		"router.allowed_hosts":              !slices.Equal(is.AllowedHosts, was.AllowedHosts),
		"router.open_metrics":               is.OpenMetrics != was.OpenMetrics,
		"router.max_connections":            is.Connections.Max != was.Connections.Max,
		"router.max_connections_per_source": is.Connections.MaxPerSource != was.Connections.MaxPerSource,
		"router.state":                      is.State != was.State,
		"router.pool":                       is.Pool != was.Pool,
		"router.client_congestion":          is.ClientCongestion != was.ClientCongestion,
		"router.link_congestion":            is.LinkCongestion != was.LinkCongestion,
	})
}

// parts is what /readyz shows.
func (s *routerServer) parts(context.Context) []api.Part {
	accepting := api.Part{Name: "binds", OK: !s.registry.Draining(), Required: true}
	if !accepting.OK {
		accepting.Detail = "shutting down"
	}
	store := api.Part{Name: "store", OK: true, Detail: "in memory only"}
	if s.store != nil {
		store.Detail = s.p.cfg.Router.State
		if err := s.store.Err(); err != nil {
			store.OK, store.Detail = false, fmt.Sprintf("%s does not take what is written: %v", s.p.cfg.Router.State, err)
		}
	}
	parts := []api.Part{accepting, store}
	parts = append(parts, s.p.insecure()...)
	parts = append(parts, s.trust.parts()...)
	for _, p := range s.dialer.Proxies() {
		part := api.Part{Name: "proxy " + p.Name, OK: p.State == ohrouter.ProxyUp, Detail: string(p.State)}
		if p.State == ohrouter.ProxyDown && p.LastError != nil {
			part.Detail += ": " + p.LastError.Message
		}
		parts = append(parts, part)
	}
	return parts
}

// linker lets the router use a dialer.
type linker struct{ *link.Dialer }

func (l linker) Begin(want router.Want) router.Handshake {
	return handshake{l.Dialer.Begin(link.Want(want))}
}

type handshake struct{ *link.Handshake }

func (h handshake) Call(cut func()) (relay.Call, bool) {
	call, ok := h.Handshake.Call(cut)
	return relay.Call(call), ok
}

func (h handshake) Link() router.Link { return peer{h.Handshake.Link()} }

func (h handshake) Dial(ctx context.Context) (router.Link, error) {
	made, err := h.Handshake.Dial(ctx)
	if err != nil {
		return nil, err
	}
	return peer{made}, nil
}

type peer struct{ *link.Link }

func (p peer) Peer() (proxy string, resolved netip.AddrPort) { return p.Proxy(), p.Resolved }
