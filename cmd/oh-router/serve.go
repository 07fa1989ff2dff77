package main

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"

	"github.com/ohrouter/oh-router/internal/api"
	"github.com/ohrouter/oh-router/internal/audit"
	"github.com/ohrouter/oh-router/internal/config"
	"github.com/ohrouter/oh-router/internal/gate"
	"github.com/ohrouter/oh-router/internal/identity"
	"github.com/ohrouter/oh-router/internal/relay"
	"github.com/ohrouter/oh-router/internal/socket"
)

// server is what a serving command runs.
type server interface {
	// run serves until ctx ends, then lets sessions finish until drain's
	// context does, and returns when nothing is left.
	run(ctx context.Context, drain func() (context.Context, context.CancelFunc)) error
	// reload applies what may change while it runs.
	reload(cfg config.Config)
}

// process is what all servers of this process share.
type process struct {
	cfg     config.Config
	log     *slog.Logger
	audit   *audit.Log
	level   *slog.LevelVar
	metrics *prometheus.Registry
	relay   *relay.Engine
	stdout  io.Writer
	stderr  io.Writer
	greets  bool   // it tells a person what serves: the log need not
	endLog  func() // has the log tell what it held back
}

// serve loads the configuration of a role, starts its server, and runs it
// until a signal ends it: the first SIGTERM or SIGINT drains, a second one
// exits at once, SIGHUP reloads.
func serve(cmd *cobra.Command, role config.Role, environ []string, start func(context.Context, *process) (server, error)) error {
	load := func() (config.Config, error) { return config.Load(role, cmd.Flags(), environ, identified) }
	cfg, err := load()
	if err != nil {
		return configFailure(err)
	}
	p := newProcess(cmd, cfg)
	defer p.endLog()
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)
	ctx, stop := context.WithCancel(cmd.Context())
	defer stop()

	p.relay, err = newEngine(cfg.Loops, cfg.BusyPoll)
	switch {
	case errors.Is(err, syscall.EMFILE):
		return tooFewDescriptors("event loops have taken all of them")
	case err != nil:
		return err
	}
	if err := p.enoughDescriptors(); err != nil {
		p.relay.Close()
		return err
	}
	if p.audit, err = audit.Open(audit.Config{File: cfg.AuditLog, Stdout: p.stdout, Log: p.log, Metrics: p.metrics}); err != nil {
		p.relay.Close()
		return err
	}
	defer p.closeAudit()
	s, err := start(ctx, p)
	if err != nil {
		p.relay.Close()
		return err
	}
	p.audit.Record(audit.Entry{Event: audit.ServerStarted, Role: string(role)})
	done := make(chan error, 1)
	go func() { done <- s.run(ctx, p.drain) }()
	for draining := false; ; {
		select {
		case err := <-done:
			p.relay.Close() // all sessions have ended
			p.audit.Record(audit.Entry{Event: audit.ServerStopped, Role: string(role)})
			return err
		case sig := <-signals:
			switch {
			case sig == syscall.SIGHUP:
				p.reload(s, load)
			case draining:
				return &failure{message: "stopped at once by a second signal; sessions that were open are reset", exit: exitFailed}
			default:
				draining = true
				p.log.Info("shutting down; a second signal ends at once", "signal", sig.String(), "drain_timeout", p.cfg.DrainTimeout)
				stop()
			}
		}
	}
}

// identified tells whether a role has an identity in its state directory.
func identified(role config.Role, state string) bool {
	if role == config.ProxyRole {
		return identity.HasProxy(state)
	}
	return identity.HasRouter(state)
}

// credentials opens a role's credentials; nil when links and API go without. The
// state directory is looked at when no certificate is configured.
func (p *process) credentials(role identity.Role, state string, revoked func(*x509.Certificate) bool) (*identity.Credentials, error) {
	files := identity.Files(p.cfg.Certificate)
	if files.Cert == "" {
		if state == "" || role == identity.Router && !identity.HasRouter(state) || role == identity.Proxy && !identity.HasProxy(state) {
			return nil, nil
		}
		files = identity.In(state, role)
	}
	return identity.Open(identity.Config{Files: files, Role: role, Revoked: revoked, Log: p.log})
}

// newEngine starts an engine with so many loops, or one for each processor, which
// poll for so long. A loop that is busy keeps a thread and one of GOMAXPROCS, so
// those come on top of what all else has: the API and handshakes get on beside
// loops that never rest, and the kernel divides the processors.
func newEngine(loops int, poll time.Duration) (*relay.Engine, error) {
	cores := runtime.GOMAXPROCS(0)
	loops = cmp.Or(loops, min(cores, relay.MaxLoops))
	runtime.GOMAXPROCS(loops + cores)
	return relay.NewEngine(loops, poll)
}

