package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/swaggest/swgui"
	"github.com/swaggest/swgui/v5/static"
	"github.com/swaggest/swgui/v5emb"

	ohrouter "github.com/ohrouter/oh-router"
)

// apiVersion is the version of the document, not of the program: it changes
// when the API does.
const apiVersion = "1.0.0"

// operation returns an operation without its texts. Bodies need no limits
// here: bounded has read them.
func operation(method, path, id, tag string) huma.Operation {
	return huma.Operation{
		Method: method, Path: path, OperationID: strings.ToLower(id), Tags: []string{tag},
		MaxBodyBytes: -1, BodyReadTimeout: -1,
	}
}

// ref returns a reference to the schema of T.
func ref[T any](h huma.API) *huma.Schema {
	return h.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[T](), true, "")
}

// problems returns the responses of an operation that fails with the codes.
func problems(h huma.API, codes ...ohrouter.Code) map[string]*huma.Response {
	codes = append(codes, ohrouter.Unauthorized, ohrouter.Forbidden) // of every call
	return responses(problemType, ref[Problem](h), codes, func(c ohrouter.Code) string { return string(c) })
}

// envelopeErrors does what problems does for the calls with an envelope.
func envelopeErrors(h huma.API, codes ...ohrouter.Code) map[string]*huma.Response {
	codes = append(codes, ohrouter.Unauthorized, ohrouter.Forbidden)
	return responses("application/json", ref[envelope[noData]](h), codes, envelopeCode)
}

// responses returns a response for each status that the codes have.
func responses(contentType string, schema *huma.Schema, codes []ohrouter.Code, show func(ohrouter.Code) string) map[string]*huma.Response {
	names := map[int][]string{}
	for _, c := range codes {
		status := statusOf(c)
		if name := "`" + show(c) + "`"; !slices.Contains(names[status], name) {
			names[status] = append(names[status], name)
		}
	}
	m := map[string]*huma.Response{}
	for status, list := range names {
		m[strconv.Itoa(status)] = &huma.Response{
			Description: http.StatusText(status) + ": " + strings.Join(list, ", "),
			Content:     map[string]*huma.MediaType{contentType: {Schema: schema}},
		}
	}
	return m
}

// bodyProblems adds what can be wrong with a body as such.
func bodyProblems(m map[string]*huma.Response, most int) {
	for status, why := range map[int]string{
		http.StatusBadRequest:            "the body is missing, incomplete or not JSON",
		http.StatusRequestEntityTooLarge: fmt.Sprintf("the body is longer than %d bytes", most),
		http.StatusUnsupportedMediaType:  "the body says that it is not JSON",
	} {
		m[strconv.Itoa(status)] = &huma.Response{
			Description: http.StatusText(status) + ": `" + string(ohrouter.InvalidRequest) + "`, " + why,
			Content:     m["422"].Content,
		}
	}
}

// existingBinding is the answer to a bind of a target that has a binding.
func existingBinding(h huma.API) *huma.Response {
	return &huma.Response{
		Description: "The target's binding exists; the call counts as a use of it.",
		Content:     map[string]*huma.MediaType{"application/json": {Schema: ref[ohrouter.Binding](h)}},
	}
}

// document completes the OpenAPI document and returns it as JSON.
func document(o *huma.OpenAPI) ([]byte, error) {
	o.Info.Description = introduction()
	o.Info.License = &huma.License{Name: "Apache 2.0", Identifier: "Apache-2.0"}
	o.Tags = []*huma.Tag{
		{Name: "bindings", Description: "A binding is a target mapped to a port of the router."},
		{Name: "sessions", Description: "A session is one client connection to a mapped port, carried to the target."},
		{Name: "tokens", Description: "A token is a right to make calls. Only an admin makes and revokes them."},
		{Name: "proxies", Description: "A proxy dials the targets for the router. Its certificate says which one it is."},
		{Name: "route", Description: "Two short calls for scripts. Every answer below `/route/` stands in an envelope."},
		{Name: "health", Description: "For supervisors and monitoring."},
	}
	o.Components.SecuritySchemes = map[string]*huma.SecurityScheme{"token": {
		Type: "http", Scheme: "bearer", Description: "An API token, ohr_…. None is needed on loopback as long as there is none.",
	}}
	o.Security = []map[string][]string{{"token": {}}, {}}
	describeHealth(o)
	if err := describe(o.Components.Schemas.Map()); err != nil {
		return nil, err
	}
	b, err := json.Marshal(o)
	if err != nil {
		return nil, fmt.Errorf("encode the OpenAPI document: %w", err)
	}
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, b, "", "  "); err != nil {
		return nil, fmt.Errorf("indent the OpenAPI document: %w", err)
	}
	pretty.WriteByte('\n')
	return pretty.Bytes(), nil
}

// describeHealth adds the calls that the library does not serve.
func describeHealth(o *huma.OpenAPI) {
	text := func(what string) *huma.Response {
		return &huma.Response{
			Description: what,
			Content:     map[string]*huma.MediaType{"text/plain": {Schema: &huma.Schema{Type: huma.TypeString}}},
		}
	}
	live := operation(http.MethodGet, "/livez", "livez", "health")
	live.Summary = "Is the router alive?"
	live.Responses = map[string]*huma.Response{"200": text("It answers, so it is.")}

	ready := operation(http.MethodGet, "/readyz", "readyz", "health")
	ready.Summary = "Does the router accept binds?"
	ready.Parameters = []*huma.Param{{
		Name: "verbose", In: "query", AllowEmptyValue: true, Schema: &huma.Schema{Type: huma.TypeString},
		Description: "List each part, proxies included, for those who may read the metrics. A failure lists them always.",
	}}
	ready.Responses = map[string]*huma.Response{
		"200": text("It does."),
		"503": text("It drains, or a part that it cannot do without is not OK."),
	}

	metrics := operation(http.MethodGet, "/metrics", "metrics", "health")
	metrics.Summary = "Metrics in the format of Prometheus"
	metrics.Description = "For an admin or a viewer, unless the router is set to show them to everybody."
	metrics.Responses = map[string]*huma.Response{"200": text("All metrics.")}
	live.Security, ready.Security = []map[string][]string{{}}, []map[string][]string{{}}
	for _, op := range []*huma.Operation{&live, &ready, &metrics} {
		o.AddOperation(op)
	}
}

// addDocs serves the document and the pages that show it. Nothing of them is
// loaded from elsewhere.
func addDocs(mux *http.ServeMux, doc []byte) error {
	mux.HandleFunc("GET /openapi.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(doc) // a client that has gone is no fault
	})
	pages := v5emb.NewHandlerWithConfig(swgui.Config{
		Title: "oh-router API", SwaggerJSON: "/openapi.json", BasePath: "/docs/",
		SettingsUI: map[string]string{"defaultModelsExpandDepth": "1"},
	})
	secured := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// The page has its script inline.
		w.Header().Set("Content-Security-Policy", "default-src 'self'; script-src 'self' 'unsafe-inline'; "+
			"style-src 'self' 'unsafe-inline'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
		w.Header().Set("Cache-Control", "max-age=3600")
		pages.ServeHTTP(w, r)
	})
	mux.Handle("GET /docs", secured)
	mux.Handle("GET /docs/{$}", secured)
	files, err := fs.ReadDir(static.FS, ".")
	if err != nil {
		return fmt.Errorf("list the files of the API's pages: %w", err)
	}
	for _, f := range files {
		mux.Handle("GET /docs/"+strings.TrimSuffix(f.Name(), ".gz"), secured)
	}
	return nil
}
