package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// TestTryOut is the first thing that anybody does: a router, a proxy, and the
// router's own API as the target, so that no other server is needed.
func TestTryOut(t *testing.T) {
	t.Parallel()
	p := startPair(t)
	target := loopback(p.routerPort)

	for _, method := range []string{http.MethodGet, http.MethodPost} {
		body, err := call(t.Context(), method, p.url(fmt.Sprintf("/route/bind/127.0.0.1/%d", p.routerPort)))
		if err != nil {
			t.Fatal(err)
		}
		var answer map[string]any
		if err := json.Unmarshal(body, &answer); err != nil {
			t.Fatalf("%s: %v", body, err)
		}
		code, hasCode := answer["code"]
		message, hasMessage := answer["message"]
		if answer["success"] != true || !hasCode || code != nil || !hasMessage || message != nil {
			t.Errorf("%s of the bind call = %s, want success, a null code and a null message", method, body)
		}
	}

	mapped, err := p.bindByGet(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	want, err := call(t.Context(), http.MethodGet, p.url("/openapi.json"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := call(t.Context(), http.MethodGet, "http://"+mapped+"/openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("a page through %s has %d bytes, %d directly, and differs", mapped, len(got), len(want))
	}
	if address := p.bind(t, target); address != mapped {
		t.Errorf("oh-router bind prints %q, want %q as the call says", address, mapped)
	}

	stat, err := call(t.Context(), http.MethodGet, "http://"+mapped+"/route/queryServerBindStat")
	if err != nil {
		t.Fatal(err)
	}
	var bound struct {
		Success bool
		Data    []struct {
			RouteInfo, BindAddress struct {
				Host string
				Port int
			}
			ActiveChannelCount int
		}
	}
	if err := json.Unmarshal(stat, &bound); err != nil || !bound.Success || len(bound.Data) != 1 {
		t.Fatalf("queryServerBindStat = %s (%v), want one binding", stat, err)
	}
	b := bound.Data[0]
	if got := fmt.Sprintf("%s:%d", b.RouteInfo.Host, b.RouteInfo.Port); got != target {
		t.Errorf("its target = %s, want %s", got, target)
	}
	if got := fmt.Sprintf("%s:%d", b.BindAddress.Host, b.BindAddress.Port); got != mapped {
		t.Errorf("its address = %s, want %s", got, mapped)
	}
	if b.ActiveChannelCount < 1 {
		t.Errorf("its sessions = %d, want at least the one that asks", b.ActiveChannelCount)
	}
	if body, err := call(t.Context(), http.MethodGet, p.url("/route/bind/127.0.0.1/1")); err == nil || !strings.Contains(err.Error(), "ROUTE_ERROR") {
		t.Errorf("bind of a port where nothing listens = %s, %v, want ROUTE_ERROR", body, err)
	}
}
