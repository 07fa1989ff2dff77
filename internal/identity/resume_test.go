package identity

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"testing"
)

// TestLinksResume follows a router whose proxy restarts.
func TestLinksResume(t *testing.T) {
	by := ca(t)
	router, proxy := credentials(t, by, main1, nil), credentials(t, by, east, nil)
	links, server := router.Links("east"), proxy.LinkServer()
	var counts bool // what the handshake was
	link := func(again bool) (tls.ConnectionState, error) {
		settings, resumes := links.Settings(again)
		c, _ := shake(t, settings, server)
		counts = c.state.DidResume || !resumes
		return c.state, c.err
	}
	want := func(what string, state tls.ConnectionState, err error, resumed bool) {
		t.Helper()
		if err != nil || !counts || state.DidResume != resumed || (state.CurveID == tls.CurveP256) != resumed {
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
	if state, err := link(false); err != nil || state.DidResume || counts {
		t.Errorf("%v, resumed %v, counts %v; want a handshake that does not: it resumes nothing and has a curve alone", err, state.DidResume, counts)
	}
	state, err = link(true)
	want("the second attempt", state, err, false)
	state, err = link(false)
	want("from then on", state, err, true)
}

func settings(c *tls.Config, _ bool) *tls.Config { return c }

// A session that the proxy refuses to resume is not offered again.
func TestLinksForget(t *testing.T) {
	by := ca(t)
	router, proxy := credentials(t, by, main1, nil), credentials(t, by, east, nil)
	links, server := router.Links("east"), proxy.LinkServer()
	if c, _ := shake(t, settings(links.Settings(false)), server); c.err != nil {
		t.Fatal(c.err)
	}
	refuses := server.Clone()
	refuses.VerifyConnection = func(s tls.ConnectionState) error {
		if s.DidResume {
			return errors.New("not this session")
		}
		return server.VerifyConnection(s)
	}
	if c, _ := shake(t, settings(links.Settings(false)), refuses); c.err == nil {
		t.Fatal("the proxy resumes")
	}
	if c, _ := shake(t, settings(links.Settings(true)), refuses); c.err != nil || c.state.DidResume {
		t.Errorf("second attempt: %v, resumed %v; want a handshake of its own", c.err, c.state.DidResume)
	}
}

// TestLongChainsAreNotResumed has a router whose certificates are so long that
// a session with them in it would not get through.
func TestLongChainsAreNotResumed(t *testing.T) {
	by := ca(t)
	c, key := leaf(t, by, main1, func(c *x509.Certificate) {
		c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999, 1}, Value: make([]byte, 4000)}}
	})
	router, proxy := opened(t, Config{Files: bundle(t, key, c, by.cert), Role: main1.Role}), credentials(t, by, east, nil)
	links, server := router.Links("east"), proxy.LinkServer()
	for round := range 3 {
		if c, _ := shake(t, settings(links.Settings(false)), server); c.err != nil || c.state.DidResume {
			t.Errorf("round %d: resumed %v, %v; want a whole handshake", round, c.state.DidResume, c.err)
		}
	}
}
