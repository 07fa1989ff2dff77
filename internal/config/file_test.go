package config

import (
	_ "embed"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
)

//go:embed reference.yaml
var reference []byte

func TestReferenceIsTrue(t *testing.T) {
	given, problems := parseFile("reference.yaml", reference)
	if len(problems) > 0 {
		t.Fatalf("reference.yaml: %v", errors.Join(problems...))
	}
	for _, s := range settings() {
		g, ok := given[s.key]
		if !ok {
			t.Errorf("reference.yaml lacks %s", s.key)
		}
		if got := strings.Join(g.items, ","); got != s.def {
			t.Errorf("reference.yaml: %s is %q, want its default %q", s.key, got, s.def)
		}
	}
	path := writeFile(t, string(reference))
	for _, role := range []Role{RouterRole, ProxyRole, Up} {
		if d := diff(mustLoad(t, role, nil), mustLoad(t, role, nil, "-c", path)); d != "" {
			t.Errorf("reference.yaml is not the defaults of %s (-default +file):\n%s", role, d)
		}
	}
	if _, err := Check(path, nil, nil); err != nil {
		t.Errorf("Check(reference.yaml, nil, nil): %v", err)
	}
}

func TestReferenceSaysWhatHelpSays(t *testing.T) {
	var doc yaml.Node
	if err := yaml.Unmarshal(reference, &doc); err != nil {
		t.Fatal(err)
	}
	comments := map[string]string{}
	var collect func(prefix string, n *yaml.Node)
	collect = func(prefix string, n *yaml.Node) {
		for i := 0; i+1 < len(n.Content); i += 2 {
			key, value := n.Content[i], n.Content[i+1]
			comments[prefix+key.Value] = strings.Join(strings.Fields(strings.ReplaceAll(key.HeadComment, "#", " ")), " ")
			if value.Kind == yaml.MappingNode {
				collect(key.Value+".", value)
			}
		}
	}
	collect("", doc.Content[0])
	for _, s := range settings() {
		want := strings.ToUpper(s.help[:1]) + s.help[1:] + "."
		if got := comments[s.key]; !strings.Contains(got, want) {
			t.Errorf("reference.yaml says of %s\n%q\nwant in it\n%q", s.key, got, want)
		}
	}
}

func TestFlagsAreOfTheContract(t *testing.T) {
	for role, want := range map[Role]string{
		RouterRole: "advertise allowed-hosts audit-log backlog bind-address busy-poll client-congestion config dead-peer-timeout drain-timeout handshake-timeout idle-timeout insecure link-congestion link-security listen log-format log-level loops max-connections max-connections-per-source max-handshake-bytes open-metrics park pool ports proxy quarantine state tls-ca tls-cert tls-key",
		ProxyRole:  "allow allowed-hosts audit-log backlog busy-poll config dead-peer-timeout dial-timeout drain-timeout handshake-timeout insecure link-congestion link-security listen log-format log-level loops max-handshake-bytes max-handshakes max-handshakes-per-source metrics open-metrics state target-congestion tls-ca tls-cert tls-key",
		Up:         "advertise allowed-hosts audit-log backlog bind-address busy-poll client-congestion config dead-peer-timeout dial-timeout drain-timeout idle-timeout insecure listen log-format log-level loops max-connections max-connections-per-source open-metrics park ports quarantine target-congestion",
	} {
		fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
		Flags(fs, role)
		var got []string
		fs.VisitAll(func(f *pflag.Flag) { got = append(got, f.Name) })
		if d := cmp.Diff(strings.Fields(want), got); d != "" {
			t.Errorf("flags of %s (-want +got):\n%s", role, d)
		}
		if help := fs.FlagUsages(); !strings.Contains(help, "-c, --config FILE ") || !strings.Contains(help, "--drain-timeout DURATION ") || !strings.Contains(help, "(default 30s)") {
			t.Errorf("help of %s:\n%s", role, help)
		}
	}
}

