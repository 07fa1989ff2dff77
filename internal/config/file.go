package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxFile bounds what is read of a file. Ten thousand patterns of usual length
// fit.
const maxFile = 1 << 20

// readFile returns what a file says, and what is wrong with how it says it.
func readFile(path string) (values, []error) {
	data, err := readBounded(path)
	if err != nil {
		// The error names the file.
		return nil, []error{fmt.Errorf("read the configuration: %w", err)}
	}
	return parseFile(path, data)
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("%s is longer than 1 MiB", path)
	}
	return data, nil
}

// file collects what the document of a file says.
type file struct {
	path     string
	known    map[string]setting
	lines    map[string]int // where keys and sections stand
	values   values
	problems []error
}

// parseFile is readFile after the reading. It looks at YAML nodes and not at
// Go values, which keeps 1.10 and 1.1 apart, and duplicate keys visible.
func parseFile(path string, data []byte) (values, []error) {
	f := &file{path: path, known: map[string]setting{}, lines: map[string]int{}, values: values{}}
	for _, s := range settings() {
		f.known[s.key] = s
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, more yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil, nil
	case err != nil:
		return nil, []error{&Problem{Where: path, Err: yamlError(err, data)}}
	}
	if err := dec.Decode(&more); !errors.Is(err, io.EOF) {
		return nil, []error{&Problem{Where: path, Err: errors.New("what follows the first YAML document cannot be read as settings: a file has one")}}
	}
	f.section("", doc.Content[0])
	return f.values, f.problems
}

// yamlError returns the library's error without its name, on one line, and with
// the cause that data makes likely.
func yamlError(err error, data []byte) error {
	text := strings.ReplaceAll(strings.TrimPrefix(err.Error(), "yaml: "), "\n", " ")
	// A glob, or an IPv6 address in brackets, that no quote and no # precedes.
	bare := regexp.MustCompile(`(?im)^[^"'#\n]*[\s,=\[](\*|\[[0-9a-f]*:[0-9a-f]*:)`)
	switch {
	case regexp.MustCompile(`(?m)^ *\t`).Match(data):
		text += " (indent with spaces, not with tabs)"
	case bare.Match(data):
		text += " (a value that begins with * or [ goes in quotes)"
	}
	return errors.New(text)
}

// section takes in a mapping; prefix is "" for the whole file, "router." for
// the router's section.
func (f *file) section(prefix string, n *yaml.Node) {
	n = resolve(n)
	if n.Tag == "!!null" {
		return // everything in it is commented out
	}
	if n.Kind != yaml.MappingNode {
		f.wrong(strings.TrimSuffix(prefix, "."), n, errors.New("it is not a list of keys and values, as in \"log_level: info\""))
		return
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		word, value := n.Content[i], n.Content[i+1]
		key := prefix + word.Value
		if first, ok := f.lines[key]; ok {
			f.wrong(key, word, fmt.Errorf("it stands here a second time, after line %d", first))
			continue
		}
		f.lines[key] = word.Line
		s, known := f.known[key]
		switch {
		case prefix == "" && (key == string(RouterRole) || key == string(ProxyRole)):
			f.section(key+".", value)
		case !known || word.Kind != yaml.ScalarNode || prefix == "" && strings.Contains(key, "."):
			f.wrong(key, word, unknown(prefix, word.Value))
		default:
			f.value(s, value)
		}
	}
}

// value takes in what stands behind a key.
func (f *file) value(s setting, n *yaml.Node) {
	n = resolve(n)
	g := given{where: f.path + ":" + s.key}
	switch {
	case n.Tag == "!!null":
		f.wrong(s.key, n, errors.New("it has no value: give one, or leave out the line for the default"))
		return
	case s.split == nil && n.Kind != yaml.ScalarNode:
		f.wrong(s.key, n, errors.New("it takes one value, not a list or a section"))
		return
	case s.split == nil:
		g.items = []string{n.Value}
	case n.Kind != yaml.SequenceNode:
		f.wrong(s.key, n, notList(s, n.Value))
		return
	}
	for _, item := range n.Content {
		item = resolve(item)
		if item.Kind != yaml.ScalarNode || item.Tag == "!!null" {
			f.wrong(s.key, item, errors.New("an item of the list is not a plain value"))
			return
		}
		g.items = append(g.items, item.Value)
	}
	f.values[s.key] = g
}

// notList returns the error for one text, or "" for a section, where a list has
// to be: with the list to write, if that is known to do.
func notList(s setting, text string) error {
	var items []string
	for _, item := range s.split(text) {
		items = append(items, strconv.Quote(item))
	}
	list := "[" + strings.Join(items, ", ") + "]"
	if len(items) == 0 || len(list) > 300 || s.set(new(Config), s.split(text)) != nil {
		return errors.New(`it takes a list: a line for each item, that begins with "- "`)
	}
	return fmt.Errorf("it takes a list: write %s: %s", s.key[strings.IndexByte(s.key, '.')+1:], list)
}

// wrong notes a problem with a key.
func (f *file) wrong(key string, n *yaml.Node, err error) {
	where := f.path
	if key != "" {
		where += ":" + printable(key)
	}
	f.problems = append(f.problems, &Problem{Where: where, Err: fmt.Errorf("line %d: %w", n.Line, err)})
}

// unknown returns the error for a key that prefix's section does not have: with
// the ones that may have been meant, else with all there are.
func unknown(prefix, word string) error {
	last := strings.ReplaceAll(strings.ToLower(word[strings.LastIndexByte(word, '.')+1:]), "-", "_")
	var meant, have []string
	for _, s := range settings() {
		section, name, ok := strings.Cut(s.key, ".")
		if !ok {
			section, name = "", section
		}
		if name == last {
			meant = append(meant, spelled(section, name))
		}
		if section+"." == prefix || section == prefix {
			have = append(have, name)
		}
	}
	if len(meant) > 0 {
		return fmt.Errorf("there is no such key, but there is %s", strings.Join(meant, " and "))
	}
	words := have
	if prefix == "" {
		words = append(slices.Clone(have), string(RouterRole), string(ProxyRole))
		have = append(have, "the sections router and proxy")
	}
	if near := Near(last, words); len(near) > 0 {
		return fmt.Errorf("there is no such key; did you mean %s?", strings.Join(near, " or "))
	}
	return fmt.Errorf("there is no such key; there are %s", strings.Join(have, ", "))
}

// spelled says where a key stands.
func spelled(section, name string) string {
	if section == "" {
		return name + " at the top of the file"
	}
	return name + " in the section " + section
}

// resolve follows an alias.
func resolve(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

// printable returns a key of a file in a form that keeps its line whole.
func printable(key string) string {
	if q := fmt.Sprintf("%.80q", key); q != `"`+key+`"` {
		return q
	}
	return key
}
