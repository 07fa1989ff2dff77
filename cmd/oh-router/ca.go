package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/access"
	"github.com/ohrouter/oh-router/internal/config"
	"github.com/ohrouter/oh-router/internal/identity"
)

// adminTokenFile is where "ca init" leaves the first API token, in the state
// directory.
const adminTokenFile = "admin.token"

// newCACommand returns "oh-router ca".
func newCACommand(environ []string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ca COMMAND",
		Short: "Make the CA that router and proxies trust, or show it",
	}
	needsCommand(cmd)
	cmd.AddCommand(newCAInitCommand(environ), newCAShowCommand(environ))
	return cmd
}

// newCAInitCommand returns "oh-router ca init".
func newCAInitCommand(environ []string) *cobra.Command {
	var flags struct {
		state, invite, out string
		hosts              []string
	}
	cmd := &cobra.Command{
		Use:   "init [flags]",
		Short: "Make a CA, the router's certificate and an API token",
		Long: `Make what a router needs to be reached from other machines: a CA, the router's
certificate, and an API token with the role admin, all kept in the state
directory. --invite makes an enrolment token, too: with it one machine becomes
that proxy, once, within an hour. It goes to a new file that only you can read
(--out), else to stdout, alone. What is there already stays; --host adds names
to the router's certificate. The router must not run.`,
		Example: `  oh-router ca init --invite east --out east.token
  oh-router ca init --host router.example --host 192.0.2.1`,
		Args:              takes(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if flags.out != "" && flags.invite == "" {
				return usageErrorf("--out is for the enrolment token that --invite NAME makes")
			}
			state, err := stateDir(flags.state, environ)
			if err != nil {
				return err
			}
			return initCA(cmd, state, flags.hosts, flags.invite, flags.out)
		},
	}
	stateFlag(cmd, &flags.state)
	cmd.Flags().StringArrayVar(&flags.hosts, "host", nil, "`NAME` or address that clients use for the router, besides this machine's own; may be repeated")
	cmd.Flags().StringVar(&flags.invite, "invite", "", "make an enrolment token for the proxy of this `NAME`")
	cmd.Flags().StringVar(&flags.out, "out", "", "new `FILE` for the enrolment token, instead of stdout")
	return cmd
}

// stateFlag gives cmd the --state flag of a command that does not serve.
func stateFlag(cmd *cobra.Command, dir *string) {
	cmd.Flags().StringVar(dir, "state", "", "`DIR` that the server keeps its state in (env OH_ROUTER_STATE; default $STATE_DIRECTORY, else the XDG state folder)")
}

// stateDir returns the directory for the value of --state.
func stateDir(value string, environ []string) (string, error) {
	dir, err := config.StateDir(cmp.Or(value, getenv(environ, "OH_ROUTER_STATE")), environ)
	switch {
	case err != nil:
		return "", usageErrorf("%s", err)
	case dir == "":
		return "", usageErrorf("there is no state in none: name a directory with --state")
	}
	return dir, nil
}

// initCA makes what is not there yet, and tells of it on stderr.
func initCA(cmd *cobra.Command, state string, hosts []string, invite, out string) (err error) {
	if invite != "" {
		if err := identity.CheckName(invite); err != nil {
			return usageErrorf("--invite: %s", ohrouter.Message(err))
		}
	}
	store, err := openState(state, "'oh-router proxy invite' invites proxies while it runs")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	made, err := identity.Init(state, hosts)
	if ohrouter.CodeOf(err) == ohrouter.InvalidRequest {
		return usageErrorf("%s", ohrouter.Message(err))
	}
	if err != nil {
		return err
	}
	tellOfCA(cmd.ErrOrStderr(), state, made)
	token, err := makeAdminToken(cmd.Context(), store, state)
	if err != nil {
		return err
	}
	tellOfToken(cmd.ErrOrStderr(), state, token)
	if invite == "" {
		return nil
	}
	return inviteFirst(cmd, store, state, invite, out)
}

func tellOfCA(w io.Writer, state string, made identity.Summary) {
	said := "there is a CA already, which stays"
	if made.Created {
		said = "made a CA"
	}
	fmt.Fprintf(w, "%s: %s\n", said, identity.CAFile(state))
	fmt.Fprintf(w, "its SHA-256 is %s\n", identity.Fingerprint(made.CA))
	fmt.Fprintf(w, "this machine is %s, called %s (--host adds names)\n", made.ID, strings.Join(made.Hosts, ", "))
}

