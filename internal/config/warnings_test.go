package config

import (
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// certificate is what gives a role credentials, split at spaces.
const certificate = "--tls-cert=c.pem --tls-key=k.pem --tls-ca=a.pem"

// loadLine loads the settings of a role for flags in one line.
func loadLine(t *testing.T, role Role, line string) Config {
	t.Helper()
	return mustLoad(t, role, []string{"HOME=" + t.TempDir()}, strings.Fields(line)...)
}

// TestOpen checks that insecure is said to open what it does, and nothing else.
func TestOpen(t *testing.T) {
	const (
		calls    = "calls of the API at [::]:1, tokens included, are not encrypted"
		noTokens = "as long as there is no API token, whoever reaches the API may map targets"
		anything = "as long as there is no API token, whoever reaches the API may map any target, those on loopback of this machine included"
		links    = "links to a.example:2 and 10.0.0.1:3 are neither encrypted nor authenticated"
		taken    = "links at 10.0.0.1:2 are neither encrypted nor authenticated, and whoever reaches it may dial what the allow-list permits"
		metrics  = "metrics at 10.0.0.1:3 are for whoever reaches them"
	)
	for _, tt := range []struct {
		role Role
		line string
		want []string
	}{
		{RouterRole, "", nil},
		{Up, "--listen=:1", []string{calls, anything}},
		{Up, "--bind-address=10.0.0.1", []string{anything}},
		{RouterRole, "--bind-address=10.0.0.1", []string{noTokens}},
		{RouterRole, "--listen=:1 --proxy=a.example:2 --proxy=b=10.0.0.1:3 --proxy=localhost:4", []string{calls, noTokens, links}},
		{RouterRole, "--proxy=a.example:2 --proxy=b=10.0.0.1:3", []string{links}},
		{RouterRole, "--listen=:1 --proxy=a.example:2 --link-security=external", []string{calls, noTokens}},
		{RouterRole, "--listen=:1 --proxy=a.example:2 " + certificate, []string{noTokens}},
		{ProxyRole, "--metrics=127.0.0.1:3", nil},
		{ProxyRole, "--listen=10.0.0.1:2 --metrics=10.0.0.1:3", []string{taken, metrics}},
		{ProxyRole, "--listen=10.0.0.1:2 --metrics=10.0.0.1:3 --open-metrics", []string{taken}},
		{ProxyRole, "--listen=10.0.0.1:2 --metrics=10.0.0.1:3 " + certificate, []string{metrics}},
		{ProxyRole, "--listen=10.0.0.1:2 --link-security=external", nil},
	} {
		c := loadLine(t, tt.role, tt.line+" --insecure")
		if !slices.Equal(c.Open, tt.want) {
			t.Errorf("%s %s --insecure opens\n%q, want\n%q", tt.role, tt.line, c.Open, tt.want)
		}
		said := "insecure is set: " + strings.Join(tt.want, "; ")
		if len(tt.want) == 0 {
			said = "insecure is set, and nothing here needs it: leave it out"
		}
		if !slices.Contains(c.Warnings, said) {
			t.Errorf("%s %s --insecure warns\n%q, want\n%q", tt.role, tt.line, c.Warnings, said)
		}
	}
	if c := loadLine(t, RouterRole, ""); c.Open != nil || len(c.Warnings) > 0 && strings.Contains(c.Warnings[0], "insecure") {
		t.Errorf("without insecure: open %q, warnings %q", c.Open, c.Warnings)
	}
}

func TestUnprovedLinks(t *testing.T) {
	for _, tt := range []struct {
		role Role
		line string
		want string // in a warning; "" none
	}{
		{ProxyRole, "--link-security=external --listen=0.0.0.0:9000", "0.0.0.0 (all addresses) is reached from elsewhere"},
		{ProxyRole, "--link-security=external --listen=[::]:9000", ":: (all addresses) is reached"},
		{ProxyRole, "--link-security=external --listen=203.0.113.7:9000", "203.0.113.7 is reached"},
		{ProxyRole, "--link-security=external --listen=10.8.0.2:9000", ""},
		{ProxyRole, "--link-security=external --listen=100.64.3.4:9000", ""},
		{ProxyRole, "--link-security=external --listen=[fd00::2]:9000", ""},
		{ProxyRole, "--listen=0.0.0.0:9000 " + certificate, ""},
		{RouterRole, "--link-security=external --proxy=east=203.0.113.7:9000", "203.0.113.7:9000 is a public address"},
		{RouterRole, "--link-security=external --proxy=east=10.8.0.2:9000 --proxy=west=west.vpn:9000", ""},
		{RouterRole, "--proxy=host2:9000 " + certificate, "--proxy east=host2:9000"},
		{RouterRole, "--proxy=10.0.0.2:9000 " + certificate, "the proxy at 10.0.0.2:9000 has no name"},
		{RouterRole, "--proxy=east=host2:9000 " + certificate, ""},
		{RouterRole, "--proxy=host2:9000 --link-security=external " + certificate, ""},
		{RouterRole, certificate, ""},
	} {
		quiet := map[Role]string{RouterRole: " --ports=1-2", ProxyRole: " --allow=any"}
		got := strings.Join(loadLine(t, tt.role, tt.line+quiet[tt.role]).Warnings, "\n")
		if tt.want == "" && got != "" || !strings.Contains(got, tt.want) {
			t.Errorf("%s %s warns %q, want %q", tt.role, tt.line, got, tt.want)
		}
	}
}

// TestCheckWarns checks that a file is said to be warned of as its servers would.
func TestCheckWarns(t *testing.T) {
	const needless = "insecure is set, and nothing here needs it: leave it out"
	const links = "insecure is set: links at 10.0.0.1:9000 are neither encrypted nor authenticated, and whoever reaches it may dial what the allow-list permits"
	const denied = "the allow-list is empty"
	for text, want := range map[string][]string{
		"":                          nil,
		"log_level: debug\n":        nil,
		"router: {ports: 1-2}\n":    nil,
		"proxy: {dial_timeout: 1s}": {denied},
		"insecure: true\n":          {needless},
		"insecure: true\nproxy: {allow: [any]}\n":                                                                            {needless},
		"insecure: true\nrouter: {ports: 1-2}\nproxy: {allow: [any], listen: '10.0.0.1:9000'}\n":                             {links},
		"insecure: true\nlink_security: external\nrouter: {ports: 1-2, proxy: ['e=203.0.113.7:1']}\nproxy: {allow: [any]}\n": {needless, "link_security is external"},
	} {
		got, err := Check(writeFile(t, text), nil, nil)
		got = slices.DeleteFunc(got, func(w string) bool { return strings.HasPrefix(w, "the ports 20000-29999") }) // this kernel's
		if !slices.EqualFunc(got, want, strings.HasPrefix) || err != nil {
			t.Errorf("Check(%q) = %q, %v, want %q", text, got, err, want)
		}
	}
}

func TestKeyForEverybody(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("files have no such modes")
	}
	key := writeFile(t, "a key")
	for mode, want := range map[os.FileMode]bool{0o600: false, 0o640: false, 0o644: true, 0o604: true} {
		if err := os.Chmod(key, mode); err != nil {
			t.Fatal(err)
		}
		c := loadLine(t, ProxyRole, "--allow=any --tls-cert=c --tls-ca=a --tls-key="+key)
		if got := strings.Contains(strings.Join(c.Warnings, "\n"), "may be read by every user"); got != want {
			t.Errorf("a key of mode %o warns %q, want a warning: %v", mode, c.Warnings, want)
		}
	}
}

