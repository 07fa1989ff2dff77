package config

import (
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/spf13/pflag"

	"github.com/ohrouter/oh-router/internal/policy"
	"github.com/ohrouter/oh-router/internal/socket"
)

// load parses args as a role's command line and loads it, in an environment
// that has a home.
func load(tb testing.TB, role Role, environ []string, args ...string) (Config, error) {
	tb.Helper()
	fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
	Flags(fs, role)
	if err := fs.Parse(args); err != nil {
		tb.Fatalf("parse %q: %v", args, err)
	}
	return Load(role, fs, append([]string{"HOME=/home/someone"}, environ...), nil)
}

func mustLoad(tb testing.TB, role Role, environ []string, args ...string) Config {
	tb.Helper()
	c, err := load(tb, role, environ, args...)
	if err != nil {
		tb.Fatalf("Load(%s, %q, %q): %v", role, environ, args, err)
	}
	return c
}

// writeFile returns the path of a configuration file with that text.
func writeFile(tb testing.TB, text string) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "oh-router.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
	return path
}

func diff(want, got Config) string {
	return cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}),
		cmpopts.IgnoreFields(Config{}, "Warnings"),
		cmp.Comparer(func(a, b *policy.List) bool { return a.String() == b.String() }))
}

func TestDefaults(t *testing.T) {
	common := Common{LogLevel: slog.LevelInfo, LogFormat: AutoLog, DrainTimeout: 30 * time.Second, DeadPeerTimeout: 25 * time.Second, BusyPoll: 75 * time.Microsecond, LinkSecurity: AutoSecurity, MaxHandshake: 16 << 10, HandshakeTimeout: 5 * time.Second}
	router := Router{
		Listen:      netip.MustParseAddrPort("127.0.0.1:8080"),
		BindAddress: netip.MustParseAddr("127.0.0.1"),
		Advertise:   "127.0.0.1",
		Ports:       Ports{20000, 29999},
		Connections: Connections{2048, 1024},
		IdleTimeout: 5 * time.Minute,
		Park:        3 * time.Second,
		Quarantine:  10 * time.Minute,
	}
	up := Config{Common: common, Router: router, Proxy: Proxy{
		Allow: policy.Everything(), DialTimeout: 5 * time.Second, Handshakes: Handshakes{2048, 1024},
	}}
	router.Proxies = []ProxyAddress{{"127.0.0.1:9000", "127.0.0.1:9000"}}
	router.State, router.Pool = "/home/someone/.local/state/oh-router", Pool{0, 64}
	for role, want := range map[Role]Config{
		Up:         up,
		RouterRole: {Common: common, Router: router},
		ProxyRole: {Common: common, Proxy: Proxy{
			Listen: netip.MustParseAddrPort("127.0.0.1:9000"), DialTimeout: 5 * time.Second,
			Handshakes: Handshakes{2048, 1024}, State: router.State,
		}},
	} {
		if d := diff(want, mustLoad(t, role, nil)); d != "" {
			t.Errorf("Load(%s) (-want +got):\n%s", role, d)
		}
	}
}

