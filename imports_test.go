package ohrouter_test

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
)

const module = "github.com/ohrouter/oh-router"

// mayImport is the table of ARCHITECTURE.md: which packages of ours a package
// may import. Folders and patterns are relative to the module, "." is the root
// package, which everybody may import.
var mayImport = []struct {
	folder  string
	imports []string
}{
	{".", nil},
	{"cmd/oh-router", []string{"client", "internal/*", "internal/store/*"}},
	{"client", nil},
	{"internal/api", []string{"internal/access", "internal/audit"}},
	{"internal/access", []string{"internal/policy"}},
	{"internal/audit", []string{"internal/fair"}},
	{"internal/audit/audittest", []string{"internal/audit"}},
	{"internal/registry", []string{"internal/audit"}},
	{"internal/identity", nil},
	{"internal/store/*", []string{"internal/access", "internal/identity", "internal/registry"}},
	{"internal/router", []string{"internal/audit", "internal/relay", "internal/socket"}},
	{"internal/link", []string{"internal/gate", "internal/socket"}},
	{"internal/gate", []string{"internal/audit", "internal/fair"}},
	{"internal/fair", nil},
	{"internal/policy", nil},
	{"internal/proxy", []string{"internal/audit", "internal/gate", "internal/link", "internal/policy", "internal/relay", "internal/socket"}},
	{"internal/relay", []string{"internal/fair", "internal/socket"}},
	{"internal/socket", []string{"internal/sysctl"}},
	{"internal/sysctl", nil},
	{"internal/config", []string{"internal/policy", "internal/socket", "internal/sysctl"}},
}

// importNothing lists the packages that may not even import the root package.
var importNothing = []string{".", "internal/fair", "internal/socket", "internal/sysctl"}

// rootImports is all that the root package may import: it does no I/O.
var rootImports = []string{
	"cmp", "encoding", "encoding/json", "errors", "fmt", "maps", "math", "net", "net/netip",
	"slices", "strconv", "strings", "time", "unicode", "unicode/utf8", "golang.org/x/net/idna",
}

// rootNet is all that the root package may use of package net.
var rootNet = []string{"SplitHostPort", "JoinHostPort"}

func TestImports(t *testing.T) {
	got, err := violations(os.DirFS("."))
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range got {
		t.Error(v)
	}
}

func TestImportsBroken(t *testing.T) {
	const ok = "// Package x is documented.\npackage x\n"
	tests := []struct {
		name, file, source, want string
	}{
		{"router imports link", "internal/router/a.go", ok + `import "` + module + `/internal/link"`, "internal/router imports internal/link"},
		{"relay imports policy", "internal/relay/a.go", ok + `import "` + module + `/internal/policy"`, "internal/relay imports internal/policy"},
		{"client imports internal", "client/a.go", ok + `import "` + module + `/internal/api"`, "client imports internal/api"},
		{"socket imports the root", "internal/socket/a.go", ok + `import "` + module + `"`, "internal/socket imports ."},
		{"store imports a store", "internal/store/etcd/a.go", ok + `import "` + module + `/internal/store/bolt"`, "internal/store/etcd imports internal/store/bolt"},
		{"for another system", "internal/link/a_windows.go", ok + `import "` + module + `/internal/api"`, "internal/link imports internal/api"},
		{"not in the table", "internal/util/a.go", ok, "internal/util is not in the table"},
		{"no doc comment", "internal/link/a.go", "package link\n", "internal/link has no package comment"},
		{"root does I/O", "a.go", ok + `import "os"`, "root package imports os"},
		{"root dials", "a.go", ok + "import \"net\"\nvar _ = net.Dial", "root package uses net.Dial"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := violations(fstest.MapFS{tt.file: {Data: []byte(tt.source)}})
			if err != nil {
				t.Fatal(err)
			}
			if len(got) != 1 || !strings.Contains(got[0], tt.want) {
				t.Errorf("violations = %q, want one with %q", got, tt.want)
			}
		})
	}
}

