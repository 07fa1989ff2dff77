package identity

import (
	"crypto/tls"
	"testing"
)

// TestLinksResume follows a router whose proxy restarts.
func TestLinksResume(t *testing.T) {
	by := ca(t)
	router, proxy := credentials(t, by, main1, nil), credentials(t, by, east, nil)
	links, server := router.Links("east"), proxy.LinkServer()
	link := func(again bool) (tls.ConnectionState, error) {
		c, _ := shake(t, links.Settings(again), server)
		return c.state, c.err
	}
	want := func(what string, state tls.ConnectionState, err error, resumed bool) {
		t.Helper()
		if err != nil || state.DidResume != resumed || (state.CurveID == tls.CurveP256) != resumed {
			t.Errorf("%s: resumed %v with %v, %v; want resumed %v, and P-256 only then", what, state.DidResume, state.CurveID, err, resumed)
		}
	}
	state, err := link(false)
	want("the first link", state, err, false)
	for range 2 {
		state, err = link(false)
		want("the next", state, err, true)
	}

	server = proxy.LinkServer() // it has restarted: nobody has the former sessions' keys
	if _, err := link(false); err == nil {
		t.Error("a curve alone was enough for a handshake that resumes nothing")
	}
	state, err = link(true)
	want("the second attempt", state, err, false)
	state, err = link(false)
	want("from then on", state, err, true)
}

// A session that the proxy refuses to resume is not offered again.
func TestLinksForget(t *testing.T) {
	by := ca(t)
	router, proxy := credentials(t, by, main1, nil), credentials(t, by, east, nil)
	links, server := router.Links("east"), proxy.LinkServer()
	if c, _ := shake(t, links.Settings(false), server); c.err != nil {
		t.Fatal(c.err)
	}
	refuses := server.Clone()
	refuses.VerifyConnection = func(s tls.ConnectionState) error {
		if s.DidResume {
			return errNotResumed
		}
		return server.VerifyConnection(s)
	}
	if c, _ := shake(t, links.Settings(false), refuses); c.err == nil {
		t.Fatal("the proxy resumes")
	}
	if c, _ := shake(t, links.Settings(true), refuses); c.err != nil || c.state.DidResume {
		t.Errorf("second attempt: %v, resumed %v; want a handshake of its own", c.err, c.state.DidResume)
	}
}
