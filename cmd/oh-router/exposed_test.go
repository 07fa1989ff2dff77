package main

import (
	"net/netip"
	"testing"

	"github.com/ohrouter/oh-router/internal/config"
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
