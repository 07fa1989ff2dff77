// Package config turns a configuration file, the environment and flags into
// typed, checked settings.
//
// Every setting is one entry of the table in settings.go: its key in the file,
// the commands that have it as a flag, its default and how its text is read.
// Each source gives texts for keys; what a flag says wins over the environment,
// then the file, then the default. Only then are texts read, so that a mistake
// is reported the same way, with the place it stands, wherever it was made.
// reference.yaml documents every key.
package config

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/ohrouter/oh-router/internal/policy"
	"github.com/ohrouter/oh-router/internal/socket"
)

// Role is a command that serves.
type Role string

// The roles. [Up] is router and proxy in one process: it takes the router's
// settings and the proxy's dial_timeout and target_congestion, keeps no state and dials what
// [policy.Everything] permits, whatever the file says about state, proxies and
// the allow-list.
const (
	RouterRole Role = "router"
	ProxyRole  Role = "proxy"
	Up         Role = "up"
)

// Config is everything a server is told. Of Router and Proxy the part that the
// role does not have is zero.
type Config struct {
	Common
	Router   Router
	Proxy    Proxy
	Open     []string // what insecure leaves open to others, in words; nil without it
	Warnings []string // sentences for the log: allowed, but worth a look
}

// Common is what all roles have.
type Common struct {
	LogLevel        slog.Level
	LogFormat       LogFormat
	DrainTimeout    time.Duration // how long sessions may finish after SIGTERM
	DeadPeerTimeout time.Duration // from socket.MinDeadAfter to socket.MaxDeadAfter, whole seconds
	Backlog         int           // 0 as many as the system permits
	Loops           int           // event loops; 0 as many as there are processors
	BusyPoll        time.Duration // for how long a pause a loop does, up to a millisecond; 0 not at all
	AuditLog        string        // file, "-" stdout, "" none
	Insecure        bool          // more than loopback may be used without credentials
	LinkSecurity    LinkSecurity
	Certificate     Certificate
	MaxHandshake    int // bytes of TLS from a peer that has not proved who it is

	HandshakeTimeout time.Duration // how long such a peer has; 0 the default
}

// LinkSecurity is what protects links.
type LinkSecurity string

// AutoSecurity is mutual TLS as soon as there is an identity, and nothing on
// loopback without one. ExternalSecurity is what carries the links, a VPN for
// example: they are plain TCP.
const (
	AutoSecurity     LinkSecurity = "auto"
	ExternalSecurity LinkSecurity = "external"
)

// Certificate has the PEM files of an identity that was not made by oh-router;
// all empty for one that is in the state directory.
type Certificate struct{ Cert, Key, CA string }

// LogFormat is how log lines look.
type LogFormat string

// The log formats. AutoLog is text on a terminal, else JSON.
const (
	AutoLog LogFormat = "auto"
	TextLog LogFormat = "text"
	JSONLog LogFormat = "json"
)

// Router is what the router role is told.
type Router struct {
	Listen           netip.AddrPort // of the REST API
	BindAddress      netip.Addr     // where mapped ports listen
	Advertise        string         // host in returned addresses; "" the address at which the call arrived
	Ports            Ports
	AllowedHosts     []string      // names by which the API may be called, besides those that follow from the rest
	OpenMetrics      bool          // /metrics takes no token
	Connections      Connections   // to the REST API
	IdleTimeout      time.Duration // 0 never
	Park             time.Duration // 0 off
	Quarantine       time.Duration
	Proxies          []ProxyAddress
	Pool             Pool
	ClientCongestion string // congestion control; "" the system's
	LinkCongestion   string
	State            string // directory; "" keeps everything in memory
}

// Connections is how many there may be at once, in all and of one source.
type Connections struct{ Max, MaxPerSource int }

// Pool is how many warm links to each proxy there are, at least and at most.
type Pool struct{ Min, Max int }

// Ports is a range of ports, Low and High included.
type Ports struct{ Low, High uint16 }