// sockets returns the options of a leg of the data path.
func (p *process) sockets(congestion string) socket.Options {
	return socket.Options{Congestion: congestion, DeadAfter: p.cfg.DeadPeerTimeout, Backlog: p.cfg.Backlog}
}

// configFailure returns the error of a wrong configuration: wrong use when a
// flag or the environment caused it.
func configFailure(err error) error {
	f := &failure{message: err.Error(), exit: exitFailed}
	if errors.Is(err, config.ErrUsage) {
		f.exit = exitUsage
	}
	return f
}

func newProcess(cmd *cobra.Command, cfg config.Config) *process {
	p := &process{cfg: cfg, level: new(slog.LevelVar), metrics: prometheus.NewRegistry(), stdout: cmd.OutOrStdout(), stderr: cmd.ErrOrStderr()}
	p.level.Set(cfg.LogLevel)
	p.log, p.endLog = newLog(p.stderr, cfg.LogFormat, p.level)
	b := buildVersion()
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "ohrouter_build_info",
		Help:        "What the binary was built from; always 1.",
		ConstLabels: prometheus.Labels{"version": b.Version, "commit": b.Commit, "go": b.Go},
	})
	info.Set(1)
	insecure := prometheus.NewGauge(prometheus.GaugeOpts{Name: "ohrouter_insecure", Help: "Whether --insecure is set: 1 or 0."})
	if cfg.Insecure {
		insecure.Set(1)
	}
	p.metrics.MustRegister(info, insecure, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	for _, w := range cfg.Warnings {
		p.log.Warn("check the configuration", "warning", w)
	}
	return p
}

// insecure is what /readyz shows with --insecure.
func (p *process) insecure() []api.Part {
	if !p.cfg.Insecure {
		return nil
	}
	return []api.Part{{Name: "security", Detail: "insecure is set: " + cmp.Or(strings.Join(p.cfg.Open, "; "), "nothing here needs it")}}
}

// announcing is the level at which the log tells that a role serves or has
// stopped.
func (p *process) announcing() slog.Level {
	if p.greets {
		return slog.LevelDebug
	}
	return slog.LevelInfo
}

func (p *process) drain() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), p.cfg.DrainTimeout)
}

// closeAudit ends the audit log behind everything that it may have to tell of.
func (p *process) closeAudit() {
	if err := p.audit.Close(); err != nil {
		p.log.Error("audit log not complete", "err", err)
	}
}

// reload reads the configuration again. One that is wrong changes nothing.
func (p *process) reload(s server, load func() (config.Config, error)) {
	p.audit.Reopen() // whatever the configuration is like: somebody rotates logs
	cfg, err := load()
	if err != nil {
		p.log.Error("configuration not reloaded: the former one stays", "err", err)
		return
	}
	for _, w := range cfg.Warnings {
		p.log.Warn("check the configuration", "warning", w)
	}
	p.needRestart(map[string]bool{
		"audit_log":           cfg.AuditLog != p.cfg.AuditLog,
		"log_format":          cfg.LogFormat != p.cfg.LogFormat,
		"dead_peer_timeout":   cfg.DeadPeerTimeout != p.cfg.DeadPeerTimeout,
		"backlog":             cfg.Backlog != p.cfg.Backlog,
		"loops":               cfg.Loops != p.cfg.Loops,
		"busy_poll":           cfg.BusyPoll != p.cfg.BusyPoll,
		"insecure":            cfg.Insecure != p.cfg.Insecure,
		"link_security":       cfg.LinkSecurity != p.cfg.LinkSecurity,
		"tls_cert":            cfg.Certificate.Cert != p.cfg.Certificate.Cert,
		"tls_key":             cfg.Certificate.Key != p.cfg.Certificate.Key,
		"tls_ca":              cfg.Certificate.CA != p.cfg.Certificate.CA,
		"max_handshake_bytes": cfg.MaxHandshake != p.cfg.MaxHandshake,
		"handshake_timeout":   cfg.HandshakeTimeout != p.cfg.HandshakeTimeout,
	})
	p.level.Set(cfg.LogLevel)
	p.cfg.DrainTimeout = cfg.DrainTimeout
	s.reload(cfg)
	p.log.Info("configuration reloaded")
}

// needRestart names in the log the keys that have changed and are not reloaded.
func (p *process) needRestart(changed map[string]bool) {
	maps.DeleteFunc(changed, func(_ string, is bool) bool { return !is })
	if keys := slices.Sorted(maps.Keys(changed)); len(keys) > 0 {
		p.log.Warn("changed, but needs a restart", "keys", keys)
	}
}

