package main

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// TestUsageErrors has the mistakes that are found before any call.
func TestUsageErrors(t *testing.T) {
	tests := []struct{ line, say, see string }{
		{"bnid db:1", `unknown command "bnid"; did you mean 'oh-router bind'?`, "oh-router"},
		{"bnid --port 1", `did you mean 'oh-router bind'?`, "oh-router"},
		{"frobnicate", `unknown command "frobnicate"; the commands of 'oh-router' are bind, bindings, ca,`, "oh-router"},
		{"run", `unknown command "run"; did you mean 'oh-router up'?`, "oh-router"},
		{"UP", `did you mean 'oh-router up'?`, "oh-router"},
		{"ls", `did you mean 'oh-router bindings'?`, "oh-router"},
		{"bin", `did you mean 'oh-router bind' or 'oh-router bindings'?`, "oh-router"},
		{"xy", `unknown command "xy"; the commands of 'oh-router' are`, "oh-router"},
		{"enrol --router https://a", `did you mean 'oh-router proxy enroll'?`, "oh-router"},
		{"invite east", `did you mean 'oh-router proxy invite'?`, "oh-router"},
		{"init", `did you mean 'oh-router ca init'?`, "oh-router"},
		{"revoke ci", `did you mean 'oh-router proxy revoke' or 'oh-router token revoke'?`, "oh-router"},
		{"help proxy foo", `unknown command "foo"; the commands of 'oh-router proxy' are enroll`, "oh-router proxy"},
		{"help bind foo", `unknown command "bind foo"; the commands of 'oh-router' are`, "oh-router"},
		{"help bnid", `did you mean 'oh-router bind'?`, "oh-router"},
		{"--frob", "unknown flag: --frob", "oh-router"},
		{"proxy enroll --token x", "unknown flag: --token; did you mean --token-file?", "oh-router proxy enroll"},
		{"router --busypoll 75us", "unknown flag: --busypoll; did you mean --busy-poll?", "oh-router router"},
		{"router --pots 1-2", "unknown flag: --pots; did you mean --ports?", "oh-router router"},
		{"up --allow any", "unknown flag: --allow; 'oh-router up' dials every target and has no allow-list", "oh-router up"},
		{"up --lsten x", "did you mean --listen?", "oh-router up"},
		{"router --tls 1", "unknown flag: --tls; did you mean --tls-ca or --tls-cert or --tls-key?", "oh-router router"},
		{"bind", "HOST:PORT is missing", "oh-router bind"},
		{"bind db:1 db:2", `unexpected argument "db:2"`, "oh-router bind"},
		{"bind db", `target "db" is not HOST:PORT`, "oh-router bind"},
		{"bind db:0", `port "0" is not a number from 1 to 65535`, "oh-router bind"},
		{"bind db:1 --port 70000", `invalid argument "70000" for "--port"`, "oh-router bind"},
		{"bind db:1 --port abc", `invalid argument "abc" for "--port" flag: it is not a number from 1 to 65535`, "oh-router bind"},
		{"bind db:1 --max-sessions many", `invalid argument "many" for "--max-sessions" flag: it is not a whole number`, "oh-router bind"},
		{"bind db:1 --max-sessions 99999999999999999999", `for "--max-sessions" flag: it is too large`, "oh-router bind"},
		{"bind db:1 --no-check=maybe", `invalid argument "maybe" for "--no-check" flag: it is not true or false`, "oh-router bind"},
		{"router --insecure=maybe", `invalid argument "maybe" for "--insecure" flag: it is not true or false`, "oh-router router"},
		{"bind db:1 --ttl soon", "is not a duration such as 90s", "oh-router bind"},
		{"bind db:1 --ttl 8", `"8" has no unit: write 8s for seconds`, "oh-router bind"},
		{"bind db:1 --ttl 9999999999h", `"9999999999h" is too long a time`, "oh-router bind"},
		{"bind db:1 --ttl -8s", "--ttl must not be negative", "oh-router bind"},
		{"bind db:1 --idle-timeout -8s", "--idle-timeout must not be negative", "oh-router bind"},
		{"bind db:1 --ttl 999999h", "--ttl 999999h0m0s is too long: it may be 87600h at most", "oh-router bind"},
		{"unbind b1 --drain 25h", "--drain 25h0m0s is too long: it may be 24h at most", "oh-router unbind"},
		{"token create ci --role boss", `--role "boss" is none: there are admin, user and viewer`, "oh-router token create"},
		{"token create ci --max-bindings -1", "--max-bindings must not be negative", "oh-router token create"},
		{"token create ci --ttl -1h", "--ttl must not be negative", "oh-router token create"},
		{"token create ci --max-ttl 999999h", "--max-ttl 999999h0m0s is too long", "oh-router token create"},
		{"bind db:1 --proxy-protocol v1", "--proxy-protocol \"v1\" is none: there is v2", "oh-router bind"},
		{"bind db:1 --max-sessions -1", "--max-sessions must not be negative", "oh-router bind"},
		{"bind db:1 --allow ten", `--allow "ten" is not a CIDR`, "oh-router bind"},
		{"bind db:1 --allow 10.0.0.5/8", "--allow 10.0.0.5/8 has bits set behind its length: write 10.0.0.0/8 for the network, or 10.0.0.5 for the one address", "oh-router bind"},
		{"bind db:1 --allow fe80::1%eth0", "is not a CIDR", "oh-router bind"},
		{"bind db:1 --label x", `--label "x" is not KEY=VALUE`, "oh-router bind"},
		{"bind db:1 --label =x", `--label "=x" is not KEY=VALUE`, "oh-router bind"},
		{"bind db:1 -o xml", "not one of address, table, wide, json, name", "oh-router bind"},
		{"bind db:1 --server localhost:8080", `server "localhost:8080" is not a URL such as http://127.0.0.1:8080`, "oh-router bind"},
		{"unbind", "ID or HOST:PORT is missing", "oh-router unbind"},
		{"unbind db:", `port "" is not a number`, "oh-router unbind"},
		{"unbind b1 --drain -1s", "--drain must not be negative", "oh-router unbind"},
		{"bindings extra", `unexpected argument "extra"`, "oh-router bindings"},
		{"bindings --label x", `--label "x" is not KEY=VALUE`, "oh-router bindings"},
		{"bindings --target x", `target "x" is not HOST:PORT`, "oh-router bindings"},
		{"sessions --binding a:b", `port "b" is not a number`, "oh-router sessions"},
		{"sessions --frob", "unknown flag: --frob", "oh-router sessions"},
		{"proxies -o", "flag needs an argument", "oh-router proxies"},
		{"kill", "SESSION is missing", "oh-router kill"},
		{"ca init --host a:1 --state STATE", `"a:1" is not a host`, "oh-router ca init"},
		{"ca init --invite East --state STATE", `--invite: "East" is not a name`, "oh-router ca init"},
		{"ca init --state none", "name a directory with --state", "oh-router ca init"},
		{"ca init extra", `unexpected argument "extra"`, "oh-router ca init"},
		{"ca shwo", `unknown command "shwo"; did you mean 'oh-router ca show'?`, "oh-router ca"},
		{"proxy enroll", "--router is missing", "oh-router proxy enroll"},
		{"proxy enroll --router https://a", "--token-file is missing", "oh-router proxy enroll"},
		{"proxy extra", `unknown command "extra"; the commands of 'oh-router proxy' are enroll, invite, revoke`, "oh-router proxy"},
		{"proxy invit east", `unknown command "invit"; did you mean 'oh-router proxy invite'?`, "oh-router proxy"},
		{"proxy rm east", `did you mean 'oh-router proxy revoke'?`, "oh-router proxy"},
		{"proxy enrol2 --router https://a", "did you mean 'oh-router proxy enroll'?", "oh-router proxy"},
		{"proxy invite", "NAME is missing", "oh-router proxy invite"},
		{"proxy invite East", `"East" is not a name`, "oh-router proxy invite"},
		{"proxy invite east west", `unexpected argument "west"`, "oh-router proxy invite"},
		{"proxy invite east --ttl -1h", "--ttl must not be negative", "oh-router proxy invite"},
		{"proxy invite east --ttl 1", `"1" has no unit: write 1s`, "oh-router proxy invite"},
		{"proxy revoke", "NAME is missing", "oh-router proxy revoke"},
		{"proxy revoke -- -east", `"-east" is not a name`, "oh-router proxy revoke"},
		{"completion tcsh", `no completion for "tcsh"`, "oh-router completion"},
		{"version -o table", "not one of text, json", "oh-router version"},
	}
	for line, see := range map[string]string{
		"bind db:1 --allow=": "bind", "bind db:1 --ttl=": "bind", "bind db:1 --idle-timeout=": "bind", "bind db:1 --proxy=": "bind",
		"bind db:1 --allow=10.0.0.1 --allow=": "bind", "bind db:1 --port=": "bind", "bindings --token-file=": "bindings", "bindings --server=": "bindings",
		"sessions --binding=": "sessions", "token create ci --state=": "token create", "ca init --host=": "ca init", "up --bind=": "up",
	} {
		tests = append(tests, struct{ line, say, see string }{line, "it is empty: give it a value, or leave the flag out", "oh-router " + see})
	}
	for _, tt := range tests {
		t.Run(tt.line, func(t *testing.T) {
			var stdout, stderr strings.Builder
			line := strings.ReplaceAll(tt.line, "STATE", t.TempDir())
			code := run(t.Context(), strings.Fields(line), &stdout, &stderr, nil)
			if code != exitUsage || stdout.Len() > 0 {
				t.Errorf("exits with %d and prints %q, want %d and nothing", code, &stdout, exitUsage)
			}
			first, second, _ := strings.Cut(stderr.String(), "\n")
			if !strings.HasPrefix(first, "oh-router: ") || !strings.Contains(first, tt.say) {
				t.Errorf("says %q, want %q", first, tt.say)
			}
			if want := "See '" + tt.see + " --help'.\n"; second != want {
				t.Errorf("ends with %q, want %q", second, want)
			}
		})
	}
}

