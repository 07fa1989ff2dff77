package api

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	ohrouter "github.com/ohrouter/oh-router"
)

// bindText explains the bind call.
const bindText = "Maps a target to a port of the router and returns the binding; clients connect to its `address`.\n\n" +
	"A target has one binding, with tokens one for each of them. A bind of a target that has one returns it, with status 200 instead of 201: a call can be " +
	"repeated safely, and 50 calls at once get the same answer. A field that the call leaves out, or gives as its zero value, " +
	"then means \"as it is\"; another value is a `conflict`.\n\n" +
	"The router has a proxy connect to the target before it answers, so a target that cannot be reached gets the reason " +
	"instead of a port. The connection is kept for a moment and serves the first client. `\"check\": false` skips this."

// introduction is the text above the document.
func introduction() string {
	var b strings.Builder
	b.WriteString("oh-router maps TCP services that a client cannot reach to ports that it can.\n\n" +
		"Bodies are JSON. Durations are strings such as `90s`, `5m` or `1h30m`, times are RFC 3339, what is absent is `null`. " +
		"Unknown fields and parameters, wrong types and wrong values are refused.\n\n" +
		"Errors are `application/problem+json` (RFC 9457) with a stable `code`; branch on it, and show `detail` to people. " +
		"`invalid_request` has status 400 for a request that cannot be parsed, 405, 413 and 415 for what they mean elsewhere, " +
		"and 422 for wrong values.\n\n| code | status | meaning |\n|---|---|---|\n")
	for _, c := range ohrouter.Codes() {
		status := fmt.Sprint(statusOf(c))
		if c == ohrouter.InvalidRequest {
			status = "400, 405, 413, 415, 422"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", c, status, meanings()[c])
	}
	return b.String()
}

// meanings says what each code means.
func meanings() map[ohrouter.Code]string {
	return map[ohrouter.Code]string{
		ohrouter.InvalidRequest:    "the call is malformed",
		ohrouter.Unauthorized:      "no valid credentials",
		ohrouter.Forbidden:         "valid credentials without the right",
		ohrouter.TargetDenied:      "the proxy's allow-list does not have the target",
		ohrouter.NotFound:          "no such binding, session or path",
		ohrouter.Conflict:          "it exists with other values, or the port is taken or resting",
		ohrouter.QuotaExceeded:     "a limit is reached; later may work",
		ohrouter.TargetRefused:     "the target's host answered: nothing listens there",
		ohrouter.TargetUnreachable: "no way from the proxy to the target",
		ohrouter.TargetUnresolved:  "the proxy cannot resolve the target's name",
		ohrouter.TargetTimeout:     "the target did not answer in time",
		ohrouter.NoProxy:           "no proxy serves the target, or the name is unknown",
		ohrouter.ProxyUnreachable:  "the router cannot complete a handshake with the proxy",
		ohrouter.PortsExhausted:    "every port of the range is taken or resting",
		ohrouter.Draining:          "the router is shutting down and takes nothing new",
		ohrouter.Internal:          "a fault of oh-router or its machine; its log has the details",
	}
}

// descriptions says what each field of the answers means, by schema and field.
func descriptions() map[string]map[string]string {
	return map[string]map[string]string{
		"Binding": {
			"id":             "Identifies the binding for as long as it lives.",
			"owner":          "Id of the token that made it; null without tokens.",
			"target":         "HOST:PORT in its canonical spelling: lower case, no trailing dot, A-labels, addresses in their one form.",
			"proxy":          "Name of the proxy that serves it; empty until one does.",
			"address":        "HOST:PORT where clients connect; IPv6 addresses stand in brackets.",
			"host":           "Host of the address.",
			"port":           "The mapped port.",
			"state":          "A draining binding has stopped listening and ends with its last session.",
			"created_at":     "When the binding was made.",
			"last_used_at":   "The last bind call or the end of the last session, whichever is later; now while a session is open.",
			"idle_timeout":   "How long after last_used_at the binding is recycled; 0s: never.",
			"expires_at":     "When the binding ends, sessions included; null without a ttl.",
			"allow":          "CIDRs that may connect, without the word requester: it has become an address. Empty: anybody.",
			"max_sessions":   "Sessions that may be open at once; 0: no limit.",
			"labels":         "The caller's words.",
			"proxy_protocol": "Version of the PROXY protocol in which the target is told who the client is; null: it is not.",
			"sessions":       "Sessions that are open now.",
			"sessions_total": "Sessions since the binding was made or the router started.",
			"bytes_up":       "Bytes from clients to the target, live.",
			"bytes_down":     "Bytes from the target to clients, live.",
			"last_check":     "The last connect to the target that a bind call made; null before the first.",
			"last_error":     "The latest failed check or session set-up; null before the first.",
		},
		"Check": {
			"ok":       "Whether the target answered.",
			"resolved": "Address that the proxy connected to; empty if it did not.",
			"duration": "How long it took.",
			"at":       "When it ended.",
		},
		"Failure": {
			"code":    "Names the reason.",
			"message": "Explains it to a person.",
			"at":      "When it happened.",
		},
		"Session": {
			"id":         "Identifies the session.",
			"binding_id": "The binding whose port the client connected to.",
			"target":     "The binding's target.",
			"resolved":   "Address that the proxy connected to.",
			"proxy":      "Name of the proxy.",
			"client":     "Address of the client.",
			"started_at": "When the client connected.",
			"bytes_up":   "Bytes from the client to the target, live.",
			"bytes_down": "Bytes from the target to the client, live.",
		},
		"Proxy": {
			"name":       "Name that bind calls may ask for.",
			"address":    "HOST:PORT that the router dials.",
			"state":      "What the last handshake with it showed.",
			"links":      "Links that are open now.",
			"seen_at":    "The last handshake that it answered; null before the first.",
			"last_error": "The last handshake that it did not answer; null before the first.",
		},
		"NewInvitation": {
			"proxy":      "Whom it makes of whoever has it.",
			"token":      "What its holder shows to enrol. It is answered this once and kept nowhere.",
			"expires_at": "When it ends, used or not.",
		},
		"Certificate": {
			"proxy":       "Who its holder is from now on.",
			"certificate": "The certificate in PEM form.",
			"ca":          "The certificate of the CA that has signed it and the router's, in PEM form.",
			"expires_at":  "When it ends. It can be renewed until then.",
		},
		"Token":       tokenDescriptions(),
		"NewToken":    newTokenDescriptions(),
		"BindingList": {"bindings": "The bindings, oldest first, those that drain included."},
		"SessionList": {"sessions": "The open sessions, oldest first."},
		"TokenList":   {"tokens": "The tokens that the caller may see, oldest first, those that have ended included."},
		"ProxyList":   {"proxies": "The proxies that the router knows, in the order of its configuration."},
		"Problem": {
			"type":   "Always about:blank; code says what it is.",
			"title":  "The status in words.",
			"status": "The HTTP status.",
			"detail": "What went wrong, for a person.",
			"code":   "What went wrong, for a program.",
			"errors": "Each value that is wrong, the first ten at most.",
		},
		"FieldError": {
			"location": "Where the value stands, such as body.port or query.drain.",
			"message":  "What is wrong with it.",
		},
		"EnvelopeHostPort":        envelopeDescriptions("Where clients connect."),
		"EnvelopeListBoundTarget": envelopeDescriptions("The active bindings."),
		"EnvelopeNoData":          envelopeDescriptions("Null."),
		"HostPort":                {"host": "Name or address.", "port": "Port."},
		"BoundTarget": {
			"routeInfo":          "The target.",
			"bindAddress":        "Where clients connect.",
			"activeChannelCount": "Sessions that are open now.",
		},
	}
}

func envelopeDescriptions(data string) map[string]string {
	return map[string]string{
		"success": "Whether the call did what it was asked for; the HTTP status says the same.",
		"data":    data + " Null after a failure.",
		"code":    "ROUTE_ERROR: no way to the target. BIND_ERROR: no port for it. UNKNOWN_ERROR: anything else. Null after a success.",
		"message": "What went wrong, for a person. Null after a success.",
	}
}

// describe completes the schemas that the library derives from Go types: texts,
// the words that a field may hold, examples, and objects that may be null,
// which the library cannot express. Answers may grow fields, so their schemas
// stay open.
func describe(schemas map[string]*huma.Schema) error {
	for name, texts := range descriptions() {
		s := schemas[name]
		if s == nil {
			return fmt.Errorf("describe the API: there is no schema %s", name)
		}
		s.AdditionalProperties = nil
		for field, text := range texts {
			if s.Properties[field] == nil {
				return fmt.Errorf("describe the API: %s has no field %s", name, field)
			}
			s.Properties[field].Description = text
		}
	}
	for _, field := range []string{"Binding.last_check", "Binding.last_error", "Proxy.last_error", "EnvelopeHostPort.data"} {
		name, field, _ := strings.Cut(field, ".")
		s := schemas[name].Properties[field]
		schemas[name].Properties[field] = &huma.Schema{
			Description: s.Description,
			OneOf:       []*huma.Schema{{Ref: s.Ref}, {Type: "null"}},
		}
	}
	schemas["EnvelopeNoData"].Properties["data"] = &huma.Schema{Description: "Null.", Type: "null"}
	schemas["Binding"].Properties["allow"].Nullable = false
	for of, fields := range map[string][]string{"Binding": {"owner", "proxy"}, "Check": {"resolved"}, "Session": {"proxy", "resolved"}} {
		for _, f := range fields {
			schemas[of].Properties[f].Nullable = true // ohrouter.Optional
		}
	}
	schemas["Problem"].Properties["errors"].Nullable = false

	for _, name := range []string{"Token", "NewToken"} {
		schemas[name].Properties["targets"].Nullable, schemas[name].Properties["proxies"].Nullable = false, false
		words(schemas[name], "role", ohrouter.Roles()...)
	}
	words(schemas["Binding"], "state", ohrouter.BindingActive, ohrouter.BindingDraining)
	words(schemas["Proxy"], "state", ohrouter.ProxyUnknown, ohrouter.ProxyUp, ohrouter.ProxyDown, ohrouter.ProxyDraining)
	words(schemas["Problem"], "code", ohrouter.Codes()...)
	words(schemas["Failure"], "code", ohrouter.Codes()...)
	for _, name := range []string{"EnvelopeHostPort", "EnvelopeListBoundTarget", "EnvelopeNoData"} {
		words(schemas[name], "code", routeError, bindError, unknownError)
		code := schemas[name].Properties["code"]
		code.Enum = append(code.Enum, nil)
	}
	examples(schemas)
	return nil
}

// words sets the values that a field may have.
func words[T ~string](s *huma.Schema, field string, list ...T) {
	for _, w := range list {
		s.Properties[field].Enum = append(s.Properties[field].Enum, string(w))
	}
}

// examples gives the main schemas a value to look at.
func examples(schemas map[string]*huma.Schema) {
	at := time.Date(2026, 5, 4, 9, 30, 0, 0, time.UTC)
	target := ohrouter.Target{Host: "db.internal", Port: 3306}
	client := netip.MustParseAddrPort("10.0.0.77:51234")
	schemas["Binding"].Examples = []any{ohrouter.Binding{
		ID: "b-7q2m", Owner: "t-z3pxn5q7kd4f", Target: target, Proxy: "east", Address: "10.0.0.5:20007", Host: "10.0.0.5", Port: 20007,
		State: ohrouter.BindingActive, CreatedAt: at, LastUsedAt: at.Add(time.Minute),
		IdleTimeout: ohrouter.Duration(5 * time.Minute), Allow: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
		Labels: map[string]string{"team": "web"}, Sessions: 1, SessionsTotal: 3, BytesUp: 2048, BytesDown: 65536,
		LastCheck: &ohrouter.Check{OK: true, Resolved: "192.0.2.10:3306", Duration: ohrouter.Duration(3 * time.Millisecond), At: at},
	}}
	schemas["Session"].Examples = []any{ohrouter.Session{
		ID: "s-91xk", BindingID: "b-7q2m", Target: target, Resolved: "192.0.2.10:3306", Proxy: "east",
		Client: client, StartedAt: at, BytesUp: 2048, BytesDown: 65536,
	}}
	schemas["Proxy"].Examples = []any{ohrouter.Proxy{
		Name: "east", Address: "10.0.1.9:9000", State: ohrouter.ProxyUp, Links: 1, SeenAt: &at,
	}}
	schemas["Problem"].Examples = []any{
		problemFor(ohrouter.Errorf(ohrouter.TargetRefused, "connect to db.internal:3306: nothing listens there")),
	}
}
