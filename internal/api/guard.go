package api

import (
	"context"
	"crypto/x509"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/access"
	"github.com/ohrouter/oh-router/internal/audit"
)

// guard decides whether a call is made at all, by its header alone: before its
// body is read and before anything is looked up. What a caller may do is asked
// of the [access.Caller] that it leaves in the context.
type guard struct {
	tokens      *access.Tokens
	hosts       names
	openMetrics bool
	crossOrigin *http.CrossOriginProtection
	audit       *audit.Log
	known       func(context.Context)
}

func newGuard(cfg *Config) *guard {
	known := cfg.Known
	if known == nil {
		known = func(context.Context) {}
	}
	return &guard{
		known: known, tokens: cfg.Access, openMetrics: cfg.OpenMetrics, crossOrigin: http.NewCrossOriginProtection(),
		hosts: namesOf(append(slices.Clone(cfg.Hosts), cfg.Advertise)), audit: cfg.Audit,
	}
}

// caller is who makes a call, and from where.
type caller struct {
	access.Caller
	addr        netip.Addr        // the zero Addr when the call did not come over TCP
	certificate *x509.Certificate // that its connection has proved to be its own; nil without
	known       bool              // has shown a token, if calls need one
}

type callerKey struct{}

// prefixes returns the word requester as what a binding may allow. A call that
// did not come over TCP came from this machine.
func (c caller) prefixes() []netip.Prefix {
	if !c.addr.IsValid() {
		return []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	}
	return []netip.Prefix{netip.PrefixFrom(c.addr, c.addr.BitLen())}
}

// callerOf returns who makes the call of a context. Without a guard before it
// that is one who may do nothing.
func callerOf(ctx context.Context) caller {
	c, _ := ctx.Value(callerKey{}).(caller)
	return c
}

// protect refuses the calls that may not be made. Supervisors and readers of
// the documentation need no right, and have none.
func (g *guard) protect(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who, p := g.admit(r)
		from, err := netip.ParseAddrPort(r.RemoteAddr)
		by := audit.Caller{Token: who.Owner(), Name: who.Name(), From: from, Call: r.Method + " " + loggable(r)}
		known := p == nil && !fromMachine(r.URL.Path)
		if known {
			g.known(r.Context())
		} else {
			w.Header().Set("Connection", "close") // nobody keeps one without a token
		}
		if p != nil && !g.public(r.URL.Path) {
			g.audit.Record(audit.Entry{Event: audit.CallDenied, By: by, Code: p.Code, Reason: p.Detail})
			refuse(w, r, p)
			return
		}
		if p != nil {
			who = access.Caller{} // may do nothing but what is for everybody
		}
		c := caller{Caller: who, certificate: certificateOf(r), known: known}
		if err == nil {
			c.addr = from.Addr().Unmap().WithZone("")
		}
		next.ServeHTTP(w, r.WithContext(audit.With(context.WithValue(r.Context(), callerKey{}, c), by)))
	})
}

// public tells whether a path is for everybody.
func (g *guard) public(path string) bool {
	switch path {
	case "/livez", "/readyz", "/openapi.json", "/docs":
		return true
	case "/metrics":
		return g.openMetrics
	}
	return strings.HasPrefix(path, "/docs/")
}

// admit returns who makes a call, as far as that is known, and why it is
// refused.
func (g *guard) admit(r *http.Request) (access.Caller, *Problem) {
	if !g.hosts.known(r.Host) {
		return access.Caller{}, strange(r)
	}
	if g.fromOtherSite(r) {
		return access.Caller{}, problemFor(ohrouter.Errorf(ohrouter.Forbidden,
			"the call comes from a page of another site in a browser; programs are to send no Origin and no Sec-Fetch-Site"))
	}
	if fromMachine(r.URL.Path) {
		if r.URL.Path == renewPath && certificateOf(r) == nil {
			return access.Caller{}, problemFor(errNoCertificate())
		}
		return access.Caller{}, nil // who may do nothing else
	}
	who, err := g.tokens.Authenticate(bearer(r))
	if err != nil {
		p := problemFor(err)
		if p.Code == ohrouter.Unauthorized {
			p = challenge(p, r.Header.Get("Authorization") != "")
		}
		return who, p
	}
	if r.URL.Path == "/metrics" && !g.openMetrics && !who.SeesMetrics() {
		return who, challenge(problemFor(ohrouter.Errorf(ohrouter.Forbidden,
			"the token's role is %s; metrics are for an admin or a viewer", who.Role())), true)
	}
	return who, nil
}

