package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/ohrouter/oh-router/client"
)

// newKillCommand returns "oh-router kill".
func newKillCommand(environ []string) *cobra.Command {
	output := newFormat(asNothing, asNothing, asJSON, asName)
	cmd := &cobra.Command{
		Use:   "kill SESSION",
		Short: "Cut one session",
		Long:  `Cut the session with this id: the client and the target are reset.`,
		Example: `  oh-router kill s-s5qlk5-4
  oh-router sessions -o name | xargs -r -n 1 oh-router kill`,
		Args: takes("SESSION"),
	}
	access := newAccess(cmd, environ)
	output.flag(cmd)
	cmd.ValidArgsFunction = access.complete(completeSessions)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		err := access.call(cmd, func(ctx context.Context, c *client.Client) error {
			return listedBy(c.Kill(ctx, args[0]), "sessions")
		})
		if err != nil {
			return err
		}
		return printID(cmd, output, args[0])
	}
	return cmd
}

// completeSessions proposes the ids of sessions, described by their two ends.
func completeSessions(ctx context.Context, c *client.Client) ([]cobra.Completion, error) {
	sessions, err := c.Sessions(ctx, "")
	var found []cobra.Completion
	for _, s := range sessions {
		found = append(found, cobra.CompletionWithDesc(printable(s.ID), s.Client.String()+" to "+s.Target.String()))
	}
	return found, err
}
