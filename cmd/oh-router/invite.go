package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/client"
	"github.com/ohrouter/oh-router/internal/identity"
)

// newInviteCommand returns "oh-router proxy invite".
func newInviteCommand(environ []string) *cobra.Command {
	var ttl ohrouter.Duration
	var out string
	output := newFormat(asText, asText, asJSON)
	cmd := &cobra.Command{
		Use:   "invite NAME",
		Short: "Make an enrolment token for a proxy; prints it, this once",
		Long: `Ask a router for an enrolment token and print it, alone, on stdout; with --out it
goes to a new file that only you can read. The machine that gives it to
'oh-router proxy enroll' becomes the proxy of this name, once. It takes a token
of an admin to ask.`,
		Example: `  oh-router proxy invite west --out west.token
  oh-router proxy invite west --ttl 24h --out west.token`,
		Args: takes("NAME"),
	}
	durationVar(cmd.Flags(), &ttl, "ttl", "the token is good for this `DURATION` (default 1h)")
	cmd.Flags().StringVar(&out, "out", "", "new `FILE` for the token, instead of stdout")
	access := newAccess(cmd, environ)
	output.flag(cmd)
	cmd.ValidArgsFunction = access.complete(completeProxies)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if ttl < 0 {
			return usageErrorf("--ttl must not be negative")
		}
		if err := checkProxyName(args[0]); err != nil {
			return err
		}
		var made ohrouter.NewInvitation
		ask := func() (secret string, err error) {
			err = access.call(cmd, func(ctx context.Context, c *client.Client) (err error) {
				made, err = c.Invite(ctx, args[0], time.Duration(ttl))
				return err
			})
			return made.Token, err
		}
		return handInvitation(cmd, output, &made, ask, out)
	}
	return cmd
}

// handInvitation asks for an enrolment token and hands it over.
func handInvitation(cmd *cobra.Command, output *format, made *ohrouter.NewInvitation, ask func() (string, error), out string) error {
	if out != "" {
		if err := toNewFile(out, ask); err != nil {
			return err
		}
		made.Token = ""
	} else if _, err := ask(); err != nil {
		return err
	}
	if out == "" {
		warnOfReaders(cmd)
	}
	switch {
	case output.is(asJSON):
		shown := map[string]any{"proxy": made.Proxy, "expires_at": made.ExpiresAt}
		if out == "" {
			shown["token"] = made.Token
		}
		return printJSON(cmd.OutOrStdout(), shown)
	case out == "":
		if _, err := fmt.Fprintln(cmd.OutOrStdout(), printable(made.Token)); err != nil {
			return err
		}
	}
	tellOfInvitation(cmd.ErrOrStderr(), *made, cmp.Or(out, "FILE"))
	return nil
}

// tellOfInvitation says what the enrolment token in a file is good for.
func tellOfInvitation(w io.Writer, made ohrouter.NewInvitation, file string) {
	fmt.Fprintf(w, "whoever has the enrolment token becomes proxy %s, once, until %s:\n"+
		"  oh-router proxy enroll --router https://ROUTER:PORT --token-file %s\n",
		printable(made.Proxy), made.ExpiresAt.Local().Format("2006-01-02 15:04 MST"), file)
}

// checkProxyName makes a wrong name an error of usage.
func checkProxyName(name string) error {
	if err := identity.CheckName(name); err != nil {
		return usageErrorf("%s", ohrouter.Message(err))
	}
	return nil
}

// newRevokeCommand returns "oh-router proxy revoke".
func newRevokeCommand(environ []string) *cobra.Command {
	output := newFormat(asNothing, asNothing, asJSON, asName)
	cmd := &cobra.Command{
		Use:        "revoke NAME",
		SuggestFor: []string{"rm", "remove", "delete"},
		Short:      "Revoke the certificates of a proxy",
		Long: `Revoke all certificates that the proxy of this name has, and the enrolment
tokens for it that nobody has used: they are refused at once, and its links end.
A new enrolment token ('oh-router proxy invite') lets it come back. It takes a
token of an admin to ask.`,
		Example: `  oh-router proxy revoke west`,
		Args:    takes("NAME"),
	}
	access := newAccess(cmd, environ)
	output.flag(cmd)
	cmd.ValidArgsFunction = access.complete(completeProxies)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := checkProxyName(args[0]); err != nil {
			return err
		}
		var proxies []ohrouter.Proxy
		err := access.call(cmd, func(ctx context.Context, c *client.Client) (err error) {
			if err = c.RevokeCertificate(ctx, args[0]); err == nil {
				proxies, _ = c.Proxies(ctx) // it is revoked, whatever they are called
			}
			return err
		})
		if err != nil {
			return err
		}
		if len(proxies) > 0 && !slices.ContainsFunc(proxies, func(p ohrouter.Proxy) bool { return p.Name == args[0] }) {
			fmt.Fprintf(cmd.ErrOrStderr(), "warning: certificates of %s are refused from now on, but no proxy of the router has that name: is it the right one? 'oh-router proxies' lists them\n", args[0])
		}
		return printID(cmd, output, args[0])
	}
	return cmd
}

// completeProxies proposes the names of proxies, described by their states.
func completeProxies(ctx context.Context, c *client.Client) ([]cobra.Completion, error) {
	proxies, err := c.Proxies(ctx)
	var found []cobra.Completion
	for _, p := range proxies {
		found = append(found, cobra.CompletionWithDesc(printable(p.Name), printable(string(p.State))))
	}
	return found, err
}
