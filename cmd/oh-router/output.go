package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/spf13/cobra"
)

// What -o may say.
const (
	asAddress = "address" // the mapped address alone
	asTable   = "table"
	asWide    = "wide"
	asJSON    = "json"
	asName    = "name" // ids alone
	asText    = "text"
	asNothing = "nothing"
)

// format is the value of a command's -o flag.
type format struct {
	value   string
	allowed []string
}

// newFormat returns the value of an -o flag: value is the default.
func newFormat(value string, allowed ...string) *format {
	return &format{value: value, allowed: allowed}
}

// flag gives cmd the -o flag.
func (f *format) flag(cmd *cobra.Command) {
	cmd.Flags().VarP(f, "output", "o", "`FORMAT` of the output: "+strings.Join(f.allowed, ", "))
	// It errs only for a flag that is not there.
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(f.allowed, cobra.ShellCompDirectiveNoFileComp))
}

// is tells whether the format is the one asked about.
func (f *format) is(value string) bool { return f.value == value }

// String returns the chosen format.
func (f *format) String() string { return f.value }

// Set chooses a format.
func (f *format) Set(s string) error {
	if !slices.Contains(f.allowed, s) {
		return fmt.Errorf("not one of %s", strings.Join(f.allowed, ", "))
	}
	f.value = s
	return nil
}

// Type names the value in errors of the flag package.
func (f *format) Type() string { return "format" }

// column is one of a table.
type column[T any] struct {
	head string
	wide bool // only with -o wide
	cell func(T) string
}

// listing tells how things of one kind are printed.
type listing[T any] struct {
	kind    string         // member of the API's object: "bindings"
	none    string         // said when there is none
	id      func(T) string // for -o name
	columns []column[T]
}

// print writes items to cmd's output as f says.
func (l listing[T]) print(cmd *cobra.Command, f *format, items []T) error {
	out := cmd.OutOrStdout()
	switch {
	case f.is(asJSON):
		return printJSON(out, map[string][]T{l.kind: items})
	case f.is(asName):
		for _, item := range items {
			if _, err := fmt.Fprintln(out, printable(l.id(item))); err != nil {
				return err
			}
		}
		return nil
	case len(items) == 0:
		fmt.Fprintln(cmd.ErrOrStderr(), l.none)
		return nil
	}
	return l.table(out, f.is(asWide), items)
}

// table writes a table of the items.
func (l listing[T]) table(out io.Writer, wide bool, items []T) error {
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	row := func(cell func(column[T]) string) {
		var cells []string
		for _, c := range l.columns {
			if wide || !c.wide {
				cells = append(cells, cell(c))
			}
		}
		// The writer keeps the first error for Flush.
		fmt.Fprintln(w, strings.Join(cells, "\t"))
	}
	row(func(c column[T]) string { return c.head })
	for _, item := range items {
		row(func(c column[T]) string { return orDash(printable(c.cell(item))) })
	}
	return w.Flush()
}

// printID writes the id of what a command has ended.
func printID(cmd *cobra.Command, f *format, id string) error {
	switch {
	case f.is(asJSON):
		return printJSON(cmd.OutOrStdout(), map[string]string{"id": id})
	case f.is(asName):
		_, err := fmt.Fprintln(cmd.OutOrStdout(), printable(id))
		return err
	}
	return nil
}

// printJSON writes v for people and jq.
func printJSON(out io.Writer, v any) error {
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// orDash keeps an empty cell visible.
func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// printable escapes what could move the cursor, colour the terminal or
// reverse the text: names and errors come from other machines.
func printable(s string) string {
	var b strings.Builder
	for _, r := range s {
		if unicode.IsPrint(r) {
			b.WriteRune(r)
			continue
		}
		q := strconv.QuoteRune(r)
		b.WriteString(q[1 : len(q)-1])
	}
	return b.String()
}

// bytesText returns a number of bytes in the unit that suits it.
func bytesText(n uint64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	f, units := float64(n)/1024, "KMGTPE"
	// 1023.95 would be rounded to 1024.0.
	for f >= 1023.95 && len(units) > 1 {
		f, units = f/1024, units[1:]
	}
	return fmt.Sprintf("%.1f %ciB", f, units[0])
}

// ageText returns a time span in its largest unit. Clocks differ between
// machines: what has not happened yet counts as now.
func ageText(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", max(0, d)/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", d/time.Hour)
	}
	return fmt.Sprintf("%dd", d/(24*time.Hour))
}

// agoText returns how long ago a time was.
func agoText(now, at time.Time) string {
	if now.Sub(at) < time.Second {
		return "now"
	}
	return ageText(now.Sub(at)) + " ago"
}