func TestPrecedence(t *testing.T) {
	file := writeFile(t, "router:\n  idle_timeout: 1m\n  proxy: [a=localhost:1, b=127.0.0.1:2]\nproxy:\n  dial_timeout: 7s\n")
	env := []string{"OH_ROUTER_IDLE_TIMEOUT=2m", "OH_ROUTER_PROXY=c=[::1]:3, d=127.0.0.1:4"}
	tests := []struct {
		name    string
		environ []string
		args    []string
		idle    time.Duration
		proxies string
	}{
		{"default", nil, nil, 5 * time.Minute, "127.0.0.1:9000"},
		{"file", nil, []string{"-c", file}, time.Minute, "a b"},
		{"file by variable", []string{"OH_ROUTER_CONFIG=" + file}, nil, time.Minute, "a b"},
		{"environment", env, []string{"--config", file}, 2 * time.Minute, "c d"},
		{"empty variable", []string{"OH_ROUTER_IDLE_TIMEOUT=", "OH_ROUTER_PROXY="}, []string{"--config", file}, time.Minute, "a b"},
		{"flag", env, []string{"--config", file, "--idle-timeout", "0", "--proxy", "e=127.0.0.1:5", "--proxy=127.0.0.1:6,127.0.0.1:7"}, 0, "e 127.0.0.1:6 127.0.0.1:7"},
		{"flag of the default value", env, []string{"--idle-timeout=5m"}, 5 * time.Minute, "c d"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := mustLoad(t, RouterRole, tt.environ, tt.args...)
			if c.Router.IdleTimeout != tt.idle {
				t.Errorf("idle timeout is %v, want %v", c.Router.IdleTimeout, tt.idle)
			}
			var names []string
			for _, p := range c.Router.Proxies {
				names = append(names, p.Name)
			}
			if got := strings.Join(names, " "); got != tt.proxies {
				t.Errorf("proxies are %s, want %s", got, tt.proxies)
			}
		})
	}
}

func TestVariablesAreOfTheCommandThatRuns(t *testing.T) {
	env := []string{"OH_ROUTER_LISTEN=127.0.0.1:7000", "OH_ROUTER_ALLOW=10.0.0.0/8:22,80,db.*:3306", "OH_ROUTER_DIAL_TIMEOUT=9s", "OH_ROUTER_SERVICE_HOST=10.0.0.1"}
	r, p, up := mustLoad(t, RouterRole, env), mustLoad(t, ProxyRole, env), mustLoad(t, Up, env)
	if got := r.Router.Listen.Port(); got != 7000 {
		t.Errorf("the router listens on port %d, want 7000", got)
	}
	if got := p.Proxy.Listen.Port(); got != 7000 {
		t.Errorf("the proxy listens on port %d, want 7000", got)
	}
	if got, want := p.Proxy.Allow.String(), "10.0.0.0/8:22,80,db.*:3306"; got != want || len(p.Proxy.Allow.Patterns()) != 2 {
		t.Errorf("the proxy allows %q, want %q in two patterns", got, want)
	}
	if up.Router.Listen.Port() != 7000 || up.Proxy.DialTimeout != 9*time.Second || !cmp.Equal(up.Proxy.Allow.String(), policy.Everything().String()) {
		t.Errorf("up has %+v, want the listen address, the dial timeout, and to allow everything", up)
	}
}

func TestDerivedAddresses(t *testing.T) {
	tests := []struct {
		args            []string
		bind, advertise string
	}{
		{[]string{"--listen=127.0.0.2:0"}, "127.0.0.2", "127.0.0.2"},
		{[]string{"--listen=localhost:80"}, "127.0.0.1", "127.0.0.1"},
		{[]string{"--listen=[::1]:80"}, "::1", "::1"},
		{[]string{"--listen=:80", "--insecure"}, "::", ""},
		{[]string{"--listen=0.0.0.0:80", "--insecure"}, "0.0.0.0", ""},
		{[]string{"--listen=[::]:80", "--insecure"}, "::", ""},
		{[]string{"--listen=:80", "--insecure", "--bind-address=10.0.0.1"}, "10.0.0.1", "10.0.0.1"},
		{[]string{"--bind-address=[::1]"}, "::1", "::1"},
		{[]string{"--bind-address=127.0.0.3", "--advertise=Router.Example."}, "127.0.0.3", "router.example"},
		{[]string{"--advertise=[2001:DB8::1]"}, "127.0.0.1", "2001:db8::1"},
	}
	for _, tt := range tests {
		r := mustLoad(t, Up, nil, tt.args...).Router
		if r.BindAddress.String() != tt.bind || r.Advertise != tt.advertise {
			t.Errorf("%q: bind address %v and advertise %q, want %s and %q", tt.args, r.BindAddress, r.Advertise, tt.bind, tt.advertise)
		}
	}
}