// String returns "LOW-HIGH".
func (p Ports) String() string { return fmt.Sprintf("%d-%d", p.Low, p.High) }

// ProxyAddress is a proxy that the router dials.
type ProxyAddress struct {
	Name    string // Address where none was given
	Address string // "host:port"
}

// Proxy is what the proxy role is told.
type Proxy struct {
	Listen           netip.AddrPort // for links
	Allow            *policy.List
	Metrics          netip.AddrPort // the zero AddrPort: off
	AllowedHosts     []string       // names by which Metrics may be called, besides those that are known
	OpenMetrics      bool           // Metrics may be beyond loopback
	DialTimeout      time.Duration
	Handshakes       Handshakes
	LinkCongestion   string // congestion control; "" the system's
	TargetCongestion string
	State            string // directory that has its identity; "" none
}

// Handshakes is how many links may be within theirs, in all and of one source.
type Handshakes struct{ Max, MaxPerSource int }

// ErrUsage is in the chain of an error that a flag or the environment caused,
// and not a file.
var ErrUsage = errors.New("usage")

// Problem is one thing wrong with one setting.
type Problem struct {
	Where string // "FILE:router.ports", "--ports" or "OH_ROUTER_PORTS"
	Err   error  // what is wrong, and what is allowed
	usage bool
}

// Error returns the place and what is wrong there, in one line.
func (p *Problem) Error() string { return p.Where + ": " + p.Err.Error() }

// Unwrap returns what is wrong.
func (p *Problem) Unwrap() error { return p.Err }

// Is makes [ErrUsage] work.
func (p *Problem) Is(target error) bool { return target == ErrUsage && p.usage }

// Load returns the settings of a role from the flags that [Flags] registered
// and that have been parsed, the environment in the form of [os.Environ], and
// the file that either names. The error joins every [Problem] found; each is a
// line of its text. Load may be called again to read a changed file.
func Load(role Role, fs *pflag.FlagSet, environ []string, has Identified) (Config, error) {
	env := environment(environ)
	given := defaults()
	var problems []error
	if path := configPath(fs, env); path != "" {
		fromFile, wrong := readFile(path)
		given.add(fromFile)
		problems = append(problems, wrong...)
	}
	given.add(fromEnvironment(role, env))
	given.add(fromFlags(role, fs))

	cfg, wrong := given.config()
	problems = append(problems, wrong...)
	problems = append(problems, cfg.findState(role, given, env)...)
	problems = append(problems, checkCertificate(&cfg, given)...)
	secured := cfg.secured(role, has)
	if role == ProxyRole {
		problems = append(problems, checkProxy(&cfg, given, secured)...)
	} else {
		problems = append(problems, checkRouter(&cfg, given, role == RouterRole, secured)...)
	}
	cfg.narrow(role)
	problems = append(problems, checkCongestion(&cfg, given)...)
	if len(problems) > 0 {
		return Config{}, errors.Join(problems...)
	}
	cfg.Open = cfg.leftOpen(role, secured)
	cfg.Warnings = slices.Concat(warnings(role, cfg, secured), strangers(env))
	return cfg, nil
}

// findState works out where a role keeps its state.
func (c *Config) findState(role Role, given values, env map[string]string) []error {
	dir, key := &c.Router.State, "router.state"
	switch role {
	case Up:
		return nil
	case ProxyRole:
		dir, key = &c.Proxy.State, "proxy.state"
	}
	state, err := stateDir(*dir, env)
	*dir = state
	if err != nil && role == RouterRole { // a proxy can do without
		return []error{given[key].problem(fmt.Errorf("%w, or --state none to keep it in memory", err))}
	}
	return nil
}

