package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/client"
)

// newSessionsCommand returns "oh-router sessions".
func newSessionsCommand(environ []string) *cobra.Command {
	var binding string
	output := newFormat(asTable, asTable, asWide, asJSON, asName)
	cmd := &cobra.Command{
		Use:   "sessions",
		Short: "List the open sessions",
		Long: `List the client connections that are carried to targets now. UP counts bytes
from the client to the target, DOWN the other way.`,
		Example: `  oh-router sessions
  oh-router sessions --binding "$(oh-router bind db.internal:3306 -o name)" -o wide
  oh-router sessions -o json | jq '[.sessions[].bytes_down] | add'`,
		Args:              takes(),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringVar(&binding, "binding", "", "only the sessions of the binding with this `ID`, or of a target HOST:PORT")
	access := newAccess(cmd, environ)
	output.flag(cmd)
	// It errs only for a flag that is not there.
	_ = cmd.RegisterFlagCompletionFunc("binding", access.complete(completeBindings))
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		target, err := targetOrID(binding)
		if err != nil {
			return err
		}
		var sessions []ohrouter.Session
		err = access.call(cmd, func(ctx context.Context, c *client.Client) (err error) {
			sessions, err = sessionsOf(ctx, c, binding, target)
			return err
		})
		if err != nil {
			return err
		}
		return sessionListing(time.Now()).print(cmd, output, sessions)
	}
	return cmd
}

// sessionsOf returns the open sessions of a binding, of all bindings of a target,
// or of all with neither.
func sessionsOf(ctx context.Context, c *client.Client, id string, target ohrouter.Target) ([]ohrouter.Session, error) {
	if target == (ohrouter.Target{}) {
		sessions, err := c.Sessions(ctx, id)
		if err == nil && len(sessions) == 0 && id != "" { // the binding may have none, or not be there
			_, err = c.Binding(ctx, id)
		}
		return sessions, listedBy(err, "bindings")
	}
	bindings, err := c.Bindings(ctx, client.Filter{Target: target})
	if err != nil {
		return nil, err
	}
	if len(bindings) == 0 {
		return nil, notBound(target)
	}
	all := []ohrouter.Session{}
	for _, b := range bindings {
		sessions, err := c.Sessions(ctx, b.ID)
		if err != nil {
			return nil, err
		}
		all = append(all, sessions...)
	}
	return all, nil
}

// sessionListing returns how sessions are printed.
func sessionListing(now time.Time) listing[ohrouter.Session] {
	type s = ohrouter.Session
	return listing[s]{
		kind: "sessions",
		none: "no sessions; one begins when a client connects to a mapped address",
		id:   func(s s) string { return s.ID },
		columns: []column[s]{
			{head: "ID", cell: func(s s) string { return s.ID }},
			{head: "CLIENT", cell: func(s s) string { return s.Client.String() }},
			{head: "TARGET", cell: func(s s) string { return s.Target.String() }},
			{head: "AGE", cell: func(s s) string { return ageText(now.Sub(s.StartedAt)) }},
			{head: "UP", cell: func(s s) string { return bytesText(s.BytesUp) }},
			{head: "DOWN", cell: func(s s) string { return bytesText(s.BytesDown) }},
			{head: "BINDING", wide: true, cell: func(s s) string { return s.BindingID }},
			{head: "RESOLVED", wide: true, cell: func(s s) string { return string(s.Resolved) }},
			{head: "PROXY", wide: true, cell: func(s s) string { return string(s.Proxy) }},
		},
	}
}
