// Package api is the REST API of the router. It decodes calls, asks the
// packages that know, and encodes their answers; it decides nothing itself.
//
// There are two sets of calls: /v1, which answers JSON and problem+json with
// the codes of package ohrouter, and the older /route, whose answers stand in
// an envelope. Both are described by the OpenAPI document that the API serves
// at /openapi.json, a copy of which is kept beside the code.
package api

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/access"
	"github.com/ohrouter/oh-router/internal/audit"
)

// Bindings is what the API asks about bindings. Errors carry a code; Host and
// Address of the bindings that it returns are for the API to fill in.
type Bindings interface {
	// Bind returns the binding of the spec's target, and whether it is new.
	Bind(ctx context.Context, spec ohrouter.BindingSpec) (b ohrouter.Binding, created bool, err error)
	// Bindings returns every binding, oldest first.
	Bindings() []ohrouter.Binding
	// Binding returns one binding, or not_found.
	Binding(id string) (ohrouter.Binding, error)
	// Patch changes a binding and returns what it has become.
	Patch(ctx context.Context, id string, p ohrouter.BindingPatch) (ohrouter.Binding, error)
	// Release ends a binding: its sessions may go on for drain, behind the call.
	Release(ctx context.Context, id string, drain time.Duration) error
	// ReleaseOwned ends the bindings of a token that is not valid any more.
	ReleaseOwned(ctx context.Context, owner string) error
}

// Sessions is what the API asks about sessions.
type Sessions interface {
	// Sessions returns the open sessions of a binding.
	Sessions(bindingID string) []ohrouter.Session
	// Session returns an open session, or not_found.
	Session(id string) (ohrouter.Session, error)
	// Kill cuts a session, or returns not_found.
	Kill(id string) error
}

// Config is what an API is made of. Bindings, Sessions and Proxies are
// required.
type Config struct {
	Bindings Bindings
	Sessions Sessions
	Proxies  func() []ohrouter.Proxy

	// Access knows the tokens that calls need; nil is a set of its own, empty at
	// first.
	Access *access.Tokens
	// Hosts are the names by which the API may be called, besides localhost,
	// Advertise and every address.
	Hosts []string
	// Authority enrols proxies; nil refuses the calls about that.
	Authority Authority
	// Revoke ends the certificates that the proxy of a name has; nil where links
	// have none.
	Revoke func(ctx context.Context, proxy string) error
	// OpenMetrics answers /metrics without a token, too.
	OpenMetrics bool
	// AllowRequester makes "whoever made the call" what an empty allow means,
	// instead of "anybody": for an API in reach of other machines.
	AllowRequester bool

	// Advertise is the host in returned addresses; "" is the address at which
	// the call arrived.
	Advertise string
	// Known is told of each call whose caller has shown who he is, if calls need
	// that, before its body is read; nil tells nobody.
	Known func(ctx context.Context)
	// Parts reports what /readyz shows; nil is always ready.
	Parts func(context.Context) []Part
	// Metrics answers /metrics; nil leaves it out.
	Metrics http.Handler
	// Audit gets what is done to tokens and proxies, sessions that are cut, and
	// calls that are denied; nil is none.
	Audit *audit.Log
	// Log gets a debug line for each request and an error for each fault; nil
	// discards them.
	Log *slog.Logger
}

// api answers the calls.
type api struct {
	Config
}

// New returns the handler of the API. It is to be served by [Server], whose
// limits it relies on.
func New(cfg Config) (http.Handler, error) {
	if cfg.Bindings == nil || cfg.Sessions == nil || cfg.Proxies == nil {
		return nil, fmt.Errorf("make the API: Bindings, Sessions and Proxies are required")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Access == nil {
		var err error
		if cfg.Access, err = access.Open(context.Background(), access.Config{}); err != nil {
			return nil, fmt.Errorf("make the API: %w", err)
		}
	}
	matchCase()
	a := &api{cfg}
	mux := http.NewServeMux()
	h := humago.New(mux, humaConfig())
	h.UseMiddleware(speakJSON)
	a.addBindings(h)
	a.addSessions(h)
	a.addTokens(h)
	a.addEnrolment(h)
	a.addRoute(h)
	addHealth(mux, cfg.Parts, cfg.Metrics, func(r *http.Request) string {
		if callerOf(r.Context()).SeesMetrics() {
			return ""
		}
		return "the parts are shown with a token"
	})
	doc, err := document(h.OpenAPI())
	if err != nil {
		return nil, err
	}
	if err := addDocs(mux, doc); err != nil {
		return nil, err
	}
	return a.wrap(mux), nil
}

// matchCase makes the library tell "Target" from "target", for which it has a
// switch for the whole process only.
var matchCase = sync.OnceFunc(func() { huma.ValidateStrictCasing = true })

// wrap puts around the calls what they have in common, outermost last. Who
// calls is known before the body is read.
func (a *api) wrap(mux *http.ServeMux) http.Handler {
	h := known(mux, "/docs describes those that exist")
	h = bounded(h)
	h = newGuard(&a.Config).protect(h)
	h = observe(a.Log, h)
	return h
}

// humaConfig returns the settings of the library that decodes and validates:
// JSON only, no pages and no schema links of its own.
func humaConfig() huma.Config {
	c := huma.DefaultConfig("oh-router", apiVersion)
	c.OpenAPIPath, c.DocsPath, c.SchemasPath = "", "", ""
	c.CreateHooks = nil // they would add $schema to every answer
	c.Formats = map[string]huma.Format{"application/json": jsonFormat(), "json": jsonFormat()}
	c.Transformers = []huma.Transformer{problemOf}
	c.RejectUnknownQueryParameters = true // a misspelt drain would cut sessions
	return c
}

// host returns the host where clients of the caller find mapped ports.
func (a *api) host(ctx context.Context) string {
	if a.Advertise != "" {
		return a.Advertise
	}
	if t, ok := ctx.Value(http.LocalAddrContextKey).(*net.TCPAddr); ok {
		if ip, ok := netip.AddrFromSlice(t.IP); ok {
			return ip.Unmap().String()
		}
	}
	return "127.0.0.1" // not called over TCP: the caller is on this machine
}

// shown returns what the caller is to see of a binding. It fills in what only
// the API knows, and the empty lists that JSON would show as null.
func (a *api) shown(ctx context.Context, b ohrouter.Binding) ohrouter.Binding {
	b = callerOf(ctx).Binding(b)
	b.Host = a.host(ctx)
	b.Address = net.JoinHostPort(b.Host, strconv.Itoa(int(b.Port)))
	if b.Allow == nil {
		b.Allow = []netip.Prefix{}
	}
	if b.Labels == nil {
		b.Labels = map[string]string{}
	}
	return b
}
