package main

import (
	"context"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/client"
)

// newProxiesCommand returns "oh-router proxies".
func newProxiesCommand(environ []string) *cobra.Command {
	output := newFormat(asTable, asTable, asWide, asJSON, asName)
	cmd := &cobra.Command{
		Use:   "proxies",
		Short: "List the proxies that the router knows",
		Long: `List the proxies that the router dials, and how it saw them last: up, down,
draining, or unknown before the first link.`,
		Example: `  oh-router proxies
  oh-router proxies -o json | jq -r '.proxies[] | select(.state == "down").name'`,
		Args:              takes(),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	access := newAccess(cmd, environ)
	output.flag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var proxies []ohrouter.Proxy
		err := access.call(cmd, func(ctx context.Context, c *client.Client) (err error) {
			proxies, err = c.Proxies(ctx)
			return err
		})
		if err != nil {
			return err
		}
		return proxyListing(time.Now()).print(cmd, output, proxies)
	}
	return cmd
}

// proxyListing returns how proxies are printed.
func proxyListing(now time.Time) listing[ohrouter.Proxy] {
	type p = ohrouter.Proxy
	return listing[p]{
		kind: "proxies",
		none: "no proxies; name one to the router with --proxy HOST:PORT",
		id:   func(p p) string { return p.Name },
		columns: []column[p]{
			{head: "NAME", cell: func(p p) string { return p.Name }},
			{head: "ADDRESS", cell: func(p p) string { return p.Address }},
			{head: "STATE", cell: func(p p) string { return string(p.State) }},
			{head: "LINKS", cell: func(p p) string { return strconv.Itoa(p.Links) }},
			{head: "SEEN", wide: true, cell: func(p p) string { return seenText(now, p.SeenAt) }},
			{head: "LAST ERROR", cell: func(p p) string { return failureText(now, p.LastError) }},
		},
	}
}

// seenText returns when a proxy answered last.
func seenText(now time.Time, at *time.Time) string {
	if at == nil {
		return "never"
	}
	return agoText(now, *at)
}
