package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/ohrouter/oh-router/internal/config"
)

func newConfigCommand(environ []string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config COMMAND",
		Short: "Check a configuration file",
	}
	needsCommand(cmd)
	cmd.AddCommand(&cobra.Command{
		Use:   "check FILE",
		Short: "Tell whether a configuration file is valid",
		Long: `Read a configuration file as the servers would, for all roles. Exits with 0
when it is valid, after a line for each warning that a server would log; else
with 1, after a line for each thing that is wrong: the file, the key and the
reason.`,
		Example: "  oh-router config check /etc/oh-router.yaml",
		Args:    takes("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			warned, err := config.Check(args[0], environ, identified)
			if err != nil {
				return err
			}
			for _, w := range warned {
				if _, err := fmt.Fprintf(cmd.ErrOrStderr(), "%s: warning: %s\n", args[0], w); err != nil {
					return err
				}
			}
			_, err = fmt.Fprintf(cmd.ErrOrStderr(), "%s is valid\n", args[0])
			return err
		},
	})
	return cmd
}
