package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/client"
)

// newTokenCommand returns "oh-router token".
func newTokenCommand(environ []string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "token COMMAND",
		Short: "Make, list and revoke API tokens",
		Long: `Make, list and revoke the tokens that calls of the router's API need. As long as
there is none, a router on loopback serves everybody; the first one closes it,
and must be an admin's.

They ask the router that runs. On its machine --state works on the state of one
that does not, and needs no token: for the first one, or when the last is lost.`,
	}
	needsCommand(cmd)
	cmd.AddCommand(newTokenCreateCommand(environ), newTokenListCommand(environ), newTokenRevokeCommand(environ))
	return cmd
}

// tokenFlags are the flags of "oh-router token create" as they are written.
type tokenFlags struct {
	role                                                       string
	ttl, maxTTL                                                ohrouter.Duration
	targets, proxies                                           []string
	ports                                                      string
	maxBindings, maxSessions, targetsPerMinute, callsPerSecond int
	reasons                                                    bool
	out                                                        string
}

// newTokenCreateCommand returns "oh-router token create".
func newTokenCreateCommand(environ []string) *cobra.Command {
	var flags tokenFlags
	output := newFormat(asText, asText, asJSON)
	cmd := &cobra.Command{
		Use:        "create NAME",
		SuggestFor: []string{"new", "add", "make"},
		Short:      "Make a token; prints its secret, this once",
		Long: `Make a token and print its secret, alone, on stdout; with --out it goes to a new
file that only you can read. The router keeps nothing but its hash. A user maps
the targets that --target names and sees only its own bindings; an admin does
everything; a viewer sees everything and changes nothing.`,
		Example: `  oh-router token create root --role admin --out root.token
  oh-router token create ci --target '*.db.internal:5432' --ttl 720h --out ci.token
  oh-router token create grafana --role viewer --out grafana.token
  oh-router token create rescue --role admin --out rescue.token --state /var/lib/oh-router`,
		Args: takes("NAME"),
	}
	flags.add(cmd)
	keeper := newKeeper(cmd, environ)
	output.flag(cmd)
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		spec, err := flags.spec(cmd, args[0])
		if err != nil {
			return err
		}
		return createToken(cmd, keeper, output, spec, flags.out)
	}
	return cmd
}

// add gives cmd the flags.
func (f *tokenFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.role, "role", string(ohrouter.User), "`ROLE` of its holder: admin, user or viewer")
	durationVar(flags, &f.ttl, "ttl", "end the token, and its bindings, after this `DURATION` (default never)")
	flags.StringArrayVar(&f.targets, "target", nil, "`PATTERN` of targets that a user may map: CIDR:PORTS, HOSTGLOB:PORTS or any; may be repeated")
	flags.StringSliceVar(&f.proxies, "proxy", nil, "`NAME` of a proxy that a user may have; may be repeated (default any)")
	flags.StringVar(&f.ports, "ports", "", "mapped ports that a user may have, `LOW-HIGH` (default any)")
	durationVar(flags, &f.maxTTL, "max-ttl", "longest ttl of a user's bindings, a `DURATION` (default no limit)")
	flags.IntVar(&f.maxBindings, "max-bindings", 0, "`NUMBER` of a user's bindings at once; 0 no limit (default 100)")
	flags.IntVar(&f.maxSessions, "max-sessions", 0, "`NUMBER` of sessions of a user at once; 0 no limit (default 1000)")
	flags.IntVar(&f.targetsPerMinute, "targets-per-minute", 0, "`NUMBER` of new targets that a user may try within a minute; 0 no limit (default 60)")
	flags.IntVar(&f.callsPerSecond, "calls-per-second", 0, "`NUMBER` of calls of the API that a user may make a second; 0 no limit (default 20)")
	flags.BoolVar(&f.reasons, "reasons", false, "tell a user why a target cannot be reached, and where its name leads")
	flags.StringVar(&f.out, "out", "", "new `FILE` for the secret, instead of stdout")
}