func TestCheck(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"empty", "", ""},
		{"comments", "# nothing\n", ""},
		{"empty sections", "router:\nproxy: {}\n", ""},
		{"anchors", "router: {idle_timeout: &d 1m, quarantine: *d}\n", ""},
		{"text that looks like numbers", "router: {advertise: 10.1.0.0, idle_timeout: 0, ports: 20000}\n", ""},
		{"scalar", "hello", "FILE: line 1: it is not a list of keys and values, as in \"log_level: info\""},
		{"list", "- a\n", "FILE: line 1: it is not a list of keys and values, as in \"log_level: info\""},
		{"section as text", "router: x\n", "FILE:router: line 1: it is not a list of keys and values, as in \"log_level: info\""},
		{"unknown", "colour: red\n", "FILE:colour: line 1: there is no such key; there are log_level, log_format, audit_log, drain_timeout, dead_peer_timeout, backlog, loops, busy_poll, insecure, link_security, tls_cert, tls_key, tls_ca, max_handshake_bytes, handshake_timeout, the sections router and proxy"},
		{"unknown in section", "proxy:\n  colour: red\n", "FILE:proxy.colour: line 2: there is no such key; there are listen, allow, metrics, allowed_hosts, open_metrics, dial_timeout, max_handshakes, max_handshakes_per_source, link_congestion, target_congestion, state"},
		{"wrong section", "proxy:\n  idle_timeout: 5m\n", "FILE:proxy.idle_timeout: line 2: there is no such key, but there is idle_timeout in the section router"},
		{"not in its section", "listen: x\n", "FILE:listen: line 1: there is no such key, but there is listen in the section router and listen in the section proxy"},
		{"dotted", "router.ports: 1-2\n", "FILE:router.ports: line 1: there is no such key, but there is ports in the section router"},
		{"hyphen", "log-level: info\n", "FILE:log-level: line 1: there is no such key, but there is log_level at the top of the file"},
		{"misspelt", "router:\n  idle_timout: 5m\n", "FILE:router.idle_timout: line 2: there is no such key; did you mean idle_timeout?"},
		{"misspelt with a hyphen", "router: {Idle-Timout: 5m}\n", "FILE:router.Idle-Timout: line 1: there is no such key; did you mean idle_timeout?"},
		{"begun", "router: {max_: 5}\n", "FILE:router.max_: line 1: there is no such key; did you mean max_connections or max_connections_per_source?"},
		{"misspelt section", "routers: {park: 3s}\n", "FILE:routers: line 1: there is no such key; did you mean router?"},
		{"section with a capital", "Router: {park: 3s}\n", "FILE:Router: line 1: there is no such key; did you mean router?"},
		{"no word", "router: {'': 3s}\n", "FILE:router.: line 1: there is no such key; there are listen, bind_address, advertise, ports, allowed_hosts, open_metrics, max_connections, max_connections_per_source, idle_timeout, park, quarantine, proxy, pool, client_congestion, link_congestion, state"},
		{"strange key", "\"a\\nb\": 1\n", `FILE:"a\nb": line 1: there is no such key; there are log_level, log_format, audit_log, drain_timeout, dead_peer_timeout, backlog, loops, busy_poll, insecure, link_security, tls_cert, tls_key, tls_ca, max_handshake_bytes, handshake_timeout, the sections router and proxy`},
		{"twice", "log_level: info\nlog_level: info\n", "FILE:log_level: line 2: it stands here a second time, after line 1"},
		{"no value", "router:\n  listen:\n", "FILE:router.listen: line 2: it has no value: give one, or leave out the line for the default"},
		{"list for one", "log_level: [info]\n", "FILE:log_level: line 1: it takes one value, not a list or a section"},
		{"one for list", "proxy: {allow: any}\n", `FILE:proxy.allow: line 1: it takes a list: write allow: ["any"]`},
		{"several for list", "proxy: {allow: 'db:80,443, web:80'}\n", `FILE:proxy.allow: line 1: it takes a list: write allow: ["db:80,443", "web:80"]`},
		{"ports for list", "proxy: {allow: '10.0.0.0/8:5432,3306,1433,1521,27017,6379,9042,9200,11211,5672,15672,2181'}\n", `FILE:proxy.allow: line 1: it takes a list: write allow: ["10.0.0.0/8:5432,3306,1433,1521,27017,6379,9042,9200,11211,5672,15672,2181"]`},
		{"too long for advice", "proxy: {allow: 'db:" + strings.Repeat("80,", 100) + "80'}\n", `FILE:proxy.allow: line 1: it takes a list: a line for each item, that begins with "- "`},
		{"wrong one for list", "proxy: {allow: 80}\n", `FILE:proxy.allow: line 1: it takes a list: a line for each item, that begins with "- "`},
		{"nothing for list", "proxy: {allow: ''}\n", `FILE:proxy.allow: line 1: it takes a list: a line for each item, that begins with "- "`},
		{"section for list", "proxy: {allow: {db: 80}}\n", `FILE:proxy.allow: line 1: it takes a list: a line for each item, that begins with "- "`},
		{"one for list of two words", "router: {allowed_hosts: api.internal}\n", `FILE:router.allowed_hosts: line 1: it takes a list: write allowed_hosts: ["api.internal"]`},
		{"list of lists", "proxy: {allow: [[any]]}\n", "FILE:proxy.allow: line 1: an item of the list is not a plain value"},
		{"no proxies", "router: {proxy: []}\n", "FILE:router.proxy: it names no proxy, so nothing could be mapped: leave it out for the default"},
		{"commas in an item", "proxy: {allow: ['a:1,b:2']}\n", "FILE:proxy.allow: pattern \"a:1,b:2\": an IPv6 address goes in brackets, as in [2001:db8::1]:443 or [2001:db8::]/32:443"},
		{"two documents", "log_level: info\n---\nlog_level: info\n", "FILE: what follows the first YAML document cannot be read as settings: a file has one"},
		{"syntax", "router:\n  listen: [\n", "FILE: line 2: did not find expected node content"},
		{"open brace", "router: {listen: '[::1]:80' # '*'\n", "FILE: line 1: did not find expected ',' or '}'"},
		{"open quote", "router:\n  listen: \"[::1]:80\n", "FILE: line 2: found unexpected end of stream"},
		{"tab", "router:\n\tpark: 3s\n", "FILE: line 2: found character that cannot start any token (indent with spaces, not with tabs)"},
		{"tab behind spaces", "router:\n  park: 3s\n  \tports: 1-2\n", "FILE: line 2: found a tab character that violates indentation (indent with spaces, not with tabs)"},
		{"address without quotes", "router: {proxy: [east=[::1]:80]}\n", "FILE: did not find expected ',' or ']' (a value that begins with * or [ goes in quotes)"},
		{"network without quotes", "proxy:\n  allow:\n    - [2001:DB8::]/32:80\n", "FILE: line 2: did not find expected '-' indicator (a value that begins with * or [ goes in quotes)"},
		{"glob for an alias", "proxy: {allow: [*db:80]}\n", "FILE: unknown anchor 'db' referenced (a value that begins with * or [ goes in quotes)"},
		{"glob without quotes", "proxy:\n  allow:\n    - *.internal:80\n", "FILE: line 3: did not find expected alphabetic or numeric character (a value that begins with * or [ goes in quotes)"},
		{"all at once", "log_level: loud\nrouter:\n  ports: 9\n  park: 1m\n  listen: :8080\nproxy:\n  metrics: 10.0.0.1:1\nx: 1\n", "" +
			"FILE:x: line 8: there is no such key; there are log_level, log_format, audit_log, drain_timeout, dead_peer_timeout, backlog, loops, busy_poll, insecure, link_security, tls_cert, tls_key, tls_ca, max_handshake_bytes, handshake_timeout, the sections router and proxy\n" +
			"FILE:log_level: \"loud\" is not a level: debug, info, warn or error\n" +
			"FILE:router.park: 1m is too long: it may be 30s at most\n" +
			"FILE:router.listen: :: (all addresses) is not a loopback address, and there is no certificate to secure it with: make one with 'oh-router ca init', use one such as 127.0.0.1:8080, or accept the risk with --insecure\n" +
			"FILE:proxy.metrics: 10.0.0.1 is not a loopback address, and metrics are served to everybody, in the clear: say --open-metrics if whoever reaches it may read them, or use one such as 127.0.0.1:9100"},
		{"insecure", "insecure: true\nrouter: {listen: ':8080', proxy: ['proxy.example:9000']}\nproxy: {listen: '10.0.0.1:9000'}\n", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := writeFile(t, tt.text)
			var got string
			if _, err := Check(path, nil, nil); err != nil {
				got = strings.ReplaceAll(err.Error(), path, "FILE")
				if errors.Is(err, ErrUsage) {
					t.Error("the error is ErrUsage, but a file caused it")
				}
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("Check (-want +got):\n%s", d)
			}
		})
	}
}

