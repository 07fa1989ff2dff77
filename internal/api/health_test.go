package api

import (
	"context"
	"net/http"
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
			"proxy":  Health(parts, nil),
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
	base := serve(t, Health(nil, metrics))
	if _, _, body := call(t, base, "GET /metrics", ""); body != "up 1\n" {
		t.Errorf("GET /metrics = %q, want the metrics", body)
	}
	for what, want := range map[string]int{"GET /": 404, "GET /v1/bindings": 404, "GET /docs": 404, "POST /livez": 405} {
		status, h, _ := call(t, base, what, "")
		if status != want || h.Get("Content-Type") != problemType {
			t.Errorf("%s = %d %s, want %d as a problem", what, status, h.Get("Content-Type"), want)
		}
	}
}
