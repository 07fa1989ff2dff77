package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/client"
	"github.com/ohrouter/oh-router/internal/access"
	"github.com/ohrouter/oh-router/internal/audit"
	"github.com/ohrouter/oh-router/internal/store/bolt"
)

// tokens is what the commands about tokens ask for.
type tokens interface {
	CreateToken(ctx context.Context, spec ohrouter.TokenSpec) (ohrouter.NewToken, error)
	Tokens(ctx context.Context) ([]ohrouter.Token, error)
	RevokeToken(ctx context.Context, id string) error
}

// keeper is who keeps the tokens of a command: a router that runs, or with
// --state the state of one that does not.
type keeper struct {
	api             *apiAccess
	state, auditLog string
}

// newKeeper gives cmd the flags that say who keeps the tokens.
func newKeeper(cmd *cobra.Command, environ []string) *keeper {
	k := &keeper{api: newAccess(cmd, environ)}
	cmd.Flags().StringVar(&k.state, "state", "", "state `DIR` of a router of this machine that does not run: do it there, without a token")
	cmd.Flags().StringVar(&k.auditLog, "audit-log", "", "with --state: the router's audit log, a `FILE` (env OH_ROUTER_AUDIT_LOG)")
	return k
}

// call lets do ask whoever keeps the tokens.
func (k *keeper) call(cmd *cobra.Command, do func(context.Context, tokens) error) error {
	if !cmd.Flags().Changed("state") {
		if k.auditLog != "" {
			return usageErrorf("--audit-log belongs to --state: a router that runs writes its own")
		}
		return k.api.call(cmd, func(ctx context.Context, c *client.Client) error { return do(ctx, c) })
	}
	if f := k.api; f.server != "" || f.tokenFile != "" || f.caFile != "" {
		return usageErrorf("--state asks no router: leave out --server, --token-file and --ca-file")
	}
	return k.offline(cmd, do)
}

// offline lets do ask the state of a router that does not run.
func (k *keeper) offline(cmd *cobra.Command, do func(context.Context, tokens) error) (err error) {
	dir, err := stateDir(k.state, k.api.environ)
	if err != nil {
		return err
	}
	fresh := !bolt.Exists(dir)
	if fresh && cmd.Name() != "create" {
		return fmt.Errorf("there is no state in %s: name the directory that the router is started with", dir)
	}
	store, err := openState(dir, "without --state this command asks it, with an admin's token")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	if fresh {
		fmt.Fprintf(cmd.ErrOrStderr(), "made the state directory %s: start the router with it (--state)\n", dir)
	}
	log, err := audit.Open(audit.Config{
		// The secret goes to stdout.
		File: cmp.Or(k.auditLog, k.api.getenv("OH_ROUTER_AUDIT_LOG")), Stdout: cmd.ErrOrStderr(),
		Log: slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil)), Metrics: prometheus.NewRegistry(),
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	kept, err := access.Open(cmd.Context(), access.Config{Store: store})
	if err != nil {
		return err
	}
	by := audit.Caller{Call: cmd.CommandPath() + " --state"}
	return callFailure(do(cmd.Context(), &ownTokens{kept, log, by}))
}

// openState opens the state of a router that does not run. If it does, the error
// also says what there is to do otherwise.
func openState(dir, otherwise string) (*bolt.Store, error) {
	store, err := bolt.Open(dir)
	if used, ok := errors.AsType[*bolt.InUse](err); ok {
		return nil, &failure{message: "a router runs on " + used.Path + ": stop it first; " + otherwise, exit: exitFailed}
	}
	return store, err
}

// ownTokens are the tokens of a state directory, in the hands of whoever may
// write there.
type ownTokens struct {
	tokens *access.Tokens
	audit  *audit.Log
	by     audit.Caller
}

// CreateToken makes a token.
func (o *ownTokens) CreateToken(ctx context.Context, spec ohrouter.TokenSpec) (ohrouter.NewToken, error) {
	made, err := o.tokens.Create(ctx, spec)
	if err == nil {
		o.record(audit.TokenCreated, made.Token)
	}
	return made, err
}

// Tokens returns all of them.
func (o *ownTokens) Tokens(context.Context) ([]ohrouter.Token, error) { return o.tokens.List(), nil }

// RevokeToken ends a token. Its bindings end when the router starts.
func (o *ownTokens) RevokeToken(ctx context.Context, id string) error {
	revoked, _ := o.tokens.Token(id)
	err := o.tokens.Revoke(ctx, id)
	if err == nil {
		o.record(audit.TokenRevoked, revoked)
	}
	return err
}

func (o *ownTokens) record(event audit.Event, t ohrouter.Token) {
	e := audit.Entry{Event: event, By: o.by, Token: t.ID, TokenName: t.Name, Role: string(t.Role)}
	if event == audit.TokenCreated && t.ExpiresAt != nil {
		e.Expires = *t.ExpiresAt
	}
	o.audit.Record(e)
}