// spec returns what the flags and the argument ask for.
func (f *tokenFlags) spec(cmd *cobra.Command, name string) (ohrouter.TokenSpec, error) {
	spec := ohrouter.TokenSpec{
		Name: name, Role: ohrouter.Role(f.role), TTL: f.ttl, Targets: f.targets, Proxies: f.proxies, MaxTTL: f.maxTTL, Reasons: f.reasons,
	}
	if !slices.Contains(ohrouter.Roles(), spec.Role) {
		return spec, usageErrorf("--role %q is none: there are admin, user and viewer", f.role)
	}
	if err := cmp.Or(checkDuration("ttl", f.ttl, maxHours), checkDuration("max-ttl", f.maxTTL, maxHours)); err != nil {
		return spec, err
	}
	if f.ports != "" {
		spec.Ports = new(ohrouter.PortRange)
		if err := spec.Ports.UnmarshalText([]byte(f.ports)); err != nil {
			return spec, usageErrorf("--ports: %s", ohrouter.Message(err))
		}
	}
	for flag, quota := range map[string]struct {
		asked int
		to    **int
	}{
		"max-bindings": {f.maxBindings, &spec.MaxBindings}, "max-sessions": {f.maxSessions, &spec.MaxSessions},
		"targets-per-minute": {f.targetsPerMinute, &spec.TargetsPerMinute}, "calls-per-second": {f.callsPerSecond, &spec.CallsPerSecond},
	} {
		if quota.asked < 0 {
			return spec, usageErrorf("--%s must not be negative", flag)
		}
		if cmd.Flags().Changed(flag) {
			*quota.to = new(quota.asked)
		}
	}
	return spec, nil
}

// createToken makes a token and hands over its secret.
func createToken(cmd *cobra.Command, keeper *keeper, output *format, spec ohrouter.TokenSpec, out string) error {
	var made ohrouter.NewToken
	create := func() (secret string, err error) {
		err = keeper.call(cmd, func(ctx context.Context, k tokens) (err error) {
			made, err = k.CreateToken(ctx, spec)
			return err
		})
		return made.Secret, err
	}
	if out != "" {
		if err := toNewFile(out, create); err != nil {
			return withoutToken(cmd, keeper, made.Token, err)
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "token %s (%s, %s) is in %s\n", printable(made.Name), printable(made.ID), printable(string(made.Role)), out)
		if output.is(asJSON) {
			return printJSON(cmd.OutOrStdout(), made.Token)
		}
		return nil
	}
	if _, err := create(); err != nil {
		return err
	}
	warnOfReaders(cmd)
	var err error
	if output.is(asJSON) {
		err = printJSON(cmd.OutOrStdout(), made)
	} else {
		_, err = fmt.Fprintln(cmd.OutOrStdout(), printable(made.Secret))
	}
	if err != nil {
		return withoutToken(cmd, keeper, made.Token, err)
	}
	return nil
}

// withoutToken revokes a token, if it was made, whose secret nobody got because
// of err, and returns what there is to say. The first one would lock everybody
// out, and cannot be revoked.
func withoutToken(cmd *cobra.Command, keeper *keeper, made ohrouter.Token, err error) error {
	if made.ID == "" {
		return err
	}
	failed := keeper.call(cmd, func(ctx context.Context, k tokens) error { return k.RevokeToken(ctx, made.ID) })
	if failed == nil {
		return fmt.Errorf("%w; the token has been revoked", err)
	}
	name := printable(made.Name)
	return &failure{
		message: fmt.Sprintf("%s; token %s was made, nobody has its secret, and it is not revoked: %s", err, name, failed),
		hint: fmt.Sprintf("Revoke it with an admin's token: oh-router token revoke %s\nIf nobody has one: stop the router, make one with "+
			"'oh-router token create NAME --role admin --out FILE --state DIR', and revoke %s with --state DIR, too.", name, name),
		exit: exitFailed,
	}
}