func TestStateDirectory(t *testing.T) {
	for _, tt := range []struct {
		args, environ []string
		want          string
	}{
		{[]string{"--state=/srv/x"}, []string{"STATE_DIRECTORY=/var/lib/a"}, "/srv/x"},
		{[]string{"--state=none"}, []string{"STATE_DIRECTORY=/var/lib/a"}, ""},
		{nil, []string{"STATE_DIRECTORY=/var/lib/a:/var/lib/b", "XDG_STATE_HOME=/x"}, "/var/lib/a"},
		{nil, []string{"XDG_STATE_HOME=/x"}, "/x/oh-router"},
		{nil, []string{"XDG_STATE_HOME=relative"}, "/home/someone/.local/state/oh-router"},
	} {
		if got := mustLoad(t, RouterRole, tt.environ, tt.args...).Router.State; got != tt.want {
			t.Errorf("%q %q: state is %q, want %q", tt.args, tt.environ, got, tt.want)
		}
	}
	const homeless = "there is no home directory to keep state in: give --state DIR"
	want := "the default of router.state: " + homeless + ", or --state none to keep it in memory"
	if _, err := load(t, RouterRole, []string{"HOME="}); err == nil || err.Error() != want {
		t.Errorf("Load without a home = %v, want %s", err, want)
	}
	if _, err := StateDir("", nil); err == nil || err.Error() != homeless { // there may be no use for none
		t.Errorf("StateDir without a home = %v, want %s", err, homeless)
	}
}

