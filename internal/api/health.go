package api

import (
	"context"
	"fmt"
	"net/http"
	"strings"
)

// Part is the state of one part of a server, as /readyz shows it.
type Part struct {
	Name     string // "store", "proxy east"
	Detail   string // one line; "" when OK says it all
	OK       bool
	Required bool // the server is not ready without it
}

// Health returns the handler for a listener that serves /livez, /readyz and
// /metrics alone, to everybody who reaches it. Calls by a name that is neither
// localhost nor one of hosts get no metrics and see no parts: see guard. Parts
// and metrics may be nil, as in [Config].
func Health(parts func(context.Context) []Part, metrics http.Handler, hosts []string) http.Handler {
	names := namesOf(hosts)
	if metrics != nil {
		metrics = names.protect(metrics)
	}
	mux := http.NewServeMux()
	addHealth(mux, parts, metrics, func(r *http.Request) string {
		if names.known(r.Host) {
			return ""
		}
		return "the parts are not shown to calls by this name"
	})
	return bounded(known(mux, "there are /livez, /readyz and /metrics; the REST API is at the address of the router"))
}

// addHealth adds the calls that supervisors and monitoring make. The process
// is alive while it answers. Why a call is not shown the parts is asked of
// hidden; "" is no reason.
func addHealth(mux *http.ServeMux, parts func(context.Context) []Part, metrics http.Handler, hidden func(*http.Request) string) {
	if parts == nil {
		parts = func(context.Context) []Part { return nil }
	}
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { plain(w, http.StatusOK, "ok\n") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		list := parts(r.Context())
		_, verbose := r.URL.Query()["verbose"]
		text := hidden(r) + "\n"
		if text == "\n" {
			text = lines(list)
		}
		switch ready := allRequired(list); {
		case ready && verbose:
			plain(w, http.StatusOK, text+"readyz check passed\n")
		case ready:
			plain(w, http.StatusOK, "ok\n")
		default:
			plain(w, http.StatusServiceUnavailable, text+"readyz check failed\n")
		}
	})
	if metrics != nil {
		mux.Handle("GET /metrics", metrics)
	}
}

// allRequired tells whether every part that must be OK is.
func allRequired(list []Part) bool {
	for _, p := range list {
		if p.Required && !p.OK {
			return false
		}
	}
	return true
}

// lines shows each part on a line of its own, the way Kubernetes does.
func lines(list []Part) string {
	var b strings.Builder
	for _, p := range list {
		detail := strings.Join(strings.Fields(p.Detail), " ")
		switch {
		case !p.OK:
			fmt.Fprintf(&b, "[-]%s: %s\n", p.Name, detail)
		case detail != "":
			fmt.Fprintf(&b, "[+]%s ok: %s\n", p.Name, detail)
		default:
			fmt.Fprintf(&b, "[+]%s ok\n", p.Name)
		}
	}
	return b.String()
}

// plain answers with a text.
func plain(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text)) // a client that has gone is no fault
}
