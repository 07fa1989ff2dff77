package main

import (
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ohrouter/oh-router/internal/config"
	"github.com/ohrouter/oh-router/internal/store/bolt"
)

// Tokens and "requester" guard a router that other machines reach, be it by its
// API or by its mapped ports.
func TestExposed(t *testing.T) {
	for _, tt := range []struct {
		listen, bind string
		want         bool
	}{
		{"127.0.0.1:8080", "127.0.0.1", false},
		{"[::1]:8080", "127.0.0.2", false},
		{"0.0.0.0:8443", "127.0.0.1", true},
		{"127.0.0.1:8443", "0.0.0.0", true},
		{"127.0.0.1:8443", "192.0.2.1", true},
	} {
		s := &routerServer{p: &process{cfg: config.Config{Router: config.Router{
			Listen: netip.MustParseAddrPort(tt.listen), BindAddress: netip.MustParseAddr(tt.bind),
		}}}}
		if got := s.exposed(); got != tt.want {
			t.Errorf("exposed with --listen %s --bind-address %s = %v, want %v", tt.listen, tt.bind, got, tt.want)
		}
	}
}

// What to do without a token can be pasted.
func TestNoTokens(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a b")
	store, err := bolt.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	var said strings.Builder
	s := &routerServer{store: store, p: &process{
		cfg: config.Config{Router: config.Router{Listen: netip.MustParseAddrPort("0.0.0.0:1"), State: dir}},
		log: slog.New(slog.NewTextHandler(&said, nil)),
	}}
	if _, err := s.openTokens(t.Context()); err != nil {
		t.Fatal(err)
	}
	if want := "--state '" + dir + "'"; !strings.Contains(said.String(), want) {
		t.Errorf("a router that nobody may call says %q, want %q in it", &said, want)
	}
	for word, want := range map[string]string{"/var/lib/x-1_2.y": "/var/lib/x-1_2.y", "": "", "it's": `'it'\''s'`, "$HOME": "'$HOME'"} {
		if got := shellWord(word); got != want {
			t.Errorf("shellWord(%s) = %s, want %s", word, got, want)
		}
	}
}
