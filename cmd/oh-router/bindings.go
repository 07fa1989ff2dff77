package main

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/client"
)

// newBindingsCommand returns "oh-router bindings".
func newBindingsCommand(environ []string) *cobra.Command {
	var target string
	var labels []string
	output := newFormat(asTable, asTable, asWide, asJSON, asName)
	cmd := &cobra.Command{
		Use:        "bindings",
		SuggestFor: []string{"ls", "list", "status"},
		Short:      "List the bindings",
		Long: `List the targets that are mapped to ports of the router. UP counts bytes from
clients to the target, DOWN the other way.`,
		Example: `  oh-router bindings
  oh-router bindings -o wide --label team=shop
  oh-router bindings -o json | jq -r '.bindings[] | select(.sessions == 0).id'`,
		Args:              takes(),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringVar(&target, "target", "", "only the bindings of `HOST:PORT`")
	cmd.Flags().StringArrayVar(&labels, "label", nil, "only bindings with this label `KEY=VALUE`; may be repeated")
	access := newAccess(cmd, environ)
	output.flag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		filter := client.Filter{Labels: labels}
		list := bindingListing(time.Now())
		if target != "" || len(labels) > 0 {
			list.none = "no such bindings"
		}
		if target != "" {
			var err error
			if filter.Target, err = parseTarget(target); err != nil {
				return err
			}
		}
		if _, err := parseLabels(labels); err != nil {
			return err
		}
		var bindings []ohrouter.Binding
		err := access.call(cmd, func(ctx context.Context, c *client.Client) (err error) {
			bindings, err = c.Bindings(ctx, filter)
			return err
		})
		if err != nil {
			return err
		}
		return list.print(cmd, output, bindings)
	}
	return cmd
}

// bindingListing returns how bindings are printed.
func bindingListing(now time.Time) listing[ohrouter.Binding] {
	type b = ohrouter.Binding
	return listing[b]{
		kind: "bindings",
		none: "no bindings; make one with: oh-router bind HOST:PORT",
		id:   func(b b) string { return b.ID },
		columns: []column[b]{
			{head: "ID", wide: true, cell: func(b b) string { return b.ID }},
			{head: "TARGET", cell: func(b b) string { return b.Target.String() }},
			{head: "ADDRESS", cell: func(b b) string { return b.Address }},
			{head: "SESSIONS", cell: func(b b) string { return strconv.Itoa(b.Sessions) }},
			{head: "UP", cell: func(b b) string { return bytesText(b.BytesUp) }},
			{head: "DOWN", cell: func(b b) string { return bytesText(b.BytesDown) }},
			{head: "LAST USED", cell: func(b b) string { return agoText(now, b.LastUsedAt) }},
			{head: "STATE", cell: func(b b) string { return string(b.State) }},
			{head: "PROXY", wide: true, cell: func(b b) string { return string(b.Proxy) }},
			{head: "ALLOW", wide: true, cell: func(b b) string { return allowText(b.Allow) }},
			{head: "OWNER", wide: true, cell: func(b b) string { return string(b.Owner) }},
			{head: "LABELS", wide: true, cell: func(b b) string { return labelsText(b.Labels) }},
			{head: "EXPIRES", wide: true, cell: func(b b) string { return expiresText(now, b.ExpiresAt) }},
			{head: "LAST ERROR", wide: true, cell: func(b b) string { return failureText(now, b.LastError) }},
		},
	}
}

// allowText returns who may connect, as the --allow flag takes it.
func allowText(allow []netip.Prefix) string {
	if len(allow) == 0 {
		return "anybody"
	}
	var list []string
	for _, p := range allow {
		list = append(list, p.String())
	}
	return strings.Join(list, ",")
}

// labelsText returns labels as the --label flag takes them.
func labelsText(labels map[string]string) string {
	var pairs []string
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		pairs = append(pairs, key+"="+labels[key])
	}
	return strings.Join(pairs, ",")
}

// expiresText returns how far away the end of a binding is, rounded: an hour that
// has just begun is one.
func expiresText(now time.Time, at *time.Time) string {
	if at == nil {
		return "never"
	}
	left, unit := at.Sub(now), 24*time.Hour
	switch {
	case left < time.Minute:
		unit = time.Second
	case left < time.Hour:
		unit = time.Minute
	case left < 48*time.Hour:
		unit = time.Hour
	}
	return "in " + ageText(left.Round(unit))
}

// failureText returns when and why something failed.
func failureText(now time.Time, f *ohrouter.Failure) string {
	if f == nil {
		return ""
	}
	return agoText(now, f.At) + ": " + f.Message + " (" + string(f.Code) + ")"
}
