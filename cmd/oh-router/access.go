package main

import (
	"cmp"
	"context"
	"crypto/x509"
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
	maxCAFile         = 1 << 20
)

// apiAccess is how a client command reaches the router.
type apiAccess struct {
	server, tokenFile, caFile string
	environ                   []string
}

// newAccess gives cmd the flags that all client commands have.
func newAccess(cmd *cobra.Command, environ []string) *apiAccess {
	a := &apiAccess{environ: environ}
	cmd.Flags().StringVar(&a.server, "server", "", "`URL` of the router's API (env OH_ROUTER_SERVER; default "+client.DefaultServer+")")
	cmd.Flags().StringVar(&a.tokenFile, "token-file", "", "`FILE` that holds the API token (env OH_ROUTER_TOKEN_FILE, or the token itself in OH_ROUTER_TOKEN)")
	cmd.Flags().StringVar(&a.caFile, "ca-file", "", "PEM `FILE` with the CA of the router's certificate (env OH_ROUTER_CA_FILE; default this machine's CAs)")
	return a
}

// getenv returns the value of an environment variable.
func (a *apiAccess) getenv(name string) string { return getenv(a.environ, name) }

// getenv returns the value of a variable in an environment.
func getenv(environ []string, name string) string {
	// The last one counts, as for the operating system's own programs.
	for _, kv := range slices.Backward(environ) {
		if v, ok := strings.CutPrefix(kv, name+"="); ok {
			return v
		}
	}
	return ""
}

// client returns a client of the router that flags and environment name.
func (a *apiAccess) client() (*client.Client, error) {
	token := strings.TrimSpace(a.getenv("OH_ROUTER_TOKEN"))
	if file := cmp.Or(a.tokenFile, a.getenv("OH_ROUTER_TOKEN_FILE")); file != "" {
		var err error
		if token, err = readToken(file); err != nil {
			return nil, err
		}
	}
	var roots *x509.CertPool
	if file := cmp.Or(a.caFile, a.getenv("OH_ROUTER_CA_FILE")); file != "" {
		pem, err := readSmall(file, "the CA", maxCAFile)
		if err != nil {
			return nil, err
		}
		if roots = x509.NewCertPool(); !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("read the CA: %s has no PEM certificate", file)
		}
	}
	c, err := client.New(client.Config{
		Server:    cmp.Or(a.server, a.getenv("OH_ROUTER_SERVER")),
		Token:     token,
		RootCAs:   roots,
		UserAgent: "oh-router/" + buildVersion().Version,
	})
	if err != nil {
		return nil, usageErrorf("%s", ohrouter.Message(err))
	}
	return c, nil
}

// readToken returns the token that a file holds.
func readToken(file string) (string, error) {
	b, err := readSmall(file, "the token", maxTokenFile)
	if err != nil {
		return "", err
	}
	token := strings.TrimSpace(string(b))
	if token == "" {
		return "", fmt.Errorf("read the token: %s is empty", file)
	}
	return token, nil
}

// readSmall returns what a file holds that cannot be large.
func readSmall(file, what string, most int) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", what, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, int64(most)+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", what, err)
	}
	if len(b) > most {
		return nil, fmt.Errorf("read %s: %s has more than %d bytes: is it the right file?", what, file, most)
	}
	return b, nil
}

// call lets do talk to the router until it is done, interrupted or too late.
// Printing comes after it: a command that waits for its reader must die of an
// interrupt as others do.
func (a *apiAccess) call(cmd *cobra.Command, do func(context.Context, *client.Client) error) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	if c.TokenInClear() {
		fmt.Fprintln(cmd.ErrOrStderr(), "warning: the token travels unencrypted: use https:// in --server, or make sure that something else protects that network")
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
func (a *apiAccess) complete(list func(context.Context, *client.Client) ([]cobra.Completion, error)) cobra.CompletionFunc {
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