func TestCertificateIsWhole(t *testing.T) {
	file := writeFile(t, "tls_cert: c\n")
	for _, tt := range []struct{ environ, line, want string }{
		{"", "--tls-cert=c --tls-key=k", "--tls-cert: --tls-ca is missing: --tls-cert, --tls-key and --tls-ca belong together"},
		{"", "--tls-key=k --tls-ca=a", "--tls-key: --tls-cert is missing"},
		{"", "--tls-ca=a", "--tls-ca: --tls-cert is missing"},
		{"OH_ROUTER_TLS_CA=a", "", "OH_ROUTER_TLS_CA: OH_ROUTER_TLS_CERT is missing"},
		{"", "-c " + file, file + ":tls_cert: tls_key is missing: tls_cert, tls_key and tls_ca belong together"},
	} {
		if _, err := load(t, RouterRole, []string{"HOME=/", tt.environ}, strings.Fields(tt.line)...); err == nil || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%s %s: %v, want %q", tt.environ, tt.line, err, tt.want)
		}
	}
}

func TestOpenMetrics(t *testing.T) {
	if _, err := load(t, ProxyRole, nil, "--metrics=:1"); err == nil || !strings.Contains(err.Error(), "say --open-metrics") {
		t.Errorf("metrics for everybody = %v, want a refusal that names --open-metrics", err)
	}
	if _, err := load(t, ProxyRole, nil, "--metrics=:1", "--open-metrics"); err != nil {
		t.Errorf("open metrics: %v", err)
	}
	if _, err := load(t, ProxyRole, nil, "--metrics=:1", "--open-metrics", "--listen=:2"); err == nil {
		t.Error("--open-metrics opens the listener for links, too")
	}
}

func TestMisspeltVariables(t *testing.T) {
	warns := func(variable string) bool {
		c := mustLoad(t, ProxyRole, []string{variable}, "--allow=any")
		name, _, _ := strings.Cut(variable, "=")
		return len(c.Warnings) == 1 && strings.Contains(c.Warnings[0], "the variable "+name+" ")
	}
	for _, v := range []string{"OH_ROUTER_ALOW=any", "OH_ROUTER_IDLE_TIMOUT=5m", "OH_ROUTER_listen=:1", "OH_ROUTER_=x", "OH_ROUTER_PORT_RANGE=1-2"} {
		if !warns(v) {
			t.Errorf("nobody is warned of %s", v)
		}
	}
	for _, v := range []string{
		"OH_ROUTER_IDLE_TIMEOUT=5m", "OH_ROUTER_BIND_ADDRESS=::1", "OH_ROUTER_TOKEN=x", "OH_ROUTER_SERVER=http://a", "OH_ROUTER_CA_FILE=x", "OH_ROUTER_ALOW=",
		"OH_ROUTERS=3", "OH_ROUTER_SERVICE_HOST=10.0.0.1", "OH_ROUTER_SERVICE_PORT=8080", "OH_ROUTER_SERVICE_PORT_HTTP_API=8080",
		"OH_ROUTER_PORT=tcp://10.0.0.1:8080", "OH_ROUTER_PORT_8080_TCP=tcp://10.0.0.1:8080", "OH_ROUTER_PORT_8080_TCP_ADDR=10.0.0.1",
		"OH_ROUTER_PROXY_PORT_9000_TCP_PROTO=tcp", "OH_ROUTER_PROXY_SERVICE_HOST=10.0.0.1", "STATE_DIRECTORY=/x",
	} {
		if warns(v) {
			t.Errorf("a warning of %s", v)
		}
	}
}
