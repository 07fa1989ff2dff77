package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/client"
	"github.com/ohrouter/oh-router/internal/audit"
	"github.com/ohrouter/oh-router/internal/config"
)

// The exit codes besides 0.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 130
)

// failure is an error as the user is to see it. Any other error that a
// command returns stands for itself and exits with 1.
type failure struct {
	message string // "" says nothing
	hint    string // a line of its own: what to try
	exit    int
}

// Error returns the message.
func (f *failure) Error() string { return f.message }

// usageErrorf returns the error of a command line that means nothing.
func usageErrorf(format string, args ...any) error {
	return &failure{message: fmt.Sprintf(format, args...), exit: exitUsage}
}

// callFailure returns the error of a call to the router as the user is to see
// it: the sentence, and in parentheses the code for scripts.
func callFailure(err error) error {
	e, ok := errors.AsType[*ohrouter.Error](err)
	if !ok {
		return err
	}
	f := &failure{message: printable(e.Message), exit: exitFailed}
	// The code of such an error says nothing about the router.
	if errors.Is(err, client.ErrNoRouter) || errors.Is(err, client.ErrNotAPI) {
		return f
	}
	f.message += fmt.Sprintf(" (%s)", printable(string(e.Code)))
	if e.Code == ohrouter.Unauthorized {
		f.hint = "Name a file that holds a token with --token-file or OH_ROUTER_TOKEN_FILE."
	}
	return f
}

// report writes an error of cmd to stderr and returns the exit code.
func report(stderr io.Writer, cmd *cobra.Command, err error) int {
	f, ok := errors.AsType[*failure](err)
	if !ok {
		f = &failure{message: err.Error(), exit: exitFailed}
	}
	if f.message == "" {
		return f.exit
	}
	fmt.Fprintf(stderr, "oh-router: %s\n", audit.Hide(f.message)) // somebody may have given a token in place of its file
	hint := f.hint
	if hint == "" && f.exit == exitUsage {
		hint = seeHelp(cmd)
	}
	if hint != "" {
		fmt.Fprintln(stderr, hint)
	}
	return f.exit
}

// seeHelp returns the line that ends an error of usage.
func seeHelp(cmd *cobra.Command) string {
	return fmt.Sprintf("See '%s --help'.", cmd.CommandPath())
}

// flagError makes wrong flags an error of usage.
func flagError(cmd *cobra.Command, err error) error {
	// Of "oh-router bnid --port 1" the flag is not what is wrong.
	if cmd.HasSubCommands() && cmd.Flags().NArg() > 0 {
		return unknownCommand(cmd, cmd.Flags().Arg(0))
	}
	said := printable(err.Error())
	if e, ok := errors.AsType[*pflag.NotExistError](err); ok && len(e.GetSpecifiedName()) > 1 {
		if likely := likelyFlags(cmd, e.GetSpecifiedName()); len(likely) > 0 {
			said += fmt.Sprintf("; did you mean --%s?", strings.Join(likely, " or --"))
		}
	}
	if e, ok := errors.AsType[*pflag.InvalidValueError](err); ok && e.GetValue() != "" {
		if why := whyInvalid(e.GetFlag().Value, err); why != "" {
			said = fmt.Sprintf("invalid argument %q for %q flag: it is %s", e.GetValue(), "--"+e.GetFlag().Name, why)
		}
	}
	return usageErrorf("%s", said)
}

// likelyFlags returns the flags of cmd that somebody may have meant with name.
func likelyFlags(cmd *cobra.Command, name string) []string {
	var flags []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) { flags = append(flags, f.Name) })
	return config.Near(name, flags)
}

// takes returns the check for a command whose arguments are named, such as
// "HOST:PORT".
func takes(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) > 0 && len(names) == 0 && cmd.HasSubCommands():
			return unknownCommand(cmd, args[0])
		case len(args) < len(names):
			return usageErrorf("%s is missing", names[len(args)])
		case len(args) == 2 && len(names) == 1 && strings.Trim(args[1], "0123456789") == "":
			return usageErrorf("unexpected argument %q; did you mean %s:%s?", args[1], args[0], args[1])
		case len(args) > len(names):
			return usageErrorf("unexpected argument %q", strings.Join(args[len(names):], " "))
		}
		return nil
	}
}
