package ohrouter_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/audit"
	"github.com/ohrouter/oh-router/internal/config"
)

// documents returns the Markdown files for users and contributors, by name.
func documents(t *testing.T) map[string]string {
	t.Helper()
	docs := map[string]string{}
	for _, pattern := range []string{"*.md", "docs/*.md", "internal/*/*.md"} {
		names, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			docs[filepath.ToSlash(name)] = read(t, name)
		}
	}
	return docs
}

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// sources returns the module's Go files, without tests, by name.
func sources(t *testing.T) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := fs.WalkDir(os.DirFS("."), ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir():
			return skip(os.DirFS("."), name)
		case path.Ext(name) == ".go" && !strings.HasSuffix(name, "_test.go"):
			files[name] = read(t, name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

var (
	inlineLink = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading    = regexp.MustCompile(`(?m)^#+ (.+)$`)
	codeBlock  = regexp.MustCompile("(?ms)^```.*?^```")
	notInSlug  = regexp.MustCompile(`[^\p{L}\p{N}_ -]`)
)

func TestDocsLinks(t *testing.T) {
	docs := documents(t)
	for name, text := range docs {
		for _, m := range inlineLink.FindAllStringSubmatch(codeBlock.ReplaceAllString(text, ""), -1) {
			if strings.Contains(m[1], "://") || strings.HasPrefix(m[1], "mailto:") {
				continue
			}
			file, anchor, _ := strings.Cut(m[1], "#")
			target := name
			if file != "" {
				target = path.Join(path.Dir(name), file)
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s links to %s: %v", name, m[1], err)
			} else if anchor != "" && !slices.Contains(anchors(docs[target]), anchor) {
				t.Errorf("%s links to %s, but %s has no such heading", name, m[1], target)
			}
		}
	}
}

// anchors returns what the headings of a document are linked by.
func anchors(text string) []string {
	var list []string
	for _, m := range heading.FindAllStringSubmatch(codeBlock.ReplaceAllString(text, ""), -1) {
		list = append(list, strings.ReplaceAll(notInSlug.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-"))
	}
	return list
}

func TestDocsFlags(t *testing.T) {
	flags := map[string]bool{}
	for _, role := range []config.Role{config.RouterRole, config.ProxyRole, config.Up} {
		set := pflag.NewFlagSet("docs", pflag.ContinueOnError)
		config.Flags(set, role)
		set.VisitAll(func(f *pflag.Flag) {
			flags["--"+f.Name] = true
			if f.Shorthand != "" {
				flags["-"+f.Shorthand] = true
			}
		})
	}
	configured := len(flags)
	for name, source := range sources(t) {
		if path.Dir(name) == "cmd/oh-router" {
			for _, f := range declaredFlags(t, name, source) {
				flags[f] = true
			}
		}
	}
	if configured < 10 || len(flags) < configured+5 {
		t.Fatalf("found %d flags of the servers and %d in all: the test looks in the wrong place", configured, len(flags))
	}
	text := read(t, "docs/configuration.md")
	for f := range flags {
		if !regexp.MustCompile("`" + f + "[` ]").MatchString(text) {
			t.Errorf("docs/configuration.md does not mention %s", f)
		}
	}
}

// declaredFlags returns the flags that calls such as
// Flags().StringVarP(&v, "output", "o", …) declare.
func declaredFlags(t *testing.T, name, source string) []string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), name, source, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	var flags []string
	ast.Inspect(file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok || len(call.Args) < 3 {
			return true
		}
		method, ok := call.Fun.(*ast.SelectorExpr)
		if !ok || !strings.HasSuffix(strings.TrimSuffix(method.Sel.Name, "P"), "Var") {
			return true
		}
		if word, ok := text(call.Args[1]); ok {
			flags = append(flags, "--"+word)
		}
		if short, ok := text(call.Args[2]); ok && strings.HasSuffix(method.Sel.Name, "P") {
			flags = append(flags, "-"+short)
		}
		return true
	})
	return flags
}

// text returns the value of a string literal.
func text(e ast.Expr) (value string, ok bool) {
	lit, ok := e.(*ast.BasicLit)
	if !ok || lit.Kind != token.STRING {
		return "", false
	}
	value, err := strconv.Unquote(lit.Value)
	return value, err == nil
}

func TestDocsCodes(t *testing.T) {
	api, operations := read(t, "docs/api.md"), read(t, "docs/operations.md")
	for _, c := range ohrouter.Codes() {
		if !strings.Contains(api, "\n| `"+string(c)+"` |") {
			t.Errorf("the table of codes in docs/api.md has no row for %s", c)
		}
		if !regexp.MustCompile("(?m)^\\|.*`" + string(c) + "`").MatchString(operations) {
			t.Errorf("the table of troubles in docs/operations.md does not have %s", c)
		}
	}
	for _, o := range ohrouter.Outcomes() {
		if !strings.Contains(operations, "`"+string(o)+"`") {
			t.Errorf("docs/operations.md does not mention the outcome %s", o)
		}
	}
}

var (
	metricLiteral = regexp.MustCompile(`"(ohrouter_[a-z_]+)"`)
	metricWord    = regexp.MustCompile(`\bohrouter_[a-z_]+`)
)

func TestDocsAudit(t *testing.T) {
	text := read(t, "docs/audit.md")
	for _, e := range audit.Events() {
		if !regexp.MustCompile("(?m)^\\| .*`" + string(e) + "`.* \\| (both|router|proxy) \\|").MatchString(text) {
			t.Errorf("the table of events in docs/audit.md does not have %s", e)
		}
	}
	for _, m := range auditField.FindAllStringSubmatch(read(t, "internal/audit/line.go"), -1) {
		if !regexp.MustCompile("(?m)^\\| .*`" + m[1] + "`.* \\|").MatchString(text) {
			t.Errorf("the table of fields in docs/audit.md does not have %s", m[1])
		}
	}
}

var auditField = regexp.MustCompile(`l\.[a-zA-Z]+\("([a-z_]+)",`)

func TestDocsMetrics(t *testing.T) {
	var metrics []string
	for _, source := range sources(t) {
		for _, m := range metricLiteral.FindAllStringSubmatch(source, -1) {
			metrics = append(metrics, m[1])
		}
	}
	documented := metricWord.FindAllString(read(t, "docs/operations.md"), -1)
	for _, m := range metrics {
		if !slices.Contains(documented, m) {
			t.Errorf("docs/operations.md does not mention the metric %s", m)
		}
	}
	for _, m := range documented {
		if !slices.Contains(metrics, m) {
			t.Errorf("docs/operations.md has the metric %s, which does not exist", m)
		}
	}
}

var makeCall = regexp.MustCompile("(?m)(?:`|^)make ([a-z][a-z-]*)")

func TestDocsMakeTargets(t *testing.T) {
	makefile := read(t, "Makefile")
	for name, text := range documents(t) {
		for _, m := range makeCall.FindAllStringSubmatch(text, -1) {
			if !strings.Contains(makefile, "\n"+m[1]+":") {
				t.Errorf("%s says make %s, which the Makefile does not have", name, m[1])
			}
		}
	}
}

var goFile = regexp.MustCompile("`([a-z_/-]+\\.go)`")

func TestDocsFiles(t *testing.T) {
	files := sources(t)
	for _, m := range goFile.FindAllStringSubmatch(read(t, "ARCHITECTURE.md"), -1) {
		found := strings.HasSuffix(m[1], "_test.go")
		for name := range files {
			found = found || name == m[1] || strings.HasSuffix(name, "/"+m[1])
		}
		if !found {
			t.Errorf("ARCHITECTURE.md names %s, which does not exist", m[1])
		}
	}
}

var testName = regexp.MustCompile("`([a-z./-]+) ((?:Test|Fuzz)[A-Za-z0-9]+)`")

// TestDocsSecurity finds proofs that are none: SECURITY.md names tests, each
// after its folder.
func TestDocsSecurity(t *testing.T) {
	named := testName.FindAllStringSubmatch(read(t, "SECURITY.md"), -1)
	if len(named) < 50 {
		t.Fatalf("SECURITY.md names %d tests: this one looks for the wrong thing", len(named))
	}
	tests := map[string]string{} // by folder
	for _, m := range named {
		if _, ok := tests[m[1]]; !ok {
			names, err := filepath.Glob(filepath.Join(m[1], "*_test.go"))
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range names {
				tests[m[1]] += read(t, name)
			}
		}
		if !strings.Contains(tests[m[1]], "\nfunc "+m[2]+"(") {
			t.Errorf("SECURITY.md names %s of %s, which does not exist", m[2], m[1])
		}
	}
}

var yamlBlock = regexp.MustCompile("(?ms)^```yaml\n(.*?)^```")

func TestDocsConfiguration(t *testing.T) {
	blocks := yamlBlock.FindAllStringSubmatch(read(t, "docs/configuration.md"), -1)
	if len(blocks) == 0 {
		t.Fatal("docs/configuration.md has no example of a file")
	}
	for _, b := range blocks {
		name := filepath.Join(t.TempDir(), "oh-router.yaml")
		if err := os.WriteFile(name, []byte(b[1]), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := config.Check(name, nil, nil); err != nil {
			t.Errorf("an example of docs/configuration.md is wrong: %v", err)
		}
	}
}
