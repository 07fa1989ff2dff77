package main

import (
	"errors"
	"strconv"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// argument is the value of a flag that is not taken when it is empty: whoever
// gives none has most likely a variable that is not set.
type argument struct {
	pflag.Value
	name string // what help calls it
}

// Set takes a value.
func (a argument) Set(s string) error {
	if s == "" {
		return errors.New("it is empty: give it a value, or leave the flag out; is a variable not set?")
	}
	return a.Value.Set(s)
}

// Type returns the name, which help puts behind the flag.
func (a argument) Type() string { return a.name }

// repeatable is the value of a flag that may be given more than once.
type repeatable struct{ argument }

// GetSlice has completions propose the flag again.
func (repeatable) GetSlice() []string { return nil }

// nameArguments makes an argument of each flag whose usage names its value in
// backquotes, which completions would show. It does so for cmd and those below.
func nameArguments(cmd *cobra.Command) {
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		name, usage := pflag.UnquoteUsage(f)
		if usage == f.Usage {
			return
		}
		value := argument{f.Value, name}
		f.Value, f.Usage = value, usage
		if f.DefValue == "[]" {
			f.Value, f.DefValue = repeatable{value}, ""
		}
	})
	for _, c := range cmd.Commands() {
		nameArguments(c)
	}
}

// whyInvalid returns what is wrong with a flag's value where err is in words of
// the standard library; else "".
func whyInvalid(v pflag.Value, err error) string {
	if a, ok := v.(argument); ok {
		v = a.Value
	}
	switch v.Type() {
	case "bool":
		return "not true or false"
	case "uint16":
		return "not a number from 1 to 65535"
	case "int":
		if errors.Is(err, strconv.ErrRange) {
			return "too large"
		}
		return "not a whole number"
	}
	return ""
}