// metricsHandler answers /metrics.
func (p *process) metricsHandler() http.Handler {
	return promhttp.HandlerFor(p.metrics, promhttp.HandlerOpts{})
}

// descriptors returns a budget for the sessions of one of n roles.
func (p *process) descriptors(n int) socket.Budget {
	return socket.NewBudget(p.sessionDescriptors() / n)
}

// sessionDescriptors returns how many descriptors are for sessions. The rest of
// what the process may have is for HTTP, for the engine and for what it opens at
// the start.
func (p *process) sessionDescriptors() int {
	http, _ := p.httpConnections()
	return socket.Limit() - http - p.relay.Descriptors() - otherDescriptors
}

// otherDescriptors is how many are for what a process opens at the start.
const otherDescriptors = 24

// enoughDescriptors returns an error if a process that starts could have no
// session: each of two roles needs one for a mapped port and two for a session.
func (p *process) enoughDescriptors() error {
	if p.sessionDescriptors() >= 6 {
		return nil
	}
	http, _ := p.httpConnections()
	return tooFewDescriptors(fmt.Sprintf("event loops need up to %d, HTTP %d, files and the like %d", p.relay.Descriptors(), http, otherDescriptors))
}

// leastDescriptors are enough for a process with one loop.
const leastDescriptors = 50

func tooFewDescriptors(why string) error {
	hint := "Raise the limit (ulimit -Hn, LimitNOFILE= of systemd)"
	if socket.Limit() >= leastDescriptors {
		hint += ", or have fewer loops with --loops"
	}
	return &failure{
		message: fmt.Sprintf("this process may have %d descriptors, too few for sessions: %s", socket.Limit(), why),
		hint:    hint + ".", exit: exitFailed,
	}
}

// healthConnections is how many connections a proxy has for health and metrics.
const healthConnections = 256

// httpConnections is how many connections an HTTP server has at once, in all
// and of one source: a crowd must take neither the descriptors of sessions, nor
// all of the others.
func (p *process) httpConnections() (all, ofOne int) {
	cfg := p.cfg.Router.Connections
	if cfg == (config.Connections{}) {
		cfg = config.Connections{Max: healthConnections, MaxPerSource: healthConnections}
	}
	all = min(cfg.Max, max(socket.Limit()/4, 8))
	return all, min(cfg.MaxPerSource, max(all*3/4, 1))
}

// httpServer returns a server with the API's limits that logs where all do.
func (p *process) httpServer(h http.Handler) *http.Server {
	s := api.Server(h)
	s.ErrorLog = slog.NewLogLogger(p.log.Handler(), slog.LevelWarn)
	return s
}

// serveHTTP serves until ctx ends, and then lets requests finish for a moment.
func (p *process) serveHTTP(ctx context.Context, s *http.Server, ln net.Listener) error {
	stopped := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if s.Shutdown(ctx) != nil {
			stopped <- s.Close()
			return
		}
		stopped <- nil
	})
	all, ofOne := p.httpConnections()
	gated := gate.Listen(ln, gate.Config{
		Most: all, MostOfOne: ofOne, TLS: s.TLSConfig, Handshake: p.cfg.MaxHandshake, Within: s.ReadHeaderTimeout, Request: api.MaxRequest, Log: p.log,
	})
	gated.Watch(s)
	err := s.Serve(gated)
	if stop() || !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve HTTP on %v: %w", ln.Addr(), err)
	}
	return <-stopped
}

// listen listens for a role, and says what to do when it cannot.
func listen(ctx context.Context, what, address, flag string, sockets socket.Options) (*net.TCPListener, error) {
	ln, err := sockets.Listen(ctx, address)
	address = strings.TrimSuffix(address, ":0")
	switch {
	case err == nil:
		return ln, nil
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, &failure{
			message: fmt.Sprintf("cannot listen on %s for %s: another program does already", address, what),
			hint:    fmt.Sprintf("Stop that program, or choose another address with %s.", flag), exit: exitFailed,
		}
	case errors.Is(err, syscall.EACCES):
		return nil, &failure{
			message: fmt.Sprintf("cannot listen on %s for %s: permission denied", address, what),
			hint:    fmt.Sprintf("Choose a port above 1023 with %s.", flag), exit: exitFailed,
		}
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, &failure{
			message: fmt.Sprintf("cannot listen on %s for %s: this machine does not have that address", address, what),
			hint:    fmt.Sprintf("Choose another one with %s.", flag), exit: exitFailed,
		}
	}
	return nil, fmt.Errorf("listen on %s for %s: %w", address, what, err)
}
