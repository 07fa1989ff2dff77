package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/api"
	"github.com/ohrouter/oh-router/internal/registry"
)

// fakeAPI answers as a router does. Under /empty it has nothing, under /shared
// two owners' bindings of a target, under /locked it wants the token "ohr_test", under /page it is a web site, and under
// /hostile its strings try to play with the terminal. Under /real is the API of a router
// that has nothing but tokens, and under /untold nobody is to show one.
type fakeAPI struct {
	*httptest.Server
	silent chan struct{} // gets an element when a bind of silent.example begins

	mu       sync.Mutex // guards bindings
	bindings []ohrouter.Binding
}

// startFakeAPI starts one; the caller closes it.
func startFakeAPI() *fakeAPI {
	f := &fakeAPI{silent: make(chan struct{}, 1), bindings: []ohrouter.Binding{sampleBinding()}}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/bindings", f.bind)
	mux.HandleFunc("GET /v1/bindings", f.list)
	mux.HandleFunc("GET /v1/bindings/{id}", func(w http.ResponseWriter, r *http.Request) {
		if r.PathValue("id") != "b1" {
			writeProblem(w, 404, ohrouter.NotFound, "no binding "+r.PathValue("id"))
			return
		}
		writeJSON(w, 200, "application/json", sampleBinding())
	})
	mux.HandleFunc("DELETE /v1/bindings/{id}", f.unbind)
	mux.HandleFunc("GET /v1/sessions", func(w http.ResponseWriter, r *http.Request) {
		sessions := []ohrouter.Session{sampleSession()}
		if id := r.FormValue("binding"); id != "" && id != "b1" {
			sessions = []ohrouter.Session{}
		}
		writeJSON(w, 200, "application/json", map[string]any{"sessions": sessions})
	})
	mux.HandleFunc("DELETE /v1/sessions/{id}", func(w http.ResponseWriter, r *http.Request) {
		if r.PathValue("id") != "s1" {
			writeProblem(w, 404, ohrouter.NotFound, "no session "+r.PathValue("id"))
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("GET /v1/proxies", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, 200, "application/json", map[string]any{"proxies": sampleProxies()})
	})
	mux.HandleFunc("POST /v1/proxies/{name}/invitations", func(w http.ResponseWriter, r *http.Request) {
		var in struct{ TTL ohrouter.Duration }
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil || r.PathValue("name") == "lost" {
			writeProblem(w, 404, ohrouter.NotFound, "this router has no CA")
			return
		}
		writeJSON(w, 201, "application/json", ohrouter.NewInvitation{
			Proxy: r.PathValue("name"), Token: "ohe_test", ExpiresAt: time.Date(2199, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(in.TTL)),
		})
	})
	mux.HandleFunc("DELETE /v1/proxies/{name}/certificate", func(w http.ResponseWriter, r *http.Request) {
		if r.PathValue("name") == "lost" {
			writeProblem(w, 404, ohrouter.NotFound, "there is nothing to revoke")
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("GET /untold/v1/proxies", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			writeProblem(w, 409, ohrouter.Conflict, "a token was shown")
			return
		}
		writeJSON(w, 200, "application/json", map[string]any{"proxies": sampleProxies()})
	})
	mux.HandleFunc("GET /empty/v1/{kind}", func(w http.ResponseWriter, r *http.Request) {
		writeJSON(w, 200, "application/json", map[string]any{r.PathValue("kind"): []int{}})
	})
	mux.HandleFunc("GET /shared/v1/bindings", func(w http.ResponseWriter, _ *http.Request) {
		mine, other := sampleBinding(), sampleBinding()
		other.ID = "b2"
		writeJSON(w, 200, "application/json", map[string]any{"bindings": []ohrouter.Binding{mine, other}})
	})
	mux.HandleFunc("/locked/", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer ohr_test" {
			writeProblem(w, 401, ohrouter.Unauthorized, "the call needs a valid token")
			return
		}
		http.StripPrefix("/locked", mux).ServeHTTP(w, r)
	})
	mux.HandleFunc("/page/", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprint(w, "<h1>It works!</h1>")
	})
	mux.HandleFunc("GET /hostile/v1/proxies", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, 200, "application/json", map[string]any{"proxies": []ohrouter.Proxy{{Name: "\x1b[31mred\r\n\u202e", Address: "a\tb"}}})
	})
	mux.HandleFunc("POST /hostile/v1/bindings", func(w http.ResponseWriter, _ *http.Request) {
		writeProblem(w, 502, ohrouter.TargetRefused, "no\noh-router: all is well\x1b[2J")
	})
	mux.Handle("/real/", http.StripPrefix("/real", realAPI()))
	f.Server = httptest.NewServer(mux)
	return f
}

// realAPI returns the API itself, without anything behind it.
func realAPI() http.Handler {
	h, err := api.New(api.Config{
		Bindings: registry.New(registry.Config{}), Sessions: noSessions{}, Proxies: func() []ohrouter.Proxy { return nil },
	})
	if err != nil {
		panic(err)
	}
	return h
}

type noSessions struct{}

func (noSessions) Sessions(string) []ohrouter.Session { return nil }
func (noSessions) Kill(string) error                  { return nil }

func (noSessions) Session(id string) (ohrouter.Session, error) {
	return ohrouter.Session{}, ohrouter.Errorf(ohrouter.NotFound, "no session has the id %q", id)
}