func TestFilesThatCannotBeRead(t *testing.T) {
	missing := t.TempDir() + "/none.yaml"
	if _, err := Check(missing, nil, nil); err == nil || !strings.Contains(err.Error(), missing) {
		t.Errorf("Check of a missing file = %v, want an error with its name", err)
	}
	if _, err := load(t, Up, nil, "-c", missing); err == nil || !strings.Contains(err.Error(), missing) {
		t.Errorf("Load of a missing file = %v, want an error with its name", err)
	}
	if _, err := Check(t.TempDir(), nil, nil); err == nil {
		t.Error("Check of a directory succeeds")
	}
	big := writeFile(t, strings.Repeat("#", maxFile+1))
	if _, err := Check(big, nil, nil); err == nil || !strings.Contains(err.Error(), "1 MiB") {
		t.Errorf("Check of a big file = %v, want an error with the limit", err)
	}
}

// FuzzFile: no file makes the parser panic, and each problem is one line that
// begins with the file's name.
func FuzzFile(f *testing.F) {
	f.Add(string(reference))
	for _, s := range []string{
		"", "---\n", "router: {idle_timeout: &d 1m, quarantine: *d}", "a: &a [*a]", "router: &r\n  listen: x\n  <<: *r\n",
		"proxy: {allow: ['*:1', any, '[::1]:2']}", "? [a]\n: b\n", "router:\n  ? {a: b}\n  : c\n", "insecure: yes\nlog_level: !!str info\n", "\"\\x00\": 1",
		"router: {proxy: ['a=[::1]:1', 'a=b:2'], ports: 1-2-3}", "...\n", "log_level: !!null info", "%YAML 1.1\n---\n",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		given, problems := parseFile("F", []byte(text))
		all := defaults()
		all.add(given)
		c, wrong := all.config()
		problems = append(problems, wrong...)
		problems = append(problems, checkRouter(&c, all, true, false)...)
		problems = append(problems, checkProxy(&c, all, false)...)
		for _, p := range problems {
			if s := p.Error(); !strings.HasPrefix(s, "F:") || strings.ContainsAny(s, "\n\r\x00") || len(s) > 1000 {
				t.Errorf("a problem of %q is %q, want one line that begins with the file", text, s)
			}
		}
		if len(problems) == 0 && !c.Insecure && c.LinkSecurity == AutoSecurity && !(c.Router.Listen.Addr().IsLoopback() && c.Proxy.Listen.Addr().IsLoopback()) {
			t.Errorf("%q listens beyond loopback without insecure: %+v", text, c)
		}
	})
}
