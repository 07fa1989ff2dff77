package main

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/client"
)

// bindFlags are the flags of "oh-router bind" as they are written.
type bindFlags struct {
	proxy       string
	port        uint16
	idleTimeout ohrouter.Duration
	ttl         ohrouter.Duration
	allow       []string
	maxSessions int
	labels      []string
	noCheck     bool

	proxyProtocol string
}

// newBindCommand returns "oh-router bind".
func newBindCommand(environ []string) *cobra.Command {
	var flags bindFlags
	output := newFormat(asAddress, asAddress, asTable, asWide, asJSON, asName)
	cmd := &cobra.Command{
		Use:   "bind HOST:PORT",
		Short: "Map a target to a port; prints the mapped address",
		Long: `Map the target HOST:PORT to a port of the router and print the mapped
host:port, alone, on stdout. The router connects to the target first: what
cannot be reached gets the reason, and no port. A target that is mapped
already keeps its port.`,
		Example: `  oh-router bind db.internal:3306
  addr=$(oh-router bind db.internal:5432) && psql "host=localhost port=${addr##*:}"
  oh-router bind db.internal:3306 --ttl 8h --allow 10.0.0.0/8 --label team=shop
  oh-router bind db.internal:3306 -o json | jq -r .id`,
		Args: takes("HOST:PORT"),
	}
	flags.add(cmd)
	access := newAccess(cmd, environ)
	output.flag(cmd)
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		spec, err := flags.spec(cmd, args[0])
		if err != nil {
			return err
		}
		var b ohrouter.Binding
		err = access.call(cmd, func(ctx context.Context, c *client.Client) (err error) {
			b, _, err = c.Bind(ctx, spec)
			return err
		})
		if err != nil {
			return err
		}
		return printBinding(cmd, output, b)
	}
	return cmd
}

// add gives cmd the flags.
func (f *bindFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.proxy, "proxy", "", "`NAME` of the proxy to use (default any that serves the target)")
	flags.Uint16Var(&f.port, "port", 0, "mapped `PORT` to have (default any of the router's range)")
	durationVar(flags, &f.idleTimeout, "idle-timeout", "recycle the binding this `DURATION` after its last use; 0s never (default the router's)")
	durationVar(flags, &f.ttl, "ttl", "end the binding, and its sessions, after this `DURATION` (default never)")
	flags.StringSliceVar(&f.allow, "allow", nil, "`CIDR` or address that may connect, or requester for that of this call; may be repeated (default anybody; requester if the API is not on loopback)")
	flags.IntVar(&f.maxSessions, "max-sessions", 0, "`NUMBER` of sessions that may be open at once (default no limit)")
	flags.StringArrayVar(&f.labels, "label", nil, "`KEY=VALUE` to remember with the binding; may be repeated")
	flags.StringVar(&f.proxyProtocol, "proxy-protocol", "", "tell the target each client's address, with a PROXY protocol header of this `VERSION`: v2")
	flags.BoolVar(&f.noCheck, "no-check", false, "answer without connecting to the target first")
}

// durationVar adds a flag whose mistakes get our sentence and whose zero value
// is no default worth a word.
func durationVar(flags *pflag.FlagSet, d *ohrouter.Duration, name, usage string) {
	flags.TextVar(d, name, ohrouter.Duration(0), usage)
	flags.Lookup(name).DefValue = ""
}

// maxHours is the longest that the API takes: ten years.
const maxHours = 10 * 365 * 24

// checkDuration makes a duration that the API does not take an error of usage.
func checkDuration(flag string, d ohrouter.Duration, hours int) error {
	switch {
	case d < 0:
		return usageErrorf("--%s must not be negative", flag)
	case time.Duration(d) > time.Duration(hours)*time.Hour:
		return usageErrorf("--%s %s is too long: it may be %dh at most", flag, d, hours)
	}
	return nil
}

// spec returns what the flags and the argument ask for.
func (f *bindFlags) spec(cmd *cobra.Command, target string) (ohrouter.BindingSpec, error) {
	var spec ohrouter.BindingSpec
	t, err := parseTarget(target)
	if err != nil {
		return spec, err
	}
	spec = ohrouter.BindingSpec{Target: t, Proxy: f.proxy, Port: f.port, TTL: f.ttl, MaxSessions: f.maxSessions, ProxyProtocol: f.proxyProtocol}
	if f.proxyProtocol != "" && f.proxyProtocol != ohrouter.ProxyProtocolV2 {
		return spec, usageErrorf("--proxy-protocol %q is none: there is %s", f.proxyProtocol, ohrouter.ProxyProtocolV2)
	}
	if f.maxSessions < 0 {
		return spec, usageErrorf("--max-sessions must not be negative")
	}
	if err := cmp.Or(checkDuration("idle-timeout", f.idleTimeout, maxHours), checkDuration("ttl", f.ttl, maxHours)); err != nil {
		return spec, err
	}
	if cmd.Flags().Changed("idle-timeout") {
		spec.IdleTimeout = new(f.idleTimeout)
	}
	for _, s := range f.allow {
		if s == "requester" {
			spec.AllowRequester = true
			continue
		}
		p, err := parsePrefix(s)
		if err != nil {
			return spec, err
		}
		spec.Allow = append(spec.Allow, p)
	}
	if f.noCheck {
		spec.Check = new(false)
	}
	spec.Labels, err = parseLabels(f.labels)
	return spec, err
}

// parseLabels reads the values of --label.
func parseLabels(pairs []string) (map[string]string, error) {
	labels := make(map[string]string, len(pairs))
	for _, s := range pairs {
		key, value, ok := strings.Cut(s, "=")
		if !ok || key == "" {
			return nil, usageErrorf("--label %q is not KEY=VALUE", s)
		}
		labels[key] = value
	}
	return labels, nil
}

// parseTarget reads an argument HOST:PORT.
func parseTarget(s string) (ohrouter.Target, error) {
	t, err := ohrouter.ParseTarget(s)
	if err != nil {
		return t, usageErrorf("%s", ohrouter.Message(err))
	}
	return t, nil
}

// parsePrefix reads a CIDR, or an address as the CIDR that holds it alone.
func parsePrefix(s string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(s); err == nil && addr.Zone() == "" {
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return p, usageErrorf("--allow %q is not a CIDR such as 10.0.0.0/8, not an address, and not requester", s)
	}
	if p != p.Masked() {
		return p, usageErrorf("--allow %s has bits set behind its length: write %s for the network, or %s for the one address", p, p.Masked(), p.Addr())
	}
	return p, nil
}

// printBinding writes one binding to cmd's output.
func printBinding(cmd *cobra.Command, f *format, b ohrouter.Binding) error {
	switch out := cmd.OutOrStdout(); {
	case f.is(asJSON):
		return printJSON(out, b)
	case f.is(asAddress):
		_, err := fmt.Fprintln(out, printable(b.Address))
		return err
	}
	return bindingListing(time.Now()).print(cmd, f, []ohrouter.Binding{b})
}
