package api

import (
	"bytes"
	"encoding/json"
	"flag"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write openapi.json anew")

func TestOpenAPI(t *testing.T) {
	status, _, got := call(t, serve(t, handler(t, oneBinding())), "GET /openapi.json", "")
	if status != http.StatusOK {
		t.Fatalf("GET /openapi.json = %d, want 200", status)
	}
	if *update {
		if err := os.WriteFile("openapi.json", []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("the API differs from openapi.json; run go test ./internal/api -run TestOpenAPI -update\n%s", d)
	}
}

// object is a JSON object of the document.
type object = map[string]any

// TestSchemasDescribed finds fields that joined a type, but not its text.
func TestSchemasDescribed(t *testing.T) {
	b, err := os.ReadFile("openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	var doc object
	if err := json.Unmarshal(b, &doc); err != nil {
		t.Fatal(err)
	}
	for name, s := range doc["components"].(object)["schemas"].(object) {
		for field, p := range s.(object)["properties"].(object) {
			if p.(object)["description"] == nil {
				t.Errorf("%s.%s has no description", name, field)
			}
		}
	}
	for path, ops := range doc["paths"].(object) {
		for method, op := range ops.(object) {
			if op.(object)["summary"] == nil {
				t.Errorf("%s %s has no summary", method, path)
			}
		}
	}
	if bytes.Contains(b, []byte("$schema")) {
		t.Error("the document speaks of $schema, which no answer has")
	}
}

func TestPages(t *testing.T) {
	base := serve(t, handler(t, oneBinding()))
	for _, path := range []string{"/docs", "/docs/"} {
		status, h, body := call(t, base, "GET "+path, "")
		if status != http.StatusOK || !strings.HasPrefix(h.Get("Content-Type"), "text/html") {
			t.Errorf("GET %s = %d %s, want 200 text/html", path, status, h.Get("Content-Type"))
		}
		for _, ref := range []string{`src="http`, `href="http`, `src="//`, `href="//`} {
			if strings.Contains(body, ref) {
				t.Errorf("GET %s loads something from elsewhere: %s", path, ref)
			}
		}
	}
	for _, file := range []string{"swagger-ui-bundle.js", "swagger-ui-standalone-preset.js", "swagger-ui.css", "favicon-32x32.png"} {
		status, h, body := call(t, base, "GET /docs/"+file, "")
		if status != http.StatusOK || len(body) == 0 || !slices.Contains([]string{"", "gzip"}, h.Get("Content-Encoding")) {
			t.Errorf("GET /docs/%s = %d with %d bytes", file, status, len(body))
		}
	}
}
