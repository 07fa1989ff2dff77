package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/client"
)

// newUnbindCommand returns "oh-router unbind".
func newUnbindCommand(environ []string) *cobra.Command {
	var drain ohrouter.Duration
	output := newFormat(asNothing, asNothing, asJSON, asName)
	cmd := &cobra.Command{
		Use:        "unbind ID|HOST:PORT",
		SuggestFor: []string{"rm", "remove", "delete", "release"},
		Short:      "Release a binding",
		Long: `Release the binding with this id, or of the target HOST:PORT. Its port closes
at once. Its sessions are cut, or may go on for the time that --drain says; the
command does not wait for them.`,
		Example: `  oh-router unbind db.internal:3306
  oh-router unbind db.internal:3306 --drain 30s
  oh-router bindings -o name | xargs -r -n 1 oh-router unbind`,
		Args: takes("ID or HOST:PORT"),
	}
	durationVar(cmd.Flags(), &drain, "drain", "`DURATION` that open sessions may go on (default they are cut)")
	access := newAccess(cmd, environ)
	output.flag(cmd)
	cmd.ValidArgsFunction = access.complete(completeBindings)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := checkDuration("drain", drain, 24); err != nil {
			return err
		}
		target, err := targetOrID(args[0])
		if err != nil {
			return err
		}
		var released []string
		err = access.call(cmd, func(ctx context.Context, c *client.Client) error {
			ids, err := idsOf(ctx, c, args[0], target)
			if err != nil {
				return err
			}
			for _, id := range ids {
				if err := c.Unbind(ctx, id, time.Duration(drain)); err != nil {
					return listedBy(err, "bindings")
				}
				released = append(released, id)
			}
			return nil
		})
		for _, id := range released {
			if failed := printID(cmd, output, id); err == nil {
				err = failed
			}
		}
		return err
	}
	return cmd
}

// targetOrID returns the target of an argument that is one, and for an id the zero
// Target. No id has a colon, every target has one.
func targetOrID(arg string) (ohrouter.Target, error) {
	if !strings.Contains(arg, ":") {
		return ohrouter.Target{}, nil
	}
	return parseTarget(arg)
}

// listedBy returns the error of a call; of what is not there it says which command
// lists what is.
func listedBy(err error, command string) error {
	if ohrouter.CodeOf(err) != ohrouter.NotFound {
		return err
	}
	return ohrouter.Errorf(ohrouter.NotFound, "%s; 'oh-router %s' lists what is there", ohrouter.Message(err), command)
}

func notBound(target ohrouter.Target) error {
	return ohrouter.Errorf(ohrouter.NotFound, "%s is not bound; 'oh-router bindings' lists what is", target)
}

// idsOf returns the id itself or, with a target, the id of its active binding;
// when there is none, the ids of those that still drain. Who sees the bindings
// of several owners has to name one.
func idsOf(ctx context.Context, c *client.Client, id string, target ohrouter.Target) ([]string, error) {
	if target == (ohrouter.Target{}) {
		return []string{id}, nil
	}
	bindings, err := c.Bindings(ctx, client.Filter{Target: target})
	if err != nil {
		return nil, err
	}
	var active, draining []string
	for _, b := range bindings {
		switch {
		case b.Target != target:
		case b.State == ohrouter.BindingActive:
			active = append(active, b.ID)
		default:
			draining = append(draining, b.ID)
		}
	}
	if len(active) > 1 {
		return nil, ohrouter.Errorf(ohrouter.Conflict, "%s is bound by several owners, as %s: name one of these", target, strings.Join(active, ", "))
	}
	if len(active) == 1 {
		return active, nil
	}
	if len(draining) == 0 {
		return nil, notBound(target)
	}
	return draining, nil
}