// tellOfToken says where the API token is that has been made. If none was, and
// the former one is not where it has been, its owner may have lost it.
func tellOfToken(w io.Writer, state, made string) {
	file := filepath.Join(state, adminTokenFile)
	if made != "" {
		fmt.Fprintf(w, "API token with the role admin: %s\n", made)
	} else if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		fmt.Fprintf(w, "there are API tokens already, which stay, but none in %s; if all of admins are lost:\n", file)
		fmt.Fprintf(w, "  oh-router token create NAME --role admin --out %s --state %s\n", file, state)
	}
}

// makeAdminToken makes the first API token and returns the file that has it;
// "" when there are tokens already.
func makeAdminToken(ctx context.Context, store access.Store, state string) (path string, err error) {
	tokens, err := access.Open(ctx, access.Config{Store: store})
	if err != nil || len(tokens.List()) > 0 {
		return "", err
	}
	path = filepath.Join(state, adminTokenFile)
	err = toNewFile(path, func() (string, error) {
		made, err := tokens.Create(ctx, ohrouter.TokenSpec{Name: "admin", Role: ohrouter.Admin})
		return made.Secret, err
	})
	switch {
	case errors.Is(err, errFileThere):
		return "", fmt.Errorf("%s is there, but the router knows no token: move it away, and run this again", path)
	case err != nil:
		return "", fmt.Errorf("make the API token: %w", err)
	}
	return path, nil
}

// inviteFirst makes an enrolment token and hands it over.
func inviteFirst(cmd *cobra.Command, store identity.Store, state, proxy, out string) error {
	ctx := cmd.Context()
	revocations, err := identity.LoadRevocations(ctx, store)
	if err != nil {
		return err
	}
	authority, err := identity.OpenAuthority(state, store, revocations, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	var made ohrouter.NewInvitation
	ask := func() (string, error) {
		made, err = authority.Invite(ctx, proxy, 0)
		return made.Token, err
	}
	return handInvitation(cmd, newFormat(asText), &made, ask, out)
}

// newCAShowCommand returns "oh-router ca show".
func newCAShowCommand(environ []string) *cobra.Command {
	var state string
	output := newFormat(asText, asText, asJSON)
	cmd := &cobra.Command{
		Use:   "show [flags]",
		Short: "Show the CA and the router's certificate",
		Example: `  oh-router ca show
  oh-router ca show -o json | jq -r .ca.sha256`,
		Args:              takes(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := stateDir(state, environ)
			if err != nil {
				return err
			}
			s, err := identity.Show(dir)
			if err != nil {
				return err
			}
			return printCA(cmd, output, dir, s)
		},
	}
	stateFlag(cmd, &state)
	output.flag(cmd)
	return cmd
}

// shownCA is what "ca show" tells of a CA.
type shownCA struct {
	CA struct {
		File      string    `json:"file"`
		SHA256    string    `json:"sha256"`
		ExpiresAt time.Time `json:"expires_at"`
	} `json:"ca"`
	Router struct {
		Identity  string    `json:"identity"`
		Hosts     []string  `json:"hosts"`
		ExpiresAt time.Time `json:"expires_at"`
	} `json:"router"`
}

func printCA(cmd *cobra.Command, output *format, state string, s identity.Summary) error {
	var shown shownCA
	shown.CA.File, shown.CA.SHA256, shown.CA.ExpiresAt = identity.CAFile(state), identity.Fingerprint(s.CA), s.CA.NotAfter
	shown.Router.Identity, shown.Router.Hosts, shown.Router.ExpiresAt = s.ID.String(), s.Hosts, s.Router.NotAfter
	out := cmd.OutOrStdout()
	if output.is(asJSON) {
		return printJSON(out, shown)
	}
	_, err := fmt.Fprintf(out, "CA       %s\n  SHA-256  %s\n  until    %s\nrouter   %s\n  hosts    %s\n  until    %s, renewed while the router runs\n",
		shown.CA.File, shown.CA.SHA256, shown.CA.ExpiresAt.Format(time.RFC3339),
		shown.Router.Identity, printable(strings.Join(shown.Router.Hosts, ", ")), shown.Router.ExpiresAt.Format(time.RFC3339))
	return err
}
