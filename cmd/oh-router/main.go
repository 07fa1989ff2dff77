// Command oh-router gives TCP clients a way to targets that they cannot reach
// themselves: it is the router, the proxy, and the tool that asks a router for
// mapped ports. Each subcommand is a file of its own; this one puts them
// together.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

func main() {
	os.Exit(run(context.Background(), os.Args[1:], os.Stdout, os.Stderr, os.Environ()))
}

// run executes one command line and returns the exit code: 0 done, 1 failed,
// 2 used wrongly, 130 a client command was interrupted. Data goes to stdout,
// everything else to stderr.
func run(ctx context.Context, args []string, stdout, stderr io.Writer, environ []string) int {
	root := newRootCommand(environ)
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	return report(stderr, cmd, err)
}

// The groups of the root command's help.
const (
	serverGroup = "servers"
	clientGroup = "clients"
)

// newRootCommand assembles all commands. They take the environment from here.
func newRootCommand(environ []string) *cobra.Command {
	root := &cobra.Command{
		Use:   "oh-router",
		Short: "Reach TCP services through a router and the proxies beside them",
		Long: `oh-router maps TCP services that you cannot reach to ports that you can.
You ask a router for HOST:PORT; it answers with an address of its own that
leads there, through a proxy that stands beside the service.`,
		Example: `  oh-router up --bind 127.0.0.1:5432     # try it: everything in one process
  oh-router bind db.internal:3306        # ask a running router; prints the address`,
		Version:       buildVersion().String(),
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	needsCommand(root)
	root.SetVersionTemplate("oh-router {{.Version}}\n")
	root.SetUsageTemplate(usageTemplate)
	root.SetFlagErrorFunc(flagError)
	root.CompletionOptions.DisableDefaultCmd = true
	root.AddGroup(&cobra.Group{ID: serverGroup, Title: "Servers:"}, &cobra.Group{ID: clientGroup, Title: "Clients:"})
	root.SetHelpCommand(newHelpCommand())

	add := func(group string, commands ...*cobra.Command) {
		for _, c := range commands {
			c.GroupID = group
		}
		root.AddCommand(commands...)
	}
	add(serverGroup,
		newUpCommand(environ),
		newRouterCommand(environ),
		newProxyCommand(environ),
		newCACommand(environ),
	)
	add(clientGroup,
		newBindCommand(environ),
		newUnbindCommand(environ),
		newBindingsCommand(environ),
		newSessionsCommand(environ),
		newProxiesCommand(environ),
		newKillCommand(environ),
		newTokenCommand(environ),
	)
	add("",
		newConfigCommand(environ),
		newVersionCommand(),
		newCompletionCommand(),
	)
	nameArguments(root)
	return root
}

// needsCommand makes cmd one that does nothing without a subcommand.
func needsCommand(cmd *cobra.Command) {
	// Cobra's own check neither suggests below the root nor lets us tell a
	// wrong use from a failure.
	cmd.DisableFlagsInUseLine = true
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return unknownCommand(cmd, args[0])
		}
		return nil
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cmd.SetOut(cmd.ErrOrStderr())
		if err := cmd.Help(); err != nil {
			return err
		}
		return &failure{exit: exitUsage}
	}
}

// unknownCommand returns the error for a name that is no subcommand of cmd.
func unknownCommand(cmd *cobra.Command, name string) error {
	f := &failure{message: fmt.Sprintf("unknown command %.60q", name), hint: seeHelp(cmd), exit: exitUsage}
	if likely := likelyCommands(cmd, name); len(likely) > 0 {
		f.message += fmt.Sprintf("; did you mean '%s %s'?", cmd.CommandPath(), strings.Join(likely, "' or '"+cmd.CommandPath()+" "))
		return f
	}
	var names []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	f.message += fmt.Sprintf("; the commands of '%s' are %s", cmd.CommandPath(), strings.Join(names, ", "))
	return f
}

// likelyCommands returns the commands below cmd that somebody may have meant with
// name: what is called so, there or further below, else what is spelt
// almost so.
func likelyCommands(cmd *cobra.Command, name string) (likely []string) {
	means := func(s string) bool { return strings.EqualFold(s, name) }
	var below []string
	for _, c := range cmd.Commands() {
		if means(c.Name()) || slices.ContainsFunc(c.SuggestFor, means) {
			likely = append(likely, c.Name())
		}
		for _, sub := range c.Commands() {
			if means(sub.Name()) || slices.ContainsFunc(sub.Aliases, means) {
				below = append(below, c.Name()+" "+sub.Name())
			}
		}
	}
	if len(likely) == 0 {
		likely = below
	}
	// A word of which every letter is another one is no slip of the pen.
	for cmd.SuggestionsMinimumDistance = 1; len(likely) == 0 && cmd.SuggestionsMinimumDistance <= min(2, len(name)-1); cmd.SuggestionsMinimumDistance++ {
		likely = cmd.SuggestionsFor(name)
	}
	return likely
}

// newHelpCommand replaces cobra's, which succeeds for unknown commands.
func newHelpCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]",
		Short: "Help about a command",
		RunE: func(cmd *cobra.Command, args []string) error {
			about, rest, err := cmd.Root().Find(args)
			if err != nil || len(rest) > 0 {
				if !about.HasSubCommands() {
					about, rest = cmd.Root(), args
				}
				return unknownCommand(about, strings.Join(rest, " "))
			}
			about.InitDefaultHelpFlag()
			return about.Help()
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
			var names []cobra.Completion
			if about, rest, err := cmd.Root().Find(args); err == nil && len(rest) == 0 {
				for _, c := range about.Commands() {
					if c.IsAvailableCommand() {
						names = append(names, cobra.CompletionWithDesc(c.Name(), c.Short))
					}
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
	}
}

// usageTemplate is cobra's without the lines that only repeat others.
const usageTemplate = `Usage:
  {{.UseLine}}{{if not .HasParent}} COMMAND{{end}}
{{- if .HasExample}}

Examples:
{{.Example}}
{{- end}}
{{- if .HasAvailableSubCommands}}
{{- $commands := .Commands}}
{{- range $group := .Groups}}

{{.Title}}
{{- range $commands}}{{if and (eq .GroupID $group.ID) .IsAvailableCommand}}
  {{rpad .Name .NamePadding}} {{.Short}}
{{- end}}{{end}}
{{- end}}

{{if .Groups}}More{{else}}Commands{{end}}:
{{- range $commands}}{{if and (eq .GroupID "") (or .IsAvailableCommand (eq .Name "help"))}}
  {{rpad .Name .NamePadding}} {{.Short}}
{{- end}}{{end}}
{{- end}}
{{- if .HasAvailableLocalFlags}}

Flags:
{{.LocalFlags.FlagUsages | trimTrailingWhitespaces}}
{{- end}}
{{- if .HasAvailableSubCommands}}

'{{.CommandPath}} COMMAND --help' tells more about a command.
{{- end}}
`
