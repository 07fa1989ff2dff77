//go:build linux

package chain

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"strconv"
	"strings"

	"github.com/ohrouter/oh-router/test/bench/load"
	"github.com/ohrouter/oh-router/test/bench/process"
)

// randomPort returns where to begin to look for free ports: chains that start
// at the same time shall not look at the same.
func randomPort() int { return lowPort + rand.IntN((highPort-lowPort)*9/10) }

func startDirect(s *site) error {
	for _, t := range s.Targets {
		at, err := s.link(t)
		if err != nil {
			return err
		}
		s.entries = append(s.entries, at)
	}
	return nil
}

// Binary is an oh-router program to measure.
type Binary struct{ Name, Path string }

func ohRouter(b Binary, tls bool) Chain {
	c := Chain{
		Name: b.Name, TLS: tls, Ours: true, needs: []string{b.Path}, version: []string{b.Path, "version", "-o", "json"}, read: ownVersion,
		Remark: "router and proxy with their defaults: limits, accounting and keep-alive on",
		start:  func(s *site) error { return startOHRouter(s, b.Path, tls) },
	}
	if tls {
		c.Name, c.Remark = b.Name+"-tls", c.Remark+"; mutual TLS 1.3 between the hops"
	}
	return c
}

// ownVersion reads the version that oh-router prints as JSON.
func ownVersion(out string) string {
	var v struct{ Version string }
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		return ""
	}
	return v.Version
}

func startOHRouter(s *site, binary string, tls bool) error {
	addrs, err := FreePorts(2)
	if err != nil {
		return err
	}
	var router, proxy []string // flags
	scheme := "http://"
	if tls {
		ca, routerFile, proxyFile, err := s.identities()
		if err != nil {
			return err
		}
		router = []string{"--tls-ca", ca, "--tls-cert", routerFile, "--tls-key", routerFile}
		proxy = []string{"--tls-ca", ca, "--tls-cert", proxyFile, "--tls-key", proxyFile}
		scheme = "https://"
	}
	api, links := addrs[0], addrs[1]
	at, err := s.link(links)
	if err != nil {
		return err
	}
	proxy = append([]string{"proxy", "--listen", links.String(), "--allow", "127.0.0.0/8:*"}, proxy...)
	if err := s.run("proxy", binary, proxy...); err != nil {
		return err
	}
	if err := s.await(links); err != nil {
		return err
	}
	router = append([]string{"router", "--listen", api.String(), "--proxy", "bench=" + at.String(), "--state", "none", "--idle-timeout", "0"}, router...)
	if err := s.run("router", binary, router...); err != nil {
		return err
	}
	s.api = scheme + api.String()
	if err := s.await(api); err != nil {
		return err
	}
	if err := process.Poll(s.ctx, func() (bool, error) { return s.ready(), nil }); err != nil {
		return err
	}
	for _, t := range s.Targets {
		b, err := load.CreateBinding(s.ctx, s.api, t, !s.NoCheck)
		if err != nil {
			return err
		}
		s.entries = append(s.entries, b.Address)
	}
	return nil
}

