package main

import (
	"github.com/spf13/cobra"
)

// newCompletionCommand returns "oh-router completion".
func newCompletionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "completion SHELL",
		Short: "Print a completion script for bash, zsh, fish or powershell",
		Long: `Print a script that completes commands, flags, bindings and sessions of
oh-router in a shell: bash, zsh, fish or powershell.`,
		Example: `  source <(oh-router completion bash)                    # this shell
  oh-router completion bash > /etc/bash_completion.d/oh-router
  oh-router completion zsh > "${fpath[1]}/_oh-router"
  oh-router completion fish > ~/.config/fish/completions/oh-router.fish`,
		Args:      takes("SHELL"),
		ValidArgs: []cobra.Completion{"bash", "zsh", "fish", "powershell"},
		RunE: func(cmd *cobra.Command, args []string) error {
			out := cmd.OutOrStdout()
			switch args[0] {
			case "bash":
				return cmd.Root().GenBashCompletionV2(out, true)
			case "zsh":
				return cmd.Root().GenZshCompletion(out)
			case "fish":
				return cmd.Root().GenFishCompletion(out, true)
			case "powershell":
				return cmd.Root().GenPowerShellCompletionWithDesc(out)
			}
			return usageErrorf("no completion for %q: there is one for bash, zsh, fish and powershell", args[0])
		},
	}
}