func TestValuesRefused(t *testing.T) {
	tests := []struct {
		role Role
		arg  string
		want string
	}{
		{Up, "--listen=0.0.0.0:8080", `--listen: 0.0.0.0 (all addresses) is not a loopback address, and there is no certificate to secure it with: run 'oh-router router' and 'oh-router proxy', which can have one, use one such as 127.0.0.1:8080, or accept the risk with --insecure`},
		{Up, "--log-level=loud", `--log-level: "loud" is not a level: debug, info, warn or error`},
		{Up, "--dead-peer-timeout=4s", `--dead-peer-timeout: 4s is too short: it has to be 5s at least`},
		{Up, "--dead-peer-timeout=11m", `--dead-peer-timeout: 11m is too long: it may be 10m at most`},
		{Up, "--dead-peer-timeout=7500ms", `--dead-peer-timeout: 7500ms is not a whole number of seconds`},
		{Up, "--backlog=many", `--backlog: "many" is neither system nor a number from 1 to 1000000`},
		{Up, "--loops=0", `--loops: "0" is neither auto nor a number from 1 to 64`},
		{Up, "--loops=-1", `--loops: "-1" is neither auto nor a number from 1 to 64`},
		{Up, "--busy-poll=1s", `--busy-poll: 1s is too long: it may be 1ms at most`},
		{Up, "--busy-poll=-1us", `--busy-poll: -1us is negative`},
		{RouterRole, "--allowed-hosts=api.internal:8080,a b", "--allowed-hosts: \"api.internal:8080\" is not a host: give a name or an address without a port\n" +
			`--allowed-hosts: host "a b" has a character that no host name has`},
		{Up, "--log-format=xml", `--log-format: "xml" is not a log format: text, json or auto`},
		{Up, "--busy-poll=75", `--busy-poll: "75" has no unit: write 75us for microseconds`},
		{Up, "--busy-poll=2000", `--busy-poll: "2000" has no unit, and 2000us is too long: it may be 1ms at most`},
		{Up, "--park=300", `--park: "300" has no unit, and 300s is too long: it may be 30s at most`},
		{Up, "--drain-timeout=-300", `--drain-timeout: "-300" has no unit, and -300s is negative`},
		{Up, "--drain-timeout=300", `--drain-timeout: "300" has no unit: write 300s for seconds`},
		{Up, "--drain-timeout=-1s", `--drain-timeout: -1s is negative`},
		{Up, "--idle-timeout=soon", `--idle-timeout: "soon" is not a duration such as 500ms, 90s, 5m or 1h30m`},
		{Up, "--idle-timeout=", `--idle-timeout: "" is not a duration such as 500ms, 90s, 5m or 1h30m`},
		{Up, "--park=31s", `--park: 31s is too long: it may be 30s at most`},
		{Up, "--dial-timeout=0", `--dial-timeout: 0 is too short: it has to be more than 0`},
		{ProxyRole, "--max-handshakes=0", `--max-handshakes: "0" is not a number from 1 to 1000000`},
		{RouterRole, "--max-handshake-bytes=4096", `--max-handshake-bytes: "4096" is not a number of bytes from 8192 to 262144`},
		{Up, "--dial-timeout=2m", `--dial-timeout: 2m is too long: it may be 1m at most`},
		{Up, "--listen=8080", `--listen: "8080" is not IP:PORT, as in 127.0.0.1:8080, [::1]:8080, or :8080 for all addresses`},
		{Up, "--listen=127.0.0.1:http", `--listen: "127.0.0.1:http": the port is not a number from 0 to 65535 (0: any that is free)`},
		{Up, "--listen=router.example:80", `--listen: "router.example" is not an IP address of this machine, such as 127.0.0.1 or ::1`},
		{Up, "--bind-address=eth0", `--bind-address: "eth0" is not an IP address of this machine, such as 127.0.0.1 or ::1`},
		{Up, "--advertise=router:80", `--advertise: "router:80" is not a host: give a name or an address without a port`},
		{Up, "--advertise=0.0.0.0", `--advertise: nobody can connect to 0.0.0.0: give a name or an address that clients reach, or leave it out`},
		{Up, "--ports=0-10", `--ports: "0-10" is not a range of ports from 1 to 65535, as in 20000-29999`},
		{Up, "--ports=20000-0", `--ports: "20000-0" is not a range of ports from 1 to 65535, as in 20000-29999`},
		{Up, "--ports=1-65536", `--ports: "1-65536" is not a range of ports from 1 to 65535, as in 20000-29999`},
		{Up, "--ports=30-20", `--ports: 30-20 ends before it begins: write 20-30`},
		{RouterRole, "--proxy=host", `--proxy: "host" is not [NAME=]HOST:PORT: target "host" is not HOST:PORT (an IPv6 address goes in brackets, as in [2001:db8::1]:5432)`},
		{RouterRole, "--proxy=Ä=127.0.0.1:1", `--proxy: "Ä" is not a name for a proxy: up to 63 of a-z, 0-9 and hyphen, a hyphen not first`},
		{RouterRole, "--proxy=a=127.0.0.1:1,a=127.0.0.1:2", `--proxy: "a=127.0.0.1:2" names a proxy a for the second time`},
		{RouterRole, "--proxy=", `--proxy: it names no proxy, so nothing could be mapped: leave it out for the default`},
		{ProxyRole, "--listen=9001", `--listen: "9001" is not IP:PORT, as in 127.0.0.1:9000, [::1]:9000, or :9000 for all addresses`},
		{ProxyRole, "--metrics=9001", `--metrics: "9001" is neither off nor IP:PORT, as in 127.0.0.1:9100 or [::1]:9100`},
		{ProxyRole, "--metrics=127.0.0.1:x", `--metrics: "127.0.0.1:x": the port is not a number from 0 to 65535 (0: any that is free)`},
		{ProxyRole, "--metrics=127.0.0.1:9000", `--metrics: links arrive at 127.0.0.1:9000 already (--listen): choose another port for metrics`},
		{ProxyRole, "--allow=10.0.0.5/8:80,db:0", "--allow: pattern \"10.0.0.5/8:80\": 10.0.0.5/8 has bits set behind its length: write 10.0.0.0/8 for the network, or 10.0.0.5 for the one address\n" +
			`--allow: pattern "db:0": "0" is not a port from 1 to 65535, a range such as 1000-2000, or *`},
	}
	for _, tt := range tests {
		_, err := load(t, tt.role, nil, tt.arg)
		if err == nil || err.Error() != tt.want {
			t.Errorf("%s %s:\n got %v\nwant %s", tt.role, tt.arg, err, tt.want)
		}
		if !errors.Is(err, ErrUsage) {
			t.Errorf("%s %s: the error is not ErrUsage", tt.role, tt.arg)
		}
	}
	_, err := load(t, Up, []string{"OH_ROUTER_PARK=1m", "OH_ROUTER_INSECURE=maybe"})
	want := "OH_ROUTER_INSECURE: \"maybe\" is neither true nor false\nOH_ROUTER_PARK: 1m is too long: it may be 30s at most"
	if err == nil || err.Error() != want {
		t.Errorf("Load with wrong variables:\n got %v\nwant %s", err, want)
	}
}

