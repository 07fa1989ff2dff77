//go:build linux

package chain

import (
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"
)

// leg is one port of a hop: what arrives at from goes to to.
type leg struct{ from, to netip.AddrPort }

// hop is what the configuration of a hop is made of.
type hop struct {
	dir  string
	legs []leg
	// At most one of these: the PEM file with certificate and key that clients
	// of this hop see, or the one that its own connections expect.
	serve, expect string
	descriptors   int
}

func haproxy(tls bool) Chain {
	c := Chain{
		Name: HAProxy, needs: []string{"haproxy"}, version: []string{"haproxy", "-v"},
		Remark: "mode tcp, splice-auto, nbthread 2, tune.pipesize 262144, tune.bufsize 65536",
	}
	if tls {
		c.Name, c.TLS, c.Remark = HAProxy+"-tls", true, c.Remark+"; TLS 1.3 between the hops"
	}
	c.start = func(s *site) error {
		return s.pair(tls, func(name string, h hop) error {
			config, err := s.file(name+".cfg", haproxyConfig(h))
			if err != nil {
				return err
			}
			return s.run(name, "haproxy", "-db", "-f", config)
		})
	}
	return c
}

func haproxyConfig(h hop) string {
	var b strings.Builder
	// Each session takes two descriptors, each pipe two more.
	sessions := min(4096, h.descriptors/4)
	fmt.Fprintf(&b, `global
    nbthread 2
    maxconn %d
    maxpipes %d
    tune.pipesize 262144
    tune.bufsize 65536

defaults
    mode tcp
    option splice-auto
    maxconn %d
    timeout connect 5s
    timeout client 1h
    timeout server 1h
`, sessions, sessions/2, sessions)
	bind, server := "", ""
	if h.serve != "" {
		bind = " ssl crt " + h.serve + " ssl-min-ver TLSv1.3"
	}
	if h.expect != "" {
		server = " ssl verify required ca-file " + h.expect + " ssl-min-ver TLSv1.3"
	}
	for i, l := range h.legs {
		fmt.Fprintf(&b, `
listen leg%d
    bind %v backlog 4096%s
    server next %v%s
`, i, l.from, bind, l.to, server)
	}
	return b.String()
}

// pair starts two hops that are configured alike; start runs one.
func (s *site) pair(tls bool, start func(name string, h hop) error) error {
	links, err := s.ports(len(s.Targets))
	if err != nil {
		return err
	}
	limit := unix.Rlimit{}
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	first := hop{dir: s.dir, descriptors: int(min(limit.Cur, 1<<20))}
	second := first
	if tls {
		if second.serve, err = s.certificate(); err != nil {
			return err
		}
		first.expect = second.serve
	}
	for i, t := range s.Targets {
		at, err := s.link(links[i])
		if err != nil {
			return err
		}
		second.legs = append(second.legs, leg{links[i], t})
		first.legs = append(first.legs, leg{s.entries[i], at})
	}
	if err := start("second", second); err != nil {
		return err
	}
	if err := s.await(links...); err != nil {
		return err
	}
	return start("first", first)
}
