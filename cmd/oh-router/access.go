package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/client"
	"github.com/ohrouter/oh-router/internal/identity"
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
	cmd.Flags().StringVar(&a.server, "server", "", "`URL` of the router's API (env OH_ROUTER_SERVER; default "+client.DefaultServer+", https:// there if this machine has a CA)")
	cmd.Flags().StringVar(&a.tokenFile, "token-file", "", "`FILE` that holds the API token (env OH_ROUTER_TOKEN_FILE, or the token in OH_ROUTER_TOKEN; default the admin's on its router's machine)")
	cmd.Flags().StringVar(&a.caFile, "ca-file", "", "PEM `FILE` with the CA of the router (env OH_ROUTER_CA_FILE; default the system's, and its own on its machine)")
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

// client returns a client of the router that flags and environment name. What
// they do not say is found out on the machine of a router that has a CA: see own.
func (a *apiAccess) client() (*client.Client, error) {
	own := a.own()
	server, ofServer := a.given(a.server, "OH_ROUTER_SERVER")
	caFile, ofCA := a.given(a.caFile, "OH_ROUTER_CA_FILE")
	tokenFile, ofToken := a.given(a.tokenFile, "OH_ROUTER_TOKEN_FILE")
	if _, err := client.New(client.Config{Server: server}); err != nil && ofServer != "" {
		return nil, usageErrorf("%s: look at the value%s", ohrouter.Message(err), ofServer)
	}
	cfg := client.Config{
		Server:    cmp.Or(server, own.server),
		Token:     strings.TrimSpace(a.getenv("OH_ROUTER_TOKEN")),
		UserAgent: "oh-router/" + buildVersion().Version,
	}
	if caFile == "" && onThisMachine(cfg.Server) && own.caFile != "" {
		caFile = own.caFile
		if tokenFile == "" && cfg.Token == "" {
			tokenFile = own.tokenFile
		}
	}
	var err error
	if tokenFile != "" {
		if cfg.Token, err = readToken(tokenFile, ofToken); err != nil {
			return nil, err
		}
	}
	if caFile != "" {
		pem, err := readSmall(caFile, "the CA"+ofCA, maxCAFile)
		if err != nil {
			return nil, err
		}
		if cfg.TLS, err = identity.ClientTLS(pem); err != nil {
			return nil, fmt.Errorf("read the CA%s: %s: %s", ofCA, caFile, ohrouter.Message(err))
		}
	}
	c, err := client.New(cfg)
	if err != nil {
		return nil, usageErrorf("%s", ohrouter.Message(err))
	}
	return c, nil
}

// given returns what a flag says, or else a variable, and a word about which
// variable that is.
func (a *apiAccess) given(flag, variable string) (value, of string) {
	if value = a.getenv(variable); flag != "" || value == "" {
		return flag, ""
	}
	return value, " of " + variable
}

// usual returns the server that is called without --server, and where nobody has
// written that why it is this one.
func (a *apiAccess) usual() (server, why string) {
	own := a.own()
	switch server = a.getenv("OH_ROUTER_SERVER"); {
	case server != "":
		return server, "The address is that of OH_ROUTER_SERVER."
	case own.server != "":
		return own.server, fmt.Sprintf("It is https:// without --server, as this machine has a CA (%s).", own.caFile)
	}
	return client.DefaultServer, ""
}

// ownRouter is how the router of this machine is called. It is zero where there
// is none with a CA, or where this user may not read its state directory.
type ownRouter struct {
	server, caFile, tokenFile string
}

// own returns how the router of this machine is called. Its token goes to whoever
// proves to be of its CA and to nobody else, whatever listens at the address.
func (a *apiAccess) own() (r ownRouter) {
	state, err := stateDir("", a.environ)
	if err != nil || !identity.HasRouter(state) || !canRead(identity.CAFile(state)) {
		return r
	}
	r.caFile = identity.CAFile(state)
	r.server = strings.Replace(client.DefaultServer, "http://", "https://", 1)
	if file := filepath.Join(state, adminTokenFile); canRead(file) {
		r.tokenFile = file
	}
	return r
}

// canRead tells whether a file can be read.
func canRead(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	_ = f.Close()
	return true
}

// onThisMachine tells whether a URL leads to this machine, encrypted: by its own
// name or one of its addresses.
func onThisMachine(server string) bool {
	u, err := url.Parse(server)
	if err != nil || u.Scheme != "https" {
		return false
	}
	host := u.Hostname()
	addr, err := netip.ParseAddr(host)
	if err != nil {
		own, _ := os.Hostname() // "" is nobody's
		return host == "localhost" || host != "" && strings.EqualFold(host, own)
	}
	if addr.IsLoopback() {
		return true
	}
	all, _ := net.InterfaceAddrs()
	return slices.ContainsFunc(all, func(a net.Addr) bool {
		own, err := netip.ParsePrefix(a.String())
		return err == nil && own.Addr() == addr.Unmap()
	})
}

// readToken returns the token that a file holds, which may be that of a variable.
func readToken(file, of string) (string, error) {
	b, err := readSmall(file, "the token"+of, maxTokenFile)
	if err != nil {
		return "", err
	}
	token := strings.TrimSpace(string(b))
	if token == "" {
		return "", fmt.Errorf("read the token%s: %s is empty", of, file)
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
	failed := callFailure(err)
	if f, ok := errors.AsType[*failure](failed); ok && a.server == "" && (errors.Is(err, client.ErrNoRouter) || errors.Is(err, client.ErrNotAPI)) {
		_, f.hint = a.usual()
	}
	return failed
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
