package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/client"
)

// Limits of the client commands.
const (
	callTimeout       = time.Minute // beyond any dial timeout that makes sense
	completionTimeout = 2 * time.Second
	maxTokenFile      = 4 << 10
)

// access is how a client command reaches the router.
type access struct {
	server, tokenFile string
	environ           []string
}

// newAccess gives cmd the flags that all client commands have.
func newAccess(cmd *cobra.Command, environ []string) *access {
	a := &access{environ: environ}
	cmd.Flags().StringVar(&a.server, "server", "", "`URL` of the router's API (env OH_ROUTER_SERVER; default "+client.DefaultServer+")")
	cmd.Flags().StringVar(&a.tokenFile, "token-file", "", "`FILE` that holds the API token (env OH_ROUTER_TOKEN_FILE)")
	return a
}

// getenv returns the value of an environment variable.
func (a *access) getenv(name string) string {
	// The last one counts, as for the operating system's own programs.
	for _, kv := range slices.Backward(a.environ) {
		if v, ok := strings.CutPrefix(kv, name+"="); ok {
			return v
		}
	}
	return ""
}

// client returns a client of the router that flags and environment name.
func (a *access) client() (*client.Client, error) {
	var token string
	if file := cmp.Or(a.tokenFile, a.getenv("OH_ROUTER_TOKEN_FILE")); file != "" {
		var err error
		if token, err = readToken(file); err != nil {
			return nil, err
		}
	}
	c, err := client.New(client.Config{
		Server:    cmp.Or(a.server, a.getenv("OH_ROUTER_SERVER")),
		Token:     token,
		UserAgent: "oh-router/" + buildVersion().Version,
	})
	if err != nil {
		return nil, usageErrorf("%s", ohrouter.Message(err))
	}
	return c, nil
}

// readToken returns the token that a file holds.
func readToken(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", fmt.Errorf("read the token: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxTokenFile+1))
	if err != nil {
		return "", fmt.Errorf("read the token: %w", err)
	}
	if len(b) > maxTokenFile {
		return "", fmt.Errorf("read the token: %s has more than %d bytes: is it the right file?", file, maxTokenFile)
	}
	token := strings.TrimSpace(string(b))
	if token == "" {
		return "", fmt.Errorf("read the token: %s is empty", file)
	}
	return token, nil
}

// call lets do talk to the router until it is done, interrupted or too late.
// Printing comes after it: a command that waits for its reader must die of an
// interrupt as others do.
func (a *access) call(cmd *cobra.Command, do func(context.Context, *client.Client) error) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	interrupt, stop := signal.NotifyContext(cmd.Context(), os.Interrupt)
	defer stop()
	ctx, cancel := context.WithTimeout(interrupt, callTimeout)
	defer cancel()
	err = do(ctx, c)
	if err != nil && interrupt.Err() != nil {
		return &failure{message: "interrupted", exit: exitInterrupted}
	}
	return callFailure(err)
}

// complete returns a completion of the first argument with what list gets. A
// router that does not answer means no proposals.
func (a *access) complete(list func(context.Context, *client.Client) ([]cobra.Completion, error)) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		c, err := a.client()
		if err != nil || len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), completionTimeout)
		defer cancel()
		found, err := list(ctx, c)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return found, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeBindings proposes the ids of bindings, described by their targets.
func completeBindings(ctx context.Context, c *client.Client) ([]cobra.Completion, error) {
	bindings, err := c.Bindings(ctx, client.Filter{})
	var found []cobra.Completion
	for _, b := range bindings {
		found = append(found, cobra.CompletionWithDesc(printable(b.ID), b.Target.String()))
	}
	return found, err
}
