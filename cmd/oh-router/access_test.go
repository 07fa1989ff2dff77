package main

import (
	"net"
	"net/netip"
	"os"
	"testing"
)

// The token of this machine's router goes to this machine, whichever of its names
// and addresses is called, and only encrypted.
func TestOnThisMachine(t *testing.T) {
	tests := map[string]bool{
		"https://127.0.0.1:8443": true, "https://[::1]:8443": true, "https://localhost": true, "https://127.9.9.9": true,
		"http://127.0.0.1:8443": false, "https://192.0.2.1": false, "https://router.invalid": false, "https://localhost.invalid": false,
		"https://": false, "": false, "127.0.0.1:8443": false, "https://[::ffff:127.0.0.1]:8443": true,
	}
	if name, err := os.Hostname(); err == nil {
		tests["https://"+name+":8443"] = true
		tests["http://"+name+":8443"] = false
	}
	own, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range own {
		p := netip.MustParsePrefix(a.String())
		tests["https://"+netip.AddrPortFrom(p.Addr(), 8443).String()] = true
	}
	for server, want := range tests {
		if got := onThisMachine(server); got != want {
			t.Errorf("onThisMachine(%q) = %v, want %v", server, got, want)
		}
	}
}
