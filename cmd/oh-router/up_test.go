package main

import (
	"net/netip"
	"testing"
)

func TestReachable(t *testing.T) {
	for listens, want := range map[string]string{
		"127.0.0.2:1":          "127.0.0.2:1",
		"[::ffff:127.0.0.2]:1": "127.0.0.2:1",
		"[::1]:1":              "[::1]:1",
		"0.0.0.0:1":            "127.0.0.1:1",
		"[::]:1":               "127.0.0.1:1", // there may be no IPv6
	} {
		if got := reachable(netip.MustParseAddrPort(listens)).String(); got != want {
			t.Errorf("reachable(%s) = %s, want %s", listens, got, want)
		}
	}
}
