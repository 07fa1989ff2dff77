package api

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestReady(t *testing.T) {
	store := Part{Name: "store", OK: true, Required: true}
	east := Part{Name: "proxy east", Detail: "127.0.0.1:9000", OK: true}
	down := Part{Name: "proxy west", Detail: "dial 127.0.0.1:9001:\nrefused"}
	draining := Part{Name: "binds", Detail: "draining", Required: true}
	for _, tt := range []struct {
		parts  []Part
		path   string
		status int
		body   string
	}{
		{nil, "/readyz", 200, "ok\n"},
		{nil, "/readyz?verbose", 200, "readyz check passed\n"},
		{[]Part{store, east, down}, "/readyz", 200, "ok\n"},
		{[]Part{store, east, down}, "/readyz?verbose", 200, "[+]store ok\n[+]proxy east ok: 127.0.0.1:9000\n[-]proxy west: dial 127.0.0.1:9001: refused\nreadyz check passed\n"},
		{[]Part{store, draining}, "/readyz", 503, "[+]store ok\n[-]binds: draining\nreadyz check failed\n"},
		{[]Part{store, draining}, "/livez", 200, "ok\n"},
	} {
		parts := func(context.Context) []Part { return tt.parts }
		for name, h := range map[string]http.Handler{
			"router": handler(t, oneBinding(), func(c *Config) { c.Parts = parts }),
			"proxy":  Health(parts, nil, nil),
		} {
			status, hd, body := call(t, serve(t, h), "GET "+tt.path, "")
			if status != tt.status || body != tt.body || hd.Get("Content-Type") != "text/plain; charset=utf-8" {
				t.Errorf("%s: GET %s = %d %q, want %d %q", name, tt.path, status, body, tt.status, tt.body)
			}
		}
	}
}

func TestHealthServesNothingElse(t *testing.T) {
	metrics := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("up 1\n")) })
	base := serve(t, Health(nil, metrics, nil))
	if _, _, body := call(t, base, "GET /metrics", ""); body != "up 1\n" {
		t.Errorf("GET /metrics = %q, want the metrics", body)
	}
	for what, want := range map[string]int{"GET /": 404, "GET /v1/bindings": 404, "GET /docs": 404, "POST /livez": 405} {
		status, h, body := call(t, base, what, "")
		if strings.Contains(body, "/docs") || status == 404 && !strings.Contains(body, "there are /livez, /readyz and /metrics") {
			t.Errorf("%s = %s, want it to say what there is", what, body)
		}
		if status != want || h.Get("Content-Type") != problemType {
			t.Errorf("%s = %d %s, want %d as a problem", what, status, h.Get("Content-Type"), want)
		}
	}
}

// A page whose name was led here gets neither metrics nor parts.
func TestHealthHost(t *testing.T) {
	metrics := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("up 1\n")) })
	parts := func(context.Context) []Part { return []Part{{Name: "links", OK: true, Detail: "secret"}} }
	h := Health(parts, metrics, []string{"Proxy.Example.", ""})
	for host, known := range map[string]bool{
		"localhost": true, "127.0.0.1:9100": true, "[::1]:9100": true, "192.0.2.1": true, "proxy.example:9100": true, "": true,
		"evil.example": false, "evil.example:9100": false, "proxy.example.evil": false,
	} {
		ask := func(path string) *httptest.ResponseRecorder {
			r := httptest.NewRequest("GET", path, nil)
			r.Host = host
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			return w
		}
		if w := ask("/metrics"); (w.Code == 200) != known || strings.Contains(w.Body.String(), "up 1") != known {
			t.Errorf("GET /metrics by the name %q = %d %q, want it known: %v", host, w.Code, w.Body, known)
		}
		if w := ask("/readyz?verbose"); w.Code != 200 || strings.Contains(w.Body.String(), "secret") != known {
			t.Errorf("GET /readyz by the name %q = %d %q, want the parts: %v", host, w.Code, w.Body, known)
		}
		if w := ask("/livez"); w.Code != 200 {
			t.Errorf("GET /livez by the name %q = %d", host, w.Code)
		}
	}
}
