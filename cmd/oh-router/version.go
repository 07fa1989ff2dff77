package main

import (
	"cmp"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is set when a release is built: -ldflags "-X main.version=v1.2.3".
var version string

// build tells what this binary was built from.
type build struct {
	Version  string `json:"version"`
	Go       string `json:"go"`
	OS       string `json:"os"`
	Arch     string `json:"arch"`
	Commit   string `json:"commit"`   // "" when built outside of a repository
	Time     string `json:"time"`     // of the commit
	Modified bool   `json:"modified"` // built from a tree with changes
}

// buildVersion returns what the linker and the go command left in the binary.
func buildVersion() build {
	b := build{Version: version, Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		b.Version = cmp.Or(b.Version, "devel")
		return b
	}
	if b.Version == "" && info.Main.Version != "(devel)" {
		b.Version = info.Main.Version
	}
	b.Version = cmp.Or(b.Version, "devel")
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Commit = s.Value
		case "vcs.time":
			b.Time = s.Value
		case "vcs.modified":
			b.Modified = s.Value == "true"
		}
	}
	return b
}

// String returns "VERSION (GO, OS/ARCH, commit COMMIT)".
func (b build) String() string {
	commit := cmp.Or(b.Commit, "unknown")
	if len(commit) > 12 {
		commit = commit[:12]
	}
	if b.Modified {
		commit += " with changes"
	}
	return fmt.Sprintf("%s (%s, %s/%s, commit %s)", b.Version, b.Go, b.OS, b.Arch, commit)
}

// newVersionCommand returns "oh-router version".
func newVersionCommand() *cobra.Command {
	output := newFormat(asText, asText, asJSON)
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Example: "  oh-router version\n  oh-router version -o json | jq -r .commit",
		Args:    takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			b := buildVersion()
			if output.is(asJSON) {
				return printJSON(cmd.OutOrStdout(), b)
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "oh-router %s\n", b)
			return err
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	output.flag(cmd)
	return cmd
}
