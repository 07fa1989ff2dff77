package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"time"

	"github.com/spf13/cobra"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/identity"
)

// newEnrollCommand returns "oh-router proxy enroll".
func newEnrollCommand(environ []string) *cobra.Command {
	var flags struct{ router, tokenFile, state string }
	cmd := &cobra.Command{
		Use:     "enroll [flags]",
		Aliases: []string{"enrol"},
		Short:   "Get this machine's certificate from a router",
		Long: `Make this machine a proxy of a router: with an enrolment token, which
'oh-router ca init --invite NAME' prints on the router's machine, it gets a
certificate for a key that never leaves it. The token also says which router is
the right one, so that no other file is needed. 'oh-router proxy' renews the
certificate by itself.`,
		Example:           `  oh-router proxy enroll --router https://router.example:8443 --token-file east.token`,
		Args:              takes(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case flags.router == "":
				return usageErrorf("--router is missing: the URL of the router's API, such as https://router.example:8443")
			case flags.tokenFile == "":
				return usageErrorf("--token-file is missing: the file that has the enrolment token")
			}
			state, err := stateDir(flags.state, environ)
			if err != nil {
				return err
			}
			token, err := readToken(flags.tokenFile, "")
			if err != nil {
				return err
			}
			leaf, err := enroll(cmd, flags.router, token, state)
			if err != nil {
				return err
			}
			id, err := identity.Of(leaf)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "this machine is %s; its certificate is good until %s, and renewed while 'oh-router proxy' runs\n",
				id, leaf.NotAfter.Format(time.DateOnly))
			return nil
		},
	}
	cmd.Flags().StringVar(&flags.router, "router", "", "`URL` of the router's API")
	cmd.Flags().StringVar(&flags.tokenFile, "token-file", "", "`FILE` that holds the enrolment token")
	stateFlag(cmd, &flags.state)
	return cmd
}

// enroll calls the router until it is done or interrupted.
func enroll(cmd *cobra.Command, router, token, state string) (*x509.Certificate, error) {
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt)
	defer stop()
	leaf, err := identity.Join(ctx, router, token, state)
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, &failure{message: "interrupted", exit: exitInterrupted}
	case ohrouter.CodeOf(err) == ohrouter.InvalidRequest:
		return nil, usageErrorf("%s", printable(ohrouter.Message(err)))
	case err != nil:
		f := &failure{message: printable(err.Error()), exit: exitFailed}
		if _, ok := errors.AsType[*net.OpError](err); ok || errors.Is(err, context.DeadlineExceeded) {
			f.hint = "Look at the name and the port in --router; is the router running, and do firewalls let this machine through?"
		}
		return nil, f
	}
	return leaf, nil
}