// ready tells whether the router accepts binds.
func (s *site) ready() bool {
	req, err := http.NewRequestWithContext(s.ctx, http.MethodGet, s.api+"/readyz", nil)
	if err != nil {
		return false
	}
	resp, err := load.Client.Do(req)
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// socat forks a process for each session.
func socat() Chain {
	return Chain{
		Name: "socat", needs: []string{"socat"}, version: []string{"socat", "-V"},
		Remark: "a process per session and hop, 64 KiB buffers, TCP_NODELAY",
		start: func(s *site) error {
			links, err := s.ports(len(s.Targets))
			if err != nil {
				return err
			}
			for i, t := range s.Targets {
				at, err := s.link(links[i])
				if err != nil {
					return err
				}
				if err := s.socat(fmt.Sprintf("second-%d", i), links[i], t); err != nil {
					return err
				}
				if err := s.socat(fmt.Sprintf("first-%d", i), s.entries[i], at); err != nil {
					return err
				}
			}
			return s.await(links...)
		},
	}
}

func (s *site) socat(hop string, from, to netip.AddrPort) error {
	return s.run(hop, "socat", "-b", "65536",
		fmt.Sprintf("TCP4-LISTEN:%d,bind=127.0.0.1,reuseaddr,fork,backlog=4096,nodelay", from.Port()),
		fmt.Sprintf("TCP4:%v,nodelay", to))
}

// frp works the other way round: the hop beside the targets dials the other,
// here 32 connections in advance.
func frp() Chain {
	return Chain{
		Name: "frp", needs: []string{"frps", "frpc"}, version: []string{"frps", "--version"},
		Remark: "mux off, pool of 32, no TLS",
		start: func(s *site) error {
			addrs, err := s.ports(1)
			if err != nil {
				return err
			}
			at, err := s.link(addrs[0])
			if err != nil {
				return err
			}
			server, err := s.file("frps.toml", frpServer(addrs[0]))
			if err != nil {
				return err
			}
			if err := s.run("first", "frps", "-c", server); err != nil {
				return err
			}
			if err := s.await(addrs[0]); err != nil {
				return err
			}
			client, err := s.file("frpc.toml", frpClient(at, s.entries, s.Targets))
			if err != nil {
				return err
			}
			return s.run("second", "frpc", "-c", client)
		},
	}
}

func frpServer(at netip.AddrPort) string {
	return fmt.Sprintf(`bindAddr = "127.0.0.1"
bindPort = %d
proxyBindAddr = "127.0.0.1"
transport.tcpMux = false
transport.maxPoolCount = 32
log.level = "warn"
`, at.Port())
}

func frpClient(server netip.AddrPort, entries, targets []netip.AddrPort) string {
	var b strings.Builder
	fmt.Fprintf(&b, `serverAddr = %q
serverPort = %d
transport.tcpMux = false
transport.poolCount = 32
transport.tls.enable = false
log.level = "warn"
`, server.Addr(), server.Port())
	for i, t := range targets {
		fmt.Fprintf(&b, `
[[proxies]]
name = "target-%d"
type = "tcp"
localIP = %q
localPort = %d
remotePort = %d
`, i, t.Addr(), t.Port(), entries[i].Port())
	}
	return b.String()
}

func gost() Chain {
	return Chain{
		Name: "gost", needs: []string{"gost"}, version: []string{"gost", "-V"},
		Remark: "relay protocol, no TLS",
		start: func(s *site) error {
			return s.tunnel("gost", func(links, at netip.AddrPort) (second, first []string) {
				for i, t := range s.Targets {
					first = append(first, "-L", fmt.Sprintf("tcp://%v/%v", s.entries[i], t))
				}
				relay := "relay://" + at.String()
				if len(s.Targets) > 1 {
					// By default it waits for the client's first bytes: good for a
					// protocol in which the client speaks first, a hang in others.
					relay += "?nodelay=true"
				}
				return []string{"-L", "relay://" + links.String()}, append(first, "-F", relay)
			})
		},
	}
}

func chisel() Chain {
	return Chain{
		Name: "chisel", needs: []string{"chisel"}, version: []string{"chisel", "--version"},
		Remark: "one SSH connection in a WebSocket for all sessions; always encrypted",
		start: func(s *site) error {
			return s.tunnel("chisel", func(links, at netip.AddrPort) (second, first []string) {
				first = []string{"client", "http://" + at.String()}
				for i, t := range s.Targets {
					first = append(first, fmt.Sprintf("%v:%v", s.entries[i], t))
				}
				return []string{"server", "--host", "127.0.0.1", "--port", strconv.Itoa(int(links.Port()))}, first
			})
		},
	}
}

// tunnel starts a program once for each hop. args makes the command lines of
// the second hop, which listens at links, and of the first, which reaches it
// at at.
func (s *site) tunnel(program string, args func(links, at netip.AddrPort) (second, first []string)) error {
	addrs, err := s.ports(1)
	if err != nil {
		return err
	}
	at, err := s.link(addrs[0])
	if err != nil {
		return err
	}
	second, first := args(addrs[0], at)
	if err := s.run("second", program, second...); err != nil {
		return err
	}
	if err := s.await(addrs[0]); err != nil {
		return err
	}
	return s.run("first", program, first...)
}