// certificateOf returns the certificate of a call's connection. The server has
// checked it; what it is good for is for others to say.
func certificateOf(r *http.Request) *x509.Certificate {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return nil
	}
	return r.TLS.PeerCertificates[0]
}

// bearer returns the token that a call shows, "" if it shows nothing. What is
// no bearer token, or more than one, comes out as something that is no token.
func bearer(r *http.Request) string {
	shown := r.Header.Values("Authorization")
	if len(shown) == 0 {
		return ""
	}
	const scheme = "bearer "
	if first := shown[0]; len(shown) == 1 && len(first) > len(scheme) && strings.EqualFold(first[:len(scheme)], scheme) {
		return strings.Trim(first[len(scheme):], " ")
	}
	return "not a bearer token"
}

// names are those that a server goes by, in the spelling of hostName.
type names []string

// namesOf returns the names of a server that is also called localhost.
func namesOf(hosts []string) names {
	n := names{"localhost"}
	for _, h := range hosts {
		if h != "" {
			n = append(n, hostName(h))
		}
	}
	return n
}

// known tells whether the server goes by the name of a Host header. A page
// that has its own name lead here (DNS rebinding) is of the same site as the
// server to a browser, and this header is what gives it away. Addresses are
// nobody's names, and no browser leaves the header out.
func (n names) known(host string) bool {
	name := hostName(withoutPort(host))
	if _, err := netip.ParseAddr(name); err == nil || name == "" {
		return true
	}
	return slices.Contains(n, name)
}

// protect refuses calls by other names.
func (n names) protect(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !n.known(r.Host) {
			refuse(w, r, strange(r))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// strange returns the problem of a call by a name that is not known.
func strange(r *http.Request) *Problem {
	more := ""
	if r.TLS != nil {
		more = "; or, if 'oh-router ca init' has made its certificate, stop it and run 'oh-router ca init --host' with that name"
	}
	return problemFor(ohrouter.Errorf(ohrouter.Forbidden,
		"this server is not known by the name %.100q: call it by its address, or start the server with that name in --allowed-hosts%s",
		withoutPort(r.Host), more))
}

// withoutPort returns the host of a Host header.
func withoutPort(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		return name
	}
	return host
}

// hostName returns the spelling of a host that names are compared in.
func hostName(s string) string {
	return strings.ToLower(strings.TrimSuffix(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]"), "."))
}

// fromOtherSite tells whether a browser makes the call for a page of another
// site. The calls below /route change things with a GET, which a page can make
// with an image or a link, so they are looked at like a POST.
func (g *guard) fromOtherSite(r *http.Request) bool {
	if !strings.HasPrefix(r.URL.Path, routePrefix) {
		return g.crossOrigin.Check(r) != nil
	}
	if (r.Method == http.MethodGet || r.Method == http.MethodHead) && r.Header.Get("Sec-Fetch-Site") == "" {
		// Without encryption and beyond loopback, browsers send neither of the
		// headers that Check looks at with a GET. They say their languages
		// and names always; programs do not, or say "*".
		if l := r.Header.Get("Accept-Language"); l != "" && l != "*" || strings.HasPrefix(r.UserAgent(), "Mozilla/") {
			return true
		}
	}
	unsafe := *r
	unsafe.Method = http.MethodPost
	return g.crossOrigin.Check(&unsafe) != nil
}

// refuse answers a call whose body has not been read.
func refuse(w http.ResponseWriter, r *http.Request, p *Problem) {
	if r.Body == nil || r.Body == http.NoBody {
		fail(w, r, p)
		return
	}
	// What nobody will read may not hold the connection, either.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(discardTimeout))
	fail(w, r, p)
	discard(w, r)
}