func (f *fakeAPI) bind(w http.ResponseWriter, r *http.Request) {
	var spec ohrouter.BindingSpec
	if err := json.NewDecoder(r.Body).Decode(&spec); err != nil {
		writeProblem(w, 400, ohrouter.InvalidRequest, err.Error())
		return
	}
	switch spec.Target.Host {
	case "refused.example":
		writeProblem(w, 502, ohrouter.TargetRefused, spec.Target.String()+": connection refused; is the server running?")
		return
	case "silent.example":
		f.silent <- struct{}{}
		<-r.Context().Done()
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if i := slices.IndexFunc(f.bindings, func(b ohrouter.Binding) bool { return b.Target == spec.Target }); i >= 0 {
		writeJSON(w, 200, "application/json", f.bindings[i])
		return
	}
	// A router's clock may be ahead.
	created := time.Date(2199, 1, 1, 0, 0, 0, 0, time.UTC)
	b := ohrouter.Binding{
		ID: fmt.Sprintf("b%d", len(f.bindings)+1), Target: spec.Target, Proxy: ohrouter.Optional(spec.Proxy), Host: "127.0.0.1",
		Port: 20000 + uint16(len(f.bindings)), State: ohrouter.BindingActive, CreatedAt: created, LastUsedAt: created,
		Allow: spec.Allow, MaxSessions: spec.MaxSessions, Labels: spec.Labels, ProxyProtocol: ohrouter.Optional(spec.ProxyProtocol),
	}
	if spec.Port != 0 {
		b.Port = spec.Port
	}
	if spec.IdleTimeout != nil {
		b.IdleTimeout = *spec.IdleTimeout
	}
	if spec.TTL != 0 {
		b.ExpiresAt = new(created.Add(time.Duration(spec.TTL)))
	}
	if spec.Check == nil || *spec.Check {
		b.LastCheck = &ohrouter.Check{OK: true}
	}
	b.Address = netip.AddrPortFrom(netip.MustParseAddr(b.Host), b.Port).String()
	f.bindings = append(f.bindings, b)
	writeJSON(w, 201, "application/json", b)
}

func (f *fakeAPI) list(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	found := []ohrouter.Binding{}
	for _, b := range f.bindings {
		target := r.FormValue("target")
		other := func(label string) bool {
			key, value, _ := strings.Cut(label, "=")
			return b.Labels[key] != value
		}
		if (target == "" || b.Target.String() == target) && !slices.ContainsFunc(r.Form["label"], other) {
			found = append(found, b)
		}
	}
	writeJSON(w, 200, "application/json", map[string]any{"bindings": found})
}

func (f *fakeAPI) unbind(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	i := slices.IndexFunc(f.bindings, func(b ohrouter.Binding) bool { return b.ID == r.PathValue("id") })
	if i < 0 {
		writeProblem(w, 404, ohrouter.NotFound, "no binding "+r.PathValue("id"))
		return
	}
	if r.FormValue("drain") != "" {
		f.bindings[i].State = ohrouter.BindingDraining
	} else {
		f.bindings = slices.Delete(f.bindings, i, i+1)
	}
	w.WriteHeader(http.StatusNoContent)
}

func sampleBinding() ohrouter.Binding {
	return ohrouter.Binding{
		ID: "b1", Target: ohrouter.Target{Host: "db.internal", Port: 3306}, Proxy: "default",
		Address: "127.0.0.1:20007", Host: "127.0.0.1", Port: 20007, State: ohrouter.BindingActive,
		LastUsedAt: time.Now().Add(-3*time.Minute - 30*time.Second), IdleTimeout: ohrouter.Duration(5 * time.Minute),
		Allow: []netip.Prefix{}, Labels: map[string]string{"team": "shop", "app": "web"},
		Sessions: 2, SessionsTotal: 7, BytesUp: 1536, BytesDown: 5 << 30,
		LastError: &ohrouter.Failure{Code: ohrouter.TargetTimeout, Message: "no answer", At: time.Now().Add(-150 * time.Minute)},
	}
}

func sampleSession() ohrouter.Session {
	return ohrouter.Session{
		ID: "s1", BindingID: "b1", Target: ohrouter.Target{Host: "db.internal", Port: 3306}, Resolved: "10.0.0.5:3306",
		Proxy: "default", Client: netip.MustParseAddrPort("127.0.0.1:50000"), StartedAt: time.Now().Add(-50 * time.Hour), BytesUp: 12,
	}
}

func sampleProxies() []ohrouter.Proxy {
	seen := time.Now().Add(-90 * time.Second)
	return []ohrouter.Proxy{
		{Name: "default", Address: "127.0.0.1:9000", State: ohrouter.ProxyUp, Links: 3, SeenAt: &seen},
		{Name: "far", Address: "10.9.9.9:9000", State: ohrouter.ProxyDown, LastError: &ohrouter.Failure{
			Code: ohrouter.ProxyUnreachable, Message: "connection refused", At: seen,
		}},
	}
}

func writeJSON(w http.ResponseWriter, status int, contentType string, v any) {
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v)
}

func writeProblem(w http.ResponseWriter, status int, code ohrouter.Code, detail string) {
	writeJSON(w, status, "application/problem+json", map[string]any{
		"status": status, "title": http.StatusText(status), "code": code, "detail": detail,
	})
}