func TestShort(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 75 * time.Microsecond: "75µs", 10 * time.Second: "10s", time.Minute: "1m", 90 * time.Second: "1m30s",
		time.Hour: "1h", 90 * time.Minute: "1h30m", 720 * time.Hour: "720h", time.Hour + time.Second: "1h0m1s",
	} {
		if got := short(d); got != want {
			t.Errorf("short(%v) = %s, want %s", d, got, want)
		}
	}
}

func TestDataPath(t *testing.T) {
	file := writeFile(t, "dead_peer_timeout: 1m\nbacklog: 100\nloops: 3\nbusy_poll: 1ms\nrouter: {allowed_hosts: [API.internal., '10.0.0.1'], open_metrics: true}\n")
	want := Common{DeadPeerTimeout: time.Minute, Backlog: 100, Loops: 3, BusyPoll: time.Millisecond}
	for _, role := range []Role{RouterRole, ProxyRole, Up} {
		c := mustLoad(t, role, nil, "-c", file)
		if got := (Common{DeadPeerTimeout: c.DeadPeerTimeout, Backlog: c.Backlog, Loops: c.Loops, BusyPoll: c.BusyPoll}); got != want {
			t.Errorf("%s has %+v, want %+v", role, got, want)
		}
		c = mustLoad(t, role, []string{"OH_ROUTER_LOOPS=auto", "OH_ROUTER_DEAD_PEER_TIMEOUT=9s"}, "-c", file, "--backlog=system", "--busy-poll=0")
		if got := (Common{DeadPeerTimeout: c.DeadPeerTimeout, Backlog: c.Backlog, Loops: c.Loops, BusyPoll: c.BusyPoll}); got != (Common{DeadPeerTimeout: 9 * time.Second}) {
			t.Errorf("%s with flag and environment has %+v", role, got)
		}
	}
	r := mustLoad(t, RouterRole, nil, "-c", file).Router
	if got := strings.Join(r.AllowedHosts, " "); got != "api.internal 10.0.0.1" || !r.OpenMetrics {
		t.Errorf("allowed hosts are %q and open metrics %v, want api.internal 10.0.0.1 and true", got, r.OpenMetrics)
	}
}