func TestImportsKept(t *testing.T) {
	tree := fstest.MapFS{
		"a.go":                       {Data: []byte("// Package ohrouter is.\npackage ohrouter\nimport \"net\"\nvar _ = net.JoinHostPort")},
		"internal/proxy/a.go":        {Data: []byte("// Package proxy is.\npackage proxy\nimport (\n\"" + module + "\"\n\"" + module + "/internal/link\"\n)")},
		"internal/proxy/a_test.go":   {Data: []byte("package proxy\nimport \"" + module + "/internal/router\"")},
		"internal/proxy/testdata/a":  {Data: []byte("not Go")},
		"test/e2e/a_test.go":         {Data: []byte("package e2e\nimport \"" + module + "/internal/router\"")},
		"tools/go.mod":               {},
		"tools/a.go":                 {Data: []byte("package tools")},
		"internal/store/bolt/a.go":   {Data: []byte("// Package bolt is.\npackage bolt\nimport \"" + module + "/internal/registry\"")},
		"cmd/oh-router/main.go":      {Data: []byte("// Command is.\npackage main\nimport \"" + module + "/internal/store/bolt\"")},
		"node_modules/a/internal.go": {Data: []byte("package a")},
	}
	got, err := violations(tree)
	if err != nil || len(got) != 0 {
		t.Errorf("violations = %q, %v, want none", got, err)
	}
}

// violations returns a line for each break of the rules in the tree. It parses
// every file by itself, whatever its build constraints: `go list` would see
// only those for this system, and a test that runs it is cached over changes.
func violations(tree fs.FS) ([]string, error) {
	var found []string
	documented := map[string]bool{} // by folder
	err := fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir():
			return skip(tree, name)
		case path.Ext(name) != ".go" || strings.HasSuffix(name, "_test.go"):
			return nil
		}
		source, err := fs.ReadFile(tree, name)
		if err != nil {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, source, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		folder := path.Dir(name)
		documented[folder] = documented[folder] || file.Doc.Text() != ""
		found = append(found, checkFile(folder, name, file)...)
		return nil
	})
	for folder, ok := range documented {
		if !ok {
			found = append(found, folder+" has no package comment")
		}
		if _, ok := rule(folder); !ok && folder != "test" && !strings.HasPrefix(folder, "test/") {
			found = append(found, folder+" is not in the table: add it here and in ARCHITECTURE.md")
		}
	}
	slices.Sort(found)
	return found, err
}

// skip returns fs.SkipDir for a folder that holds none of the module's code.
func skip(tree fs.FS, folder string) error {
	base := path.Base(folder)
	if folder == "." {
		return nil
	}
	if base[0] == '.' || base[0] == '_' || base == "testdata" || base == "vendor" || base == "node_modules" {
		return fs.SkipDir
	}
	if _, err := fs.Stat(tree, path.Join(folder, "go.mod")); !errors.Is(err, fs.ErrNotExist) {
		return fs.SkipDir
	}
	return nil
}

// checkFile returns the breaks of the rules in one file.
func checkFile(folder, name string, file *ast.File) []string {
	var found []string
	for _, spec := range file.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return []string{err.Error()}
		}
		if folder == "." && !slices.Contains(rootImports, imported) {
			found = append(found, fmt.Sprintf("%s: the root package imports %s: it does no I/O", name, imported))
		}
		if ours, ok := ours(imported); ok && !allowed(folder, ours) {
			found = append(found, fmt.Sprintf("%s: %s imports %s: ARCHITECTURE.md says which packages may", name, folder, ours))
		}
	}
	if folder != "." {
		return found
	}
	ast.Inspect(file, func(n ast.Node) bool {
		if s, ok := n.(*ast.SelectorExpr); ok {
			if x, ok := s.X.(*ast.Ident); ok && x.Name == "net" && !slices.Contains(rootNet, s.Sel.Name) {
				found = append(found, fmt.Sprintf("%s: the root package uses net.%s: it does no I/O", name, s.Sel.Name))
			}
		}
		return true
	})
	return found
}

// ours returns the folder of an import path of this module.
func ours(imported string) (folder string, ok bool) {
	if imported == module {
		return ".", true
	}
	return strings.CutPrefix(imported, module+"/")
}

// allowed tells whether the package in a folder may import another of ours.
// What is not in the table is reported once, as that.
func allowed(folder, imported string) bool {
	imports, ok := rule(folder)
	if !ok {
		return true
	}
	if imported == "." {
		return !slices.Contains(importNothing, folder)
	}
	return slices.ContainsFunc(imports, func(pattern string) bool { return match(pattern, imported) })
}

// rule returns what the package in a folder may import, if the table has it.
func rule(folder string) (imports []string, ok bool) {
	for _, r := range mayImport {
		if match(r.folder, folder) {
			return r.imports, true
		}
	}
	return nil, false
}

func match(pattern, folder string) bool {
	ok, err := path.Match(pattern, folder)
	return err == nil && ok
}
