//go:build linux

package conformance

import (
	"net/http"
	"testing"
)

// Another proxy takes over for what may be served by any.
func TestSecondProxyTakesOver(t *testing.T) {
	t.Parallel()
	a, b := start(t, flags{}), start(t, flags{})
	s := start(t, flags{proxies: []string{"east=" + a.link, "west=" + b.link}})
	tg := serve(t, echo)
	bound := s.bind(t, tg.addr)
	pinned := s.bind(t, serve(t, echo).addr, fields{"proxy": "west"})
	if pinned.Proxy != "west" {
		t.Errorf("binding = %+v, want proxy west", pinned)
	}
	wantEcho(t, connect(t, pinned.Address))
	a.proxy.kill()
	for i := range 4 {
		if err := shortSession(bound.Address); err != nil {
			t.Errorf("session %d with one of two proxies down: %v", i, err)
		}
	}
	b.proxy.kill()
	a.startProxy(t)
	wantEcho(t, connect(t, bound.Address))
	wantResetAt(t, pinned.Address)
	got := map[string]string{}
	for _, p := range decode[struct {
		Proxies []struct{ Name, Address, State string }
	}](t, s.want(t, 200, "", http.MethodGet, "/v1/proxies", nil)).Proxies {
		got[p.Name] = p.Address
	}
	if got["east"] != a.link || got["west"] != b.link {
		t.Errorf("proxies = %v, want east %s and west %s", got, a.link, b.link)
	}
}