// newTokenListCommand returns "oh-router token list".
func newTokenListCommand(environ []string) *cobra.Command {
	output := newFormat(asTable, asTable, asWide, asJSON, asName)
	cmd := &cobra.Command{
		Use:        "list",
		SuggestFor: []string{"ls"},
		Short:      "List the tokens",
		Long: `List the tokens: all of them for an admin, for others the one that makes the
call. No secret is shown, for none is kept.`,
		Example: `  oh-router token list
  oh-router token list -o json | jq -r '.tokens[] | select(.last_used_at == null).id'`,
		Args:              takes(),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	keeper := newKeeper(cmd, environ)
	output.flag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var list []ohrouter.Token
		err := keeper.call(cmd, func(ctx context.Context, k tokens) (err error) {
			list, err = k.Tokens(ctx)
			return err
		})
		if err != nil {
			return err
		}
		return tokenListing(time.Now()).print(cmd, output, list)
	}
	return cmd
}

// tokenListing returns how tokens are printed.
func tokenListing(now time.Time) listing[ohrouter.Token] {
	type t = ohrouter.Token
	return listing[t]{
		kind: "tokens",
		none: "no tokens: the API serves everybody on its machine; make one with: oh-router token create NAME --role admin",
		id:   func(t t) string { return t.ID },
		columns: []column[t]{
			{head: "ID", cell: func(t t) string { return t.ID }},
			{head: "NAME", cell: func(t t) string { return t.Name }},
			{head: "ROLE", cell: func(t t) string { return string(t.Role) }},
			{head: "EXPIRES", cell: func(t t) string { return endText(now, t.ExpiresAt) }},
			{head: "LAST USED", cell: func(t t) string { return usedText(now, t.LastUsedAt) }},
			{head: "TARGETS", wide: true, cell: func(t t) string { return strings.Join(t.Targets, " ") }},
			{head: "PROXIES", wide: true, cell: func(t t) string { return strings.Join(t.Proxies, " ") }},
		},
	}
}

// endText returns how far away the end of a token is.
func endText(now time.Time, at *time.Time) string {
	if at != nil && !now.Before(*at) {
		return "ended"
	}
	return expiresText(now, at)
}

// usedText returns how long ago a token was shown; "" for not at all.
func usedText(now time.Time, at *time.Time) string {
	if at == nil {
		return ""
	}
	return agoText(now, *at)
}

// newTokenRevokeCommand returns "oh-router token revoke".
func newTokenRevokeCommand(environ []string) *cobra.Command {
	output := newFormat(asNothing, asNothing, asJSON, asName)
	cmd := &cobra.Command{
		Use:        "revoke ID|NAME",
		SuggestFor: []string{"rm", "remove", "delete"},
		Short:      "Revoke a token and close its bindings",
		Long: `Revoke the token with this id or name. It is refused at once, and its bindings
are closed, sessions included, when the command returns.`,
		Example: `  oh-router token revoke ci`,
		Args:    takes("ID or NAME"),
	}
	keeper := newKeeper(cmd, environ)
	output.flag(cmd)
	cmd.ValidArgsFunction = keeper.api.complete(completeTokens)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var revoked string
		err := keeper.call(cmd, func(ctx context.Context, k tokens) error {
			id, err := tokenID(ctx, k, args[0])
			if err != nil {
				return err
			}
			revoked = id
			return k.RevokeToken(ctx, id)
		})
		if err != nil {
			return err
		}
		return printID(cmd, output, revoked)
	}
	return cmd
}

// tokenID returns the id of the token with an id or a name. No name begins as
// an id does.
func tokenID(ctx context.Context, k tokens, what string) (string, error) {
	if strings.HasPrefix(what, "t-") {
		return what, nil
	}
	list, err := k.Tokens(ctx)
	if err != nil {
		return "", err
	}
	for _, t := range list {
		if t.Name == what {
			return t.ID, nil
		}
	}
	return "", ohrouter.Errorf(ohrouter.NotFound, "no token is named %.80q; 'oh-router token list' has them", what)
}

// completeTokens proposes the names of tokens, described by their roles.
func completeTokens(ctx context.Context, c *client.Client) ([]cobra.Completion, error) {
	tokens, err := c.Tokens(ctx)
	var found []cobra.Completion
	for _, t := range tokens {
		found = append(found, cobra.CompletionWithDesc(printable(t.Name), printable(string(t.Role))))
	}
	return found, err
}