// checkCertificate returns what is missing of a certificate.
func checkCertificate(c *Config, given values) []error {
	files := map[string]string{"tls_cert": c.Certificate.Cert, "tls_key": c.Certificate.Key, "tls_ca": c.Certificate.CA}
	if c.Certificate == (Certificate{}) {
		return nil
	}
	keys := []string{"tls_cert", "tls_key", "tls_ca"}
	there := slices.IndexFunc(keys, func(key string) bool { return files[key] != "" })
	for _, key := range keys {
		if files[key] == "" {
			g := given[keys[there]]
			return []error{g.problem(fmt.Errorf("%s is missing: %s, %s and %s belong together", g.spell(key), g.spell(keys[0]), g.spell(keys[1]), g.spell(keys[2])))}
		}
	}
	return nil
}

// checkCongestion returns the congestion controls that this machine does not
// have for this process.
func checkCongestion(c *Config, given values) (problems []error) {
	for _, used := range []struct{ key, name string }{
		{"router.client_congestion", c.Router.ClientCongestion},
		{"router.link_congestion", c.Router.LinkCongestion},
		{"proxy.link_congestion", c.Proxy.LinkCongestion},
		{"proxy.target_congestion", c.Proxy.TargetCongestion},
	} {
		if used.name == "" {
			continue
		}
		if err := socket.CheckCongestion(used.name); err != nil {
			problems = append(problems, given[used.key].problem(err))
		}
	}
	return problems
}

// Check reads a file as every role would on this machine, in an environment in
// the form of [os.Environ]. It returns what the log of the roles that the file
// has a section for would warn of, and all that is wrong with it, joined; each
// [Problem] is a line of the error's text.
func Check(path string, environ []string, has Identified) (warned []string, err error) {
	given := defaults()
	fromFile, problems := readFile(path)
	given.add(fromFile)
	cfg, wrong := given.config()
	problems = append(problems, wrong...)
	env := environment(environ)
	_ = cfg.findState(RouterRole, given, env) // without a home directory: no fault of the file
	_ = cfg.findState(ProxyRole, given, env)
	problems = append(problems, checkCertificate(&cfg, given)...)
	problems = append(problems, checkRouter(&cfg, given, true, cfg.secured(RouterRole, has))...)
	problems = append(problems, checkProxy(&cfg, given, cfg.secured(ProxyRole, has))...)
	problems = append(problems, checkCongestion(&cfg, given)...)
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	roles := fromFile.roles()
	for _, role := range roles { // one that needs insecure is enough
		cfg.Open = append(cfg.Open, cfg.leftOpen(role, cfg.secured(role, has))...)
	}
	for _, role := range roles {
		for _, w := range warnings(role, cfg, cfg.secured(role, has)) {
			if !slices.Contains(warned, w) {
				warned = append(warned, w)
			}
		}
	}
	return warned, nil
}

// narrow takes away what the role does not have.
func (c *Config) narrow(role Role) {
	switch role {
	case RouterRole:
		c.Proxy = Proxy{}
	case ProxyRole:
		c.Router = Router{}
	case Up:
		r := &c.Router
		r.Proxies, r.State, r.Pool, r.LinkCongestion = nil, "", Pool{}, ""
		c.Proxy = Proxy{Allow: policy.Everything(), DialTimeout: c.Proxy.DialTimeout, TargetCongestion: c.Proxy.TargetCongestion, Handshakes: c.Proxy.Handshakes}
	}
}

// stateDir returns the directory for the value of the state key: "" for none.
func stateDir(value string, env map[string]string) (string, error) {
	switch {
	case value == "none":
		return "", nil
	case value != "":
		return value, nil
	}
	// systemd gives several directories separated by colons.
	if dir, _, _ := strings.Cut(env["STATE_DIRECTORY"], ":"); dir != "" {
		return dir, nil
	}
	if dir := env["XDG_STATE_HOME"]; filepath.IsAbs(dir) {
		return filepath.Join(dir, "oh-router"), nil
	}
	if home := env["HOME"]; filepath.IsAbs(home) {
		return filepath.Join(home, ".local", "state", "oh-router"), nil
	}
	return "", errors.New("there is no home directory to keep state in: give --state DIR")
}
