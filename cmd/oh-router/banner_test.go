package main

import (
	"strings"
	"testing"

	"github.com/ohrouter/oh-router/client"
	"github.com/ohrouter/oh-router/internal/identity"
)

// What "up" prints to be tried works, whatever commands call that are told no
// server.
func TestBanner(t *testing.T) {
	state := t.TempDir()
	if _, err := identity.Init(state, nil); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		variable, want string
	}{
		{"OH_ROUTER_STATE=" + t.TempDir(), "oh-router bind HOST:PORT\n"},
		{"OH_ROUTER_STATE=" + state, "oh-router bind HOST:PORT --server http://127.0.0.1:8080\n"},
		{"OH_ROUTER_SERVER=http://192.0.2.1:8080", "oh-router bind HOST:PORT --server http://127.0.0.1:8080\n"},
	} {
		var said strings.Builder
		s := &upServer{p: &process{stderr: &said}}
		s.usual, _ = (&apiAccess{environ: []string{tt.variable}}).usual()
		if s.print(client.DefaultServer, nil); !strings.Contains(said.String(), tt.want) {
			t.Errorf("with %s:\n%s\nwant %q", tt.variable, &said, tt.want)
		}
	}
}