// Which congestion controls there are depends on the machine, and only those
// that a role uses matter.
func TestCongestion(t *testing.T) {
	bad := writeFile(t, "router: {client_congestion: nonsense, link_congestion: nonsense}\nproxy: {link_congestion: nonsense, target_congestion: nonsense}\n")
	for role, want := range map[Role]string{
		RouterRole: "router.client_congestion router.link_congestion",
		ProxyRole:  "proxy.link_congestion proxy.target_congestion",
		Up:         "router.client_congestion proxy.target_congestion",
	} {
		_, err := load(t, role, nil, "-c", bad)
		if err == nil {
			t.Errorf("Load(%s) with congestion controls that there are not = nil, want an error", role)
			continue
		}
		var keys []string
		for line := range strings.Lines(err.Error()) {
			keys = append(keys, strings.Split(strings.TrimPrefix(line, bad+":"), ":")[0])
		}
		if got := strings.Join(keys, " "); got != want {
			t.Errorf("Load(%s) with congestion controls that there are not complains of %s, want %s", role, got, want)
		}
	}
	if _, err := Check(bad, nil, nil); err == nil || strings.Count(err.Error(), "\n") != 3 {
		t.Errorf("Check = %v, want four problems", err)
	}
	if socket.CheckCongestion("reno") != nil {
		t.Skip("this system has no reno")
	}
	good := writeFile(t, "router: {client_congestion: reno, link_congestion: reno}\nproxy: {link_congestion: reno, target_congestion: reno}\n")
	r, p, up := mustLoad(t, RouterRole, nil, "-c", good), mustLoad(t, ProxyRole, nil, "-c", good), mustLoad(t, Up, nil, "-c", good)
	for name, got := range map[string]string{
		"client of router": r.Router.ClientCongestion, "link of router": r.Router.LinkCongestion,
		"link of proxy": p.Proxy.LinkCongestion, "target of proxy": p.Proxy.TargetCongestion,
		"client of up": up.Router.ClientCongestion, "target of up": up.Proxy.TargetCongestion,
	} {
		if got != "reno" {
			t.Errorf("the congestion control of the %s is %q, want reno", name, got)
		}
	}
	p = mustLoad(t, ProxyRole, nil, "-c", good, "--link-congestion=system", "--target-congestion=")
	if p.Proxy.LinkCongestion != "" || p.Proxy.TargetCongestion != "" {
		t.Errorf("flags give %q and %q, want the system's for both", p.Proxy.LinkCongestion, p.Proxy.TargetCongestion)
	}
}

func TestBeyondLoopbackTakesInsecure(t *testing.T) {
	tests := []struct {
		role Role
		args string
		safe bool
	}{
		{Up, "--listen=127.9.9.9:1", true},
		{Up, "--listen=[::ffff:127.0.0.1]:1", true},
		{Up, "--listen=:1", false},
		{Up, "--listen=0.0.0.0:1", false},
		{Up, "--listen=10.0.0.1:1", false},
		{Up, "--bind-address=10.0.0.1", false},
		{Up, "--bind-address=::", false},
		{RouterRole, "--listen=[::]:1", false},
		{RouterRole, "--proxy=localhost:1,[::1]:2", true},
		{RouterRole, "--proxy=127.0.0.1:1,a=10.0.0.1:2", false},
		{RouterRole, "--proxy=proxy.example:2", false},
		{ProxyRole, "--listen=192.168.1.1:1", false},
		{ProxyRole, "--metrics=localhost:1", true},
	}
	for _, tt := range tests {
		_, err := load(t, tt.role, nil, tt.args)
		if (err == nil) != tt.safe {
			t.Errorf("%s %s: %v, want safe %v", tt.role, tt.args, err, tt.safe)
		}
		if err != nil && (!strings.Contains(err.Error(), "--insecure") || strings.Contains(err.Error(), "\n")) {
			t.Errorf("%s %s: %q, want one line that names --insecure", tt.role, tt.args, err)
		}
		c, err := load(t, tt.role, nil, tt.args, "--insecure")
		if err != nil {
			t.Errorf("%s %s --insecure: %v", tt.role, tt.args, err)
		}
		if len(c.Warnings) == 0 || !strings.Contains(c.Warnings[0], "insecure") || strings.Contains(c.Warnings[0], "nothing here needs it") != tt.safe {
			t.Errorf("%s %s --insecure warns %q, want a warning that says so, and that nothing needs it: %v", tt.role, tt.args, c.Warnings, tt.safe)
		}
	}
	// What a role has no use for cannot make it unsafe.
	file := writeFile(t, "router:\n  proxy: [proxy.example:9000]\nproxy:\n  listen: 0.0.0.0:9000\n")
	mustLoad(t, Up, nil, "-c", file)
}

