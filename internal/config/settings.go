package config

import (
	"slices"
	"strings"
	"time"

	"github.com/ohrouter/oh-router/internal/policy"
)

// setting is one thing that can be configured.
type setting struct {
	key   string                            // in the file: "drain_timeout", "router.listen"
	roles []Role                            // the commands that have it as a flag
	arg   string                            // stands for the value in help; "" for a switch
	help  string                            // stands in help, and in reference.yaml
	def   string                            // as a user would write it; "" is worked out or none
	split func(string) []string             // cuts a list; nil for a single value
	set   func(c *Config, v []string) error // v has one item unless there is a split
}

// flag returns the setting's word on the command line.
func (s setting) flag() string {
	_, word, ok := strings.Cut(s.key, ".")
	if !ok {
		word = s.key
	}
	return strings.ReplaceAll(word, "_", "-")
}

// variable returns the name of the setting's environment variable.
func (s setting) variable() string { return variable(s.flag()) }

// variable returns the name of a flag's environment variable.
func variable(flag string) string {
	return "OH_ROUTER_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// settings returns all there are, in the order of reference.yaml.
func settings() []setting {
	return slices.Concat(commonSettings(), routerSettings(), proxySettings())
}

func commonSettings() []setting {
	all := []Role{RouterRole, ProxyRole, Up}
	return []setting{
		{
			key: "log_level", roles: all, arg: "LEVEL", def: "info",
			help: "log lines of this level and above: debug, info, warn or error",
			set:  one(func(c *Config, v string) (err error) { c.LogLevel, err = parseLogLevel(v); return }),
		}, {
			key: "log_format", roles: all, arg: "FORMAT", def: "auto",
			help: "text, json, or auto: text on a terminal, else json",
			set:  one(func(c *Config, v string) (err error) { c.LogFormat, err = parseLogFormat(v); return }),
		}, {
			key: "audit_log", roles: all, arg: "FILE",
			help: "write who did what, a line of JSON for each event, to this file, or - for stdout; nowhere by default",
			set:  one(func(c *Config, v string) error { c.AuditLog = v; return nil }),
		}, {
			key: "drain_timeout", roles: all, arg: "DURATION", def: "30s",
			help: "how long sessions may finish after SIGTERM",
			set:  one(func(c *Config, v string) (err error) { c.DrainTimeout, err = parseDuration(v, 0, unbounded); return }),
		}, {
			key: "dead_peer_timeout", roles: all, arg: "DURATION", def: "25s",
			help: "how soon a dead client, target or link is noticed, from 5s to 10m; a peer that takes no byte for so long counts as dead, too",
			set:  one(func(c *Config, v string) (err error) { c.DeadPeerTimeout, err = parseDeadPeerTimeout(v); return }),
		}, {
			key: "backlog", roles: all, arg: "NUMBER", def: "system",
			help: "how many connections may wait at a mapped port, or a proxy's listener, to be accepted; system: as many as the system permits, which is the most",
			set:  one(func(c *Config, v string) (err error) { c.Backlog, err = parseNumber(v, "system", maxBacklog); return }),
		}, {
			key: "loops", roles: all, arg: "NUMBER", def: "auto",
			help: "how many event loops carry sessions, 64 at most; auto: as many as there are processors",
			set:  one(func(c *Config, v string) (err error) { c.Loops, err = parseNumber(v, "auto", maxLoops); return }),
		}, {
			key: "busy_poll", roles: all, arg: "DURATION", def: "75us",
			help: "how long an event loop whose pauses are mostly shorter asks for events before it sleeps; 0: it sleeps at once",
			set:  one(func(c *Config, v string) (err error) { c.BusyPoll, err = parseDuration(v, 0, maxBusyPoll); return }),
		}, {
			key: "insecure", roles: all, def: "false",
			help: "permit addresses beyond loopback, although API and links are neither encrypted nor authenticated",
			set:  one(func(c *Config, v string) (err error) { c.Insecure, err = parseBool(v); return }),
		}, {
			key: "link_security", roles: []Role{RouterRole, ProxyRole}, arg: "MODE", def: "auto",
			help: "auto: links use mutual TLS when there is a certificate; external: a VPN protects them, and they are plain TCP",
			set:  one(func(c *Config, v string) (err error) { c.LinkSecurity, err = parseLinkSecurity(v); return }),
		}, {
			key: "tls_cert", roles: []Role{RouterRole, ProxyRole}, arg: "FILE",
			help: "certificate of this machine in PEM form, followed when it changes; the one in the state directory by default",
			set:  one(func(c *Config, v string) error { c.Certificate.Cert = v; return nil }),
		}, {
			key: "tls_key", roles: []Role{RouterRole, ProxyRole}, arg: "FILE",
			help: "private key of tls_cert, in PEM form",
			set:  one(func(c *Config, v string) error { c.Certificate.Key = v; return nil }),
		}, {
			key: "tls_ca", roles: []Role{RouterRole, ProxyRole}, arg: "FILE",
			help: "CAs that the other side's certificate is to be of, in PEM form",
			set:  one(func(c *Config, v string) error { c.Certificate.CA = v; return nil }),
		}, {
			key: "max_handshake_bytes", roles: []Role{RouterRole, ProxyRole}, arg: "NUMBER", def: "16384",
			help: "bytes of TLS that a peer may send before it has proved who it is, from 8192 to 262144",
			set:  one(func(c *Config, v string) (err error) { c.MaxHandshake, err = parseHandshake(v); return }),
		}, {
			key: "handshake_timeout", roles: []Role{RouterRole, ProxyRole}, arg: "DURATION", def: "5s",
			help: "how long a peer has to prove who it is and say what it wants, from 1s to 1m",
			set: one(func(c *Config, v string) (err error) {
				c.HandshakeTimeout, err = parseDuration(v, time.Second, time.Minute)
				return
			}),
		},
	}
}

func routerSettings() []setting {
	both := []Role{RouterRole, Up}
	return []setting{
		{
			key: "router.listen", roles: both, arg: "IP:PORT", def: "127.0.0.1:8080",
			help: "where the REST API listens",
			set:  one(func(c *Config, v string) (err error) { c.Router.Listen, err = parseListen(v, 8080); return }),
		}, {
			key: "router.bind_address", roles: both, arg: "IP",
			help: "where mapped ports listen; the host of listen by default",
			set:  one(func(c *Config, v string) (err error) { c.Router.BindAddress, err = parseBindAddress(v); return }),
		}, {
			key: "router.advertise", roles: both, arg: "HOST",
			help: "host in the addresses that clients get; the bind address by default, or the address at which the API was called if that is unspecified",
			set:  one(func(c *Config, v string) (err error) { c.Router.Advertise, err = parseAdvertise(v); return }),
		}, {
			key: "router.ports", roles: both, arg: "LOW-HIGH", def: "20000-29999",
			help: "range of ports to map",
			set:  one(func(c *Config, v string) (err error) { c.Router.Ports, err = parsePorts(v); return }),
		}, {
			key: "router.allowed_hosts", roles: both, arg: "HOST", split: splitCommas,
			help: "name by which the REST API may be called, besides localhost, every address, advertise and the names in the certificate; may be repeated",
			set:  func(c *Config, v []string) (err error) { c.Router.AllowedHosts, err = parseHosts(v); return },
		}, {
			key: "router.open_metrics", roles: both, def: "false",
			help: "answer /metrics without a token, too",
			set:  one(func(c *Config, v string) (err error) { c.Router.OpenMetrics, err = parseBool(v); return }),
		}, {
			key: "router.max_connections", roles: both, arg: "NUMBER", def: "2048",
			help: "connections to the REST API at once; of more, the oldest without a call are dropped",
			set:  one(func(c *Config, v string) (err error) { c.Router.Connections.Max, err = parseCount(v); return }),
		}, {
			key: "router.max_connections_per_source", roles: both, arg: "NUMBER", def: "1024",
			help: "the same for those of one address, or one IPv6 network (/64)",
			set:  one(func(c *Config, v string) (err error) { c.Router.Connections.MaxPerSource, err = parseCount(v); return }),
		}, {
			key: "router.idle_timeout", roles: both, arg: "DURATION", def: "5m",
			help: "recycle a binding this long after its last session ended or its last bind call; 0 never",
			set: one(func(c *Config, v string) (err error) {
				c.Router.IdleTimeout, err = parseDuration(v, 0, unbounded)
				return
			}),
		}, {
			key: "router.park", roles: both, arg: "DURATION", def: "3s",
			help: "how long a bind's check waits for its first client, at most 30s; 0 off",
			set: one(func(c *Config, v string) (err error) {
				c.Router.Park, err = parseDuration(v, 0, 30*time.Second)
				return
			}),
		}, {
			key: "router.quarantine", roles: both, arg: "DURATION", def: "10m",
			help: "how long a recycled port rests before it may serve another target",
			set: one(func(c *Config, v string) (err error) {
				c.Router.Quarantine, err = parseDuration(v, 0, unbounded)
				return
			}),
		}, {
			key: "router.proxy", roles: []Role{RouterRole}, arg: "[NAME=]HOST:PORT", def: "127.0.0.1:9000", split: splitCommas,
			help: "proxy to dial; may be repeated",
			set:  func(c *Config, v []string) (err error) { c.Router.Proxies, err = parseProxies(v); return },
		}, {
			key: "router.pool", roles: []Role{RouterRole}, arg: "MIN-MAX", def: "0-64",
			help: "how many links to each proxy are made ahead of their sessions, MIN-MAX; 0-0 none",
			set:  one(func(c *Config, v string) (err error) { c.Router.Pool, err = parsePool(v); return }),
		}, {
			key: "router.client_congestion", roles: both, arg: "NAME", def: "system",
			help: "congestion control of connections with clients; system: the system's",
			set:  one(func(c *Config, v string) error { c.Router.ClientCongestion = parseCongestion(v); return nil }),
		}, {
			key: "router.link_congestion", roles: []Role{RouterRole}, arg: "NAME", def: "system",
			help: "congestion control of links, for what goes to the proxy; system: the system's",
			set:  one(func(c *Config, v string) error { c.Router.LinkCongestion = parseCongestion(v); return nil }),
		}, {
			key: "router.state", roles: []Role{RouterRole}, arg: "DIR",
			help: "keep bindings, ports and resting ports here across restarts, or none for memory only; $STATE_DIRECTORY by default, else the XDG state folder",
			set:  one(func(c *Config, v string) error { c.Router.State = v; return nil }),
		},
	}
}

func proxySettings() []setting {
	return []setting{
		{
			key: "proxy.listen", roles: []Role{ProxyRole}, arg: "IP:PORT", def: "127.0.0.1:9000",
			help: "where links from routers arrive",
			set:  one(func(c *Config, v string) (err error) { c.Proxy.Listen, err = parseListen(v, 9000); return }),
		}, {
			key: "proxy.allow", roles: []Role{ProxyRole}, arg: "PATTERN", split: policy.Split,
			help: "targets that may be dialled, none by default: CIDR:PORTS, HOSTGLOB:PORTS or any; may be repeated",
			set:  func(c *Config, v []string) (err error) { c.Proxy.Allow, err = parseAllow(v); return },
		}, {
			key: "proxy.metrics", roles: []Role{ProxyRole}, arg: "IP:PORT", def: "off",
			help: "where /livez, /readyz and /metrics listen, or off",
			set:  one(func(c *Config, v string) (err error) { c.Proxy.Metrics, err = parseMetrics(v); return }),
		}, {
			key: "proxy.allowed_hosts", roles: []Role{ProxyRole}, arg: "HOST", split: splitCommas,
			help: "name by which metrics may be called, besides localhost, this machine's own and every address; may be repeated",
			set:  func(c *Config, v []string) (err error) { c.Proxy.AllowedHosts, err = parseHosts(v); return },
		}, {
			key: "proxy.open_metrics", roles: []Role{ProxyRole}, def: "false",
			help: "permit an address beyond loopback for metrics: whoever reaches it may read them, in the clear",
			set:  one(func(c *Config, v string) (err error) { c.Proxy.OpenMetrics, err = parseBool(v); return }),
		}, {
			key: "proxy.dial_timeout", roles: []Role{ProxyRole, Up}, arg: "DURATION", def: "5s",
			help: "how long connecting to a target may take, at most 1m",
			set: one(func(c *Config, v string) (err error) {
				c.Proxy.DialTimeout, err = parseDuration(v, 1, time.Minute)
				return
			}),
		}, {
			key: "proxy.max_handshakes", roles: []Role{ProxyRole}, arg: "NUMBER", def: "2048",
			help: "links that may not have said yet what they want; of more, the oldest are dropped",
			set:  one(func(c *Config, v string) (err error) { c.Proxy.Handshakes.Max, err = parseCount(v); return }),
		}, {
			key: "proxy.max_handshakes_per_source", roles: []Role{ProxyRole}, arg: "NUMBER", def: "1024",
			help: "the same for those of one address, or one IPv6 network (/64)",
			set:  one(func(c *Config, v string) (err error) { c.Proxy.Handshakes.MaxPerSource, err = parseCount(v); return }),
		}, {
			key: "proxy.link_congestion", roles: []Role{ProxyRole}, arg: "NAME", def: "system",
			help: "congestion control of links, for what goes to the router; system: the system's",
			set:  one(func(c *Config, v string) error { c.Proxy.LinkCongestion = parseCongestion(v); return nil }),
		}, {
			key: "proxy.target_congestion", roles: []Role{ProxyRole, Up}, arg: "NAME", def: "system",
			help: "congestion control of connections to targets; system: the system's",
			set:  one(func(c *Config, v string) error { c.Proxy.TargetCongestion = parseCongestion(v); return nil }),
		}, {
			key: "proxy.state", roles: []Role{ProxyRole}, arg: "DIR",
			help: "where 'oh-router proxy enroll' has put this machine's certificate, or none; $STATE_DIRECTORY by default, else the XDG state folder",
			set:  one(func(c *Config, v string) error { c.Proxy.State = v; return nil }),
		},
	}
}

// one makes a set of a function that reads a single value.
func one(set func(c *Config, v string) error) func(*Config, []string) error {
	return func(c *Config, v []string) error { return set(c, v[0]) }
}

// splitCommas cuts a list at its commas.
func splitCommas(list string) []string {
	var items []string
	for item := range strings.SplitSeq(list, ",") {
		if item = strings.TrimSpace(item); item != "" {
			items = append(items, item)
		}
	}
	return items
}
