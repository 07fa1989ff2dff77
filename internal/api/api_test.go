package api

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	ohrouter "github.com/ohrouter/oh-router"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bindings answers as it is told and notes what it was asked.
type bindings struct {
	list    []ohrouter.Binding
	created bool
	err     error
	bound   func(context.Context) // called by Bind, if not nil
	ending  func()                // called by ReleaseOwned, if not nil

	mu    sync.Mutex // guards what follows
	spec  ohrouter.BindingSpec
	patch ohrouter.BindingPatch
	id    string
	drain time.Duration
	ended []string // owners whose bindings were released
}

func (f *bindings) Bind(ctx context.Context, spec ohrouter.BindingSpec) (ohrouter.Binding, bool, error) {
	if f.bound != nil {
		f.bound(ctx)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.spec = spec
	if f.err != nil {
		return ohrouter.Binding{}, false, f.err
	}
	return f.list[0], f.created, nil
}

func (f *bindings) Bindings() []ohrouter.Binding { return f.list }

func (f *bindings) Binding(id string) (ohrouter.Binding, error) {
	for _, b := range f.list {
		if b.ID == id {
			return b, nil
		}
	}
	return ohrouter.Binding{}, ohrouter.Errorf(ohrouter.NotFound, "there is no binding %s", id)
}

func (f *bindings) Patch(_ context.Context, id string, p ohrouter.BindingPatch) (ohrouter.Binding, error) {
	f.mu.Lock()
	f.patch = p
	f.mu.Unlock()
	return f.Binding(id)
}

func (f *bindings) Release(_ context.Context, id string, drain time.Duration) error {
	f.mu.Lock()
	f.id, f.drain = id, drain
	f.mu.Unlock()
	_, err := f.Binding(id)
	return err
}

func (f *bindings) ReleaseOwned(_ context.Context, owner string) error {
	if f.ending != nil {
		f.ending()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ended = append(f.ended, owner)
	return nil
}

// sessions is one session of one binding.
type sessions []ohrouter.Session

func (f sessions) Sessions(id string) (list []ohrouter.Session) {
	for _, s := range f {
		if id == "" || s.BindingID == id {
			list = append(list, s)
		}
	}
	return list
}

func (f sessions) Session(id string) (ohrouter.Session, error) {
	for _, s := range f {
		if s.ID == id {
			return s, nil
		}
	}
	return ohrouter.Session{}, ohrouter.Errorf(ohrouter.NotFound, "there is no session %s", id)
}

func (f sessions) Kill(id string) error {
	for _, s := range f {
		if s.ID == id {
			return nil
		}
	}
	return ohrouter.Errorf(ohrouter.NotFound, "there is no session %s", id)
}

var epoch = time.Date(2026, 5, 4, 9, 30, 0, 0, time.UTC)

// oneBinding returns a fake with an active and a draining binding.
func oneBinding() *bindings {
	return &bindings{list: []ohrouter.Binding{
		{
			ID: "b1", Target: ohrouter.Target{Host: "db.internal", Port: 3306}, Proxy: "east", Port: 20007,
			State: ohrouter.BindingActive, CreatedAt: epoch, LastUsedAt: epoch, IdleTimeout: ohrouter.Duration(5 * time.Minute),
			Labels: map[string]string{"team": "web"}, Sessions: 2,
		},
		{
			ID: "b2", Target: ohrouter.Target{Host: "2001:db8::1", Port: 22}, Port: 20008,
			State: ohrouter.BindingDraining, CreatedAt: epoch, LastUsedAt: epoch,
		},
	}}
}

// handler returns the API over the fake.
func handler(t testing.TB, b *bindings, change ...func(*Config)) http.Handler {
	t.Helper()
	cfg := Config{
		Bindings: b,
		Sessions: sessions{},
		Proxies:  func() []ohrouter.Proxy { return nil },
	}
	for _, c := range change {
		c(&cfg)
	}
	h, err := New(cfg)
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	return h
}

// serve returns the base URL of a running server with the limits of Server.
func serve(t testing.TB, h http.Handler) string {
	t.Helper()
	s := httptest.NewUnstartedServer(nil)
	s.Config = Server(h)
	s.Start()
	t.Cleanup(s.Close)
	return s.URL
}

// call makes a request of "METHOD PATH" and returns status, headers and body.
func call(t testing.TB, base, what, body string, headers ...string) (int, http.Header, string) {
	t.Helper()
	method, path, _ := strings.Cut(what, " ")
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, base+path, r)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	tr := &http.Transport{DisableKeepAlives: true}
	resp, err := tr.RoundTrip(req) // redirects are answers here
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s: read the answer: %v", what, err)
	}
	return resp.StatusCode, resp.Header, string(b)
}

// wantJSON compares an answer with JSON whose layout does not matter.
func wantJSON(t testing.TB, what, got, want string) {
	t.Helper()
	var g, w any
	if err := json.Unmarshal([]byte(got), &g); err != nil {
		t.Fatalf("%s = %q: %v", what, got, err)
	}
	if err := json.Unmarshal([]byte(want), &w); err != nil {
		t.Fatalf("want of %s: %v", what, err)
	}
	if d := cmp.Diff(w, g); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}