// A proxy listens twice, on what may be the same port.
func TestListenersMeet(t *testing.T) {
	for line, want := range map[string]bool{
		"--listen=127.0.0.1:1 --metrics=127.0.0.1:1": true,
		"--listen=127.0.0.1:1 --metrics=127.0.0.1:2": false,
		"--listen=127.0.0.1:1 --metrics=127.0.0.2:1": false,
		"--listen=127.0.0.1:0 --metrics=127.0.0.1:0": false,
		"--listen=127.0.0.1:1 --metrics=0.0.0.0:1":   true,
		"--listen=0.0.0.0:1 --metrics=127.0.0.1:1":   true,
		"--listen=0.0.0.0:1 --metrics=[::1]:1":       false,
		"--listen=:1 --metrics=127.0.0.1:1":          true,
		"--listen=[::1]:1 --metrics=:1":              true,
	} {
		_, err := load(t, ProxyRole, nil, append(strings.Fields(line), "--insecure")...)
		if got := err != nil; got != want {
			t.Errorf("%s: %v, want a refusal %v", line, err, want)
		}
	}
}

// A certificate has to be where it is looked for.
func TestCertificateIsToBeFound(t *testing.T) {
	for _, tt := range []struct {
		role Role
		line string
		want string
	}{
		{RouterRole, "--listen=:1", "make one with 'oh-router ca init', use"},
		{RouterRole, "--listen=:1 --state=none", "make one with 'oh-router ca init' and leave out --state none, use"},
		{RouterRole, "--proxy=a:1 --state=none", "make one with 'oh-router ca init' and leave out --state none, say"},
		{RouterRole, "--listen=:1 --state=/x", "make one with 'oh-router ca init' and the same --state, use"},
		{ProxyRole, "--listen=:1", "get one with 'oh-router proxy enroll', say"},
		{ProxyRole, "--listen=:1 --state=none", "get one with 'oh-router proxy enroll' and leave out --state none, say"},
		{ProxyRole, "--listen=:1 --state=/x", "get one with 'oh-router proxy enroll' and the same --state, say"},
	} {
		if _, err := load(t, tt.role, nil, strings.Fields(tt.line)...); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s %s: %v, want %q", tt.role, tt.line, err, tt.want)
		}
	}
}

func TestWarnings(t *testing.T) {
	if w := mustLoad(t, ProxyRole, nil).Warnings; len(w) != 1 || !strings.Contains(w[0], "--allow") {
		t.Errorf("a proxy without an allow-list warns %q, want one that says so", w)
	}
	if w := mustLoad(t, ProxyRole, nil, "--allow=any").Warnings; len(w) != 0 {
		t.Errorf("a proxy with an allow-list warns %q", w)
	}
	if got := excess(1<<30, nil); got != "" {
		t.Errorf("excess where the kernel does not tell = %q, want nothing", got)
	}
	for backlog, want := range map[int]bool{0: false, 4096: false, 4097: true} {
		if got := excess(backlog, []int{4096}); (got != "") != want {
			t.Errorf("excess(%d) = %q, want a warning %v", backlog, got, want)
		}
	}
	kernel := []int{32768, 60999}
	for _, tt := range []struct {
		ports    Ports
		reserved string
		want     bool
	}{
		{Ports{20000, 29999}, "", false},
		{Ports{30000, 32768}, "", true},
		{Ports{60999, 65535}, "", true},
		{Ports{61000, 65535}, "", false},
		{Ports{1, 65535}, "", true},
		{Ports{30000, 40000}, "30000-40000", false},
		{Ports{30000, 40000}, "8080,32768-35000,35001-50000", false},
		{Ports{30000, 32768}, "32768", false},
		{Ports{30000, 40000}, "32768-39999", true},
		{Ports{30000, 40000}, "nonsense", true},
	} {
		if got := overlap(tt.ports, kernel, tt.reserved); (got != "") != tt.want {
			t.Errorf("overlap(%v) with %q reserved = %q, want a warning %v", tt.ports, tt.reserved, got, tt.want)
		}
	}
	if got := overlap(Ports{1, 65535}, nil, ""); got != "" {
		t.Errorf("overlap without a kernel range = %q, want nothing", got)
	}
}
