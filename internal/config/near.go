package config

import "github.com/spf13/cobra"

// Near returns the words that somebody may have meant with one that is none of
// them: those that begin so, or are spelt almost so.
func Near(meant string, words []string) []string {
	if meant == "" || len(meant) > 64 {
		return nil // all begin so, or none is so long
	}
	var commands cobra.Command // it knows that of commands
	for _, w := range words {
		commands.AddCommand(&cobra.Command{Use: w, Run: func(*cobra.Command, []string) {}})
	}
	for commands.SuggestionsMinimumDistance = 1; commands.SuggestionsMinimumDistance <= 2; commands.SuggestionsMinimumDistance++ {
		if near := commands.SuggestionsFor(meant); len(near) > 0 {
			return near
		}
	}
	return nil
}