// TestFlagHelp has one word for one thing, and no line that nobody reads.
func TestFlagHelp(t *testing.T) {
	var check func(cmd *cobra.Command)
	check = func(cmd *cobra.Command) {
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			_, again := f.Value.(repeatable)
			if said := strings.Contains(f.Usage, "may be repeated"); strings.Contains(f.Usage, "repeatable") || again && !said {
				t.Errorf("%s --%s: %q, want \"may be repeated\" for what may be", cmd.CommandPath(), f.Name, f.Usage)
			}
			if _, one := f.Value.(argument); (one || again) && len(f.Usage) > 150 {
				t.Errorf("%s --%s: %q, want 150 characters at most", cmd.CommandPath(), f.Name, f.Usage)
			}
		})
		for _, c := range cmd.Commands() {
			check(c)
		}
	}
	check(newRootCommand(nil))
}

func TestBadServerInEnvironment(t *testing.T) {
	var stdout, stderr strings.Builder
	environ := []string{"OH_ROUTER_SERVER=http://127.0.0.1:1", "OH_ROUTER_SERVER=nonsense"}
	code := run(t.Context(), []string{"proxies"}, &stdout, &stderr, environ)
	if want := `server "nonsense" is not a URL`; code != exitUsage || !strings.Contains(stderr.String(), want) {
		t.Errorf("exits with %d and says %q, want %d and %q", code, &stderr, exitUsage, want)
	}
}
