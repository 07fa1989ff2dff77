package config

import (
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// given is what one source says about one key.
type given struct {
	items []string // one, unless the key has a list
	where string   // names the place in errors
	usage bool     // it is a flag or a variable
}

// problem returns err as a problem with what was given.
func (g given) problem(err error) *Problem {
	return &Problem{Where: g.where, Err: err, usage: g.usage}
}

// spell returns a common key as one names it who gave g: by its flag, its
// variable or itself.
func (g given) spell(key string) string {
	flag := strings.ReplaceAll(key, "_", "-")
	switch {
	case !g.usage:
		return key
	case strings.HasPrefix(g.where, "--"):
		return "--" + flag
	}
	return variable(flag)
}

// values is what has been said about keys.
type values map[string]given

// add puts more on top: it wins over what is there.
func (v values) add(more values) {
	maps.Copy(v, more)
}

// roles returns those that v has a section for. What all have is the router's if
// there is none.
func (v values) roles() (roles []Role) {
	for _, role := range []Role{RouterRole, ProxyRole} {
		for key := range v {
			if strings.HasPrefix(key, string(role)+".") {
				roles = append(roles, role)
				break
			}
		}
	}
	if roles == nil {
		return []Role{RouterRole}
	}
	return roles
}

// config reads the texts, and returns what is wrong with them.
func (v values) config() (c Config, problems []error) {
	for _, s := range settings() {
		g := v[s.key]
		if err := s.set(&c, g.items); err != nil {
			problems = append(problems, each(g, err)...)
		}
	}
	return c, problems
}

// each returns a problem for every error that err joins.
func each(g given, err error) (problems []error) {
	joined, ok := errors.AsType[interface {
		error
		Unwrap() []error
	}](err)
	if !ok {
		return []error{g.problem(err)}
	}
	for _, err := range joined.Unwrap() {
		problems = append(problems, g.problem(err))
	}
	return problems
}

// defaults returns the value of every key that nobody says anything about.
func defaults() values {
	v := values{}
	for _, s := range settings() {
		v[s.key] = s.given(s.def, "the default of "+s.key, false)
	}
	return v
}

// given returns what a text says that stands in one piece, as in a variable.
func (s setting) given(text, where string, usage bool) given {
	g := given{items: []string{text}, where: where, usage: usage}
	if s.split != nil {
		g.items = s.split(text)
	}
	return g
}

// Flags registers the flags of a role, and --config.
func Flags(fs *pflag.FlagSet, role Role) {
	fs.VarP(&text{arg: "FILE"}, "config", "c", "YAML file with settings; flags and the environment win over it")
	for _, s := range settings() {
		switch {
		case !slices.Contains(s.roles, role):
		case s.split != nil:
			fs.Var(&list{text: text{s.def, s.arg}}, s.flag(), s.help)
		case s.arg == "":
			fs.Bool(s.flag(), false, s.help)
		default:
			fs.Var(&text{s.def, s.arg}, s.flag(), s.help)
		}
	}
}

// text is a flag that takes any text: what it means is found out with all the
// other sources' texts.
type text struct{ value, arg string }

func (t *text) String() string     { return t.value }
func (t *text) Set(s string) error { t.value = s; return nil }
func (t *text) Type() string       { return t.arg }

// list is a flag that may be repeated; the first use replaces the default.
type list struct {
	text
	items []string
}

func (l *list) Set(s string) error {
	l.items = append(l.items, s)
	l.value = strings.Join(l.items, ",")
	return nil
}

// fromFlags returns what the flags say that were used.
func fromFlags(role Role, fs *pflag.FlagSet) values {
	v := values{}
	for _, s := range settings() {
		f := fs.Lookup(s.flag())
		if !slices.Contains(s.roles, role) || f == nil || !f.Changed {
			continue
		}
		g := s.given(f.Value.String(), "--"+f.Name, true)
		if l, ok := f.Value.(*list); ok {
			g.items = nil
			for _, item := range l.items {
				g.items = append(g.items, s.split(item)...)
			}
		}
		v[s.key] = g
	}
	return v
}

// environment returns the variables that have a value. An empty one is no
// value, as containers and units often can't leave one out.
func environment(environ []string) map[string]string {
	env := map[string]string{}
	for _, e := range environ {
		name, value, _ := strings.Cut(e, "=")
		env[name] = value
	}
	maps.DeleteFunc(env, func(_, value string) bool { return value == "" })
	return env
}

// fromEnvironment returns what the variables say.
func fromEnvironment(role Role, env map[string]string) values {
	v := values{}
	for _, s := range settings() {
		if value, ok := env[s.variable()]; ok && slices.Contains(s.roles, role) {
			v[s.key] = s.given(value, s.variable(), true)
		}
	}
	return v
}

// configPath returns the name of the file to read; "" for none.
func configPath(fs *pflag.FlagSet, env map[string]string) string {
	if f := fs.Lookup("config"); f != nil && f.Changed {
		return f.Value.String()
	}
	return env[variable("config")]
}
