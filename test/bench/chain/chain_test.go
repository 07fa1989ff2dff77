//go:build linux

package chain

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/ohrouter/oh-router/test/bench/load"
)

var (
	testFrom = netip.MustParseAddrPort("127.0.0.1:10001")
	testTo   = netip.MustParseAddrPort("127.0.0.1:10002")
	testLegs = []leg{{testFrom, testTo}}
)

// has checks that a configuration has lines, wherever they stand.
func has(t *testing.T, config string, lines ...string) {
	t.Helper()
	var got []string
	for line := range strings.Lines(config) {
		got = append(got, strings.TrimSpace(line))
	}
	for _, want := range lines {
		if !slices.Contains(got, want) {
			t.Errorf("there is no line %q in\n%s", want, config)
		}
	}
}

func TestHAProxyConfig(t *testing.T) {
	plain := haproxyConfig(hop{legs: testLegs, descriptors: 8000})
	has(t, plain, "mode tcp", "option splice-auto", "nbthread 2", "tune.pipesize 262144", "tune.bufsize 65536",
		"maxconn 2000", "maxpipes 1000", "bind 127.0.0.1:10001 backlog 4096", "server next 127.0.0.1:10002")
	has(t, haproxyConfig(hop{legs: testLegs, serve: "/a.pem"}), "bind 127.0.0.1:10001 backlog 4096 ssl crt /a.pem ssl-min-ver TLSv1.3")
	has(t, haproxyConfig(hop{legs: testLegs, expect: "/a.pem"}), "server next 127.0.0.1:10002 ssl verify required ca-file /a.pem ssl-min-ver TLSv1.3")
}

func TestNginxConfig(t *testing.T) {
	plain := nginxConfig(hop{legs: testLegs, descriptors: 8000}, "/m.so", true)
	has(t, plain, "load_module /m.so;", "user root;", "worker_processes 2;", "proxy_buffer_size 64k;",
		"listen 127.0.0.1:10001 reuseport backlog=4096;", "proxy_pass 127.0.0.1:10002;")
	if built := nginxConfig(hop{legs: testLegs}, "", false); strings.Contains(built, "load_module") || strings.Contains(built, "user ") {
		t.Errorf("loads a module that is built in, or sets a user:\n%s", built)
	}
	has(t, nginxConfig(hop{legs: testLegs, serve: "/a.pem"}, "", false), "listen 127.0.0.1:10001 reuseport backlog=4096 ssl;", "ssl_certificate /a.pem;")
	has(t, nginxConfig(hop{legs: testLegs, expect: "/a.pem"}, "", false), "proxy_ssl on;", "proxy_ssl_trusted_certificate /a.pem;")
}

func TestFRPConfig(t *testing.T) {
	has(t, frpServer(testFrom), "bindPort = 10001", "transport.tcpMux = false")
	has(t, frpClient(testFrom, []netip.AddrPort{testFrom}, []netip.AddrPort{testTo}),
		`serverAddr = "127.0.0.1"`, "serverPort = 10001", "transport.poolCount = 32", "remotePort = 10001", "localPort = 10002")
}

func TestVersionIn(t *testing.T) {
	for out, want := range map[string]string{
		"HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/": "2.6.12-1+deb12u4",
		"nginx version: nginx/1.22.1\n":                                      "1.22.1",
		"socat by Gerhard Rieger\nsocat version 1.7.4.4 on ":                 "1.7.4.4",
		"OpenSSH_9.2p1 Debian-2, OpenSSL 3.0.22 25":                          "9.2p1",
		"0.70.0\n": "0.70.0",
		"nothing":  "",
	} {
		if got := versionIn(out); got != want {
			t.Errorf("versionIn(%q) = %q, want %q", out, got, want)
		}
	}
}

func TestOwnVersion(t *testing.T) {
	for out, want := range map[string]string{`{"version":"v1.2-3-gabc","go":"go1.26.8"}`: "v1.2-3-gabc", "oh-router 1.2": ""} {
		if got := ownVersion(out); got != want {
			t.Errorf("ownVersion(%q) = %q, want %q", out, got, want)
		}
	}
}

func TestChoose(t *testing.T) {
	chains := []Chain{
		{Name: "here"},
		{Name: "gone", needs: []string{"no-such-program"}},
		{Name: "secret", TLS: true},
	}
	names := func(cs []Chain) (all []string) {
		for _, c := range cs {
			all = append(all, c.Name)
		}
		return all
	}
	tests := []struct {
		pick           []string
		tls            bool
		found, missing int
	}{
		{nil, false, 1, 1},
		{nil, true, 2, 1},
		{[]string{"secret"}, false, 1, 0},
		{[]string{"gone"}, false, 0, 1},
	}
	for _, tt := range tests {
		found, missing, err := Choose(chains, tt.pick, tt.tls)
		if err != nil || len(found) != tt.found || len(missing) != tt.missing {
			t.Errorf("Choose(%v, %v) = %v, %v, %v, want %d found and %d missing", tt.pick, tt.tls, names(found), missing, err, tt.found, tt.missing)
		}
	}
	if _, _, err := Choose(chains, []string{"typo"}, false); err == nil {
		t.Error("Choose of an unknown chain succeeds")
	}
	if _, _, err := Choose(Known([]Binary{{OHRouter, "/no/such/program"}}), nil, false); err == nil {
		t.Error("Choose succeeds without oh-router")
	}
	if _, _, err := Choose(Known([]Binary{{OHRouter, "/no/such/program"}}), []string{Direct}, false); err != nil {
		t.Errorf("Choose of another chain without oh-router: %v", err)
	}
}

// Each forwarder of the machine carries a session, with two targets and TLS.
func TestStart(t *testing.T) {
	target, err := load.Listen()
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	echo, greet := target.Addrs()
	for _, c := range Known(nil) {
		t.Run(c.Name, func(t *testing.T) {
			if err := c.look(); err != nil {
				t.Skip(err)
			}
			r, err := c.Start(t.Context(), Spec{Dir: t.TempDir(), Targets: []netip.AddrPort{echo, greet}})
			if err != nil {
				t.Fatal(err)
			}
			defer r.Stop()
			if err := r.Probe(t.Context()); err != nil {
				t.Fatal(err)
			}
			first, err := load.Do(t.Context(), load.Job{Kind: load.ServerFirst, Addr: r.Entries[1], Count: 1}, func() {})
			if err != nil || len(first.Samples) != 1 {
				t.Errorf("the second entry = %+v, %v, want a greeting", first, err)
			}
		})
	}
}
