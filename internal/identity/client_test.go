package identity

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"net/url"
	"strings"
	"testing"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
)

// organisation makes a CA as an organisation has one for all of its servers.
func organisation(t testing.TB) *issuer {
	t.Helper()
	key, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "organisation"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCertSign,
	}, nil, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return &issuer{cert, key}
}

// TestClientTLS has what a caller of the API takes for its router.
func TestClientTLS(t *testing.T) {
	own, theirs := ca(t), organisation(t)
	named := func(c *x509.Certificate) { c.DNSNames = []string{"router.example"} }
	webServer := func(c *x509.Certificate) { named(c); c.URIs = nil }
	foreignURI := func(c *x509.Certificate) {
		named(c)
		c.URIs = []*url.URL{{Scheme: "spiffe", Host: domain, Path: "/web/x"}}
	}
	ended := func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	}
	for _, tt := range []struct {
		name  string
		trust []*x509.Certificate
		by    *issuer
		id    ID
		leaf  func(*x509.Certificate)
		say   string // "" is let in
	}{
		{"ours, without the host's name", []*x509.Certificate{own.cert}, own, main1, nil, ""},
		{"ours, of a proxy", []*x509.Certificate{own.cert}, own, east, named, "a router is wanted here"},
		{"ours, of nobody", []*x509.Certificate{own.cert}, own, main1, foreignURI, "is not of oh-router"},
		{"theirs, where ours is trusted", []*x509.Certificate{own.cert}, theirs, main1, named, "look whether it is the right router, and name the file of its own CA with --ca-file"},
		{"ours, ended", []*x509.Certificate{own.cert}, own, main1, ended, "stop that router, run 'oh-router ca init' on its machine"},
		{"theirs, with the host's name", []*x509.Certificate{theirs.cert}, theirs, main1, named, ""},
		{"theirs, of a web server", []*x509.Certificate{theirs.cert}, theirs, main1, webServer, ""},
		{"theirs, of a router that is called otherwise", []*x509.Certificate{theirs.cert}, theirs, main1, nil, "router.example"},
		{"both, ours without the host's name", []*x509.Certificate{own.cert, theirs.cert}, own, main1, nil, "router.example"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg, err := ClientTLS(certificatePEM(tt.trust...))
			if err != nil {
				t.Fatal(err)
			}
			cfg = cfg.Clone()
			cfg.ServerName = "router.example"
			c, key := leaf(t, tt.by, tt.id, tt.leaf)
			got, _ := shake(t, cfg, &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{c.Raw}, PrivateKey: key}}})
			if tt.say == "" && got.err != nil || tt.say != "" && (got.err == nil || !strings.Contains(got.err.Error(), tt.say)) {
				t.Errorf("error %v, want it to say %q", got.err, tt.say)
			}
		})
	}
	c, _ := leaf(t, own, main1, nil)
	for _, pem := range []string{"", "nonsense", string(certificatePEM(c))} {
		if _, err := ClientTLS([]byte(pem)); ohrouter.CodeOf(err) != ohrouter.InvalidRequest {
			t.Errorf("ClientTLS(%.20q) = %v, want %s", pem, err, ohrouter.InvalidRequest)
		}
	}
}
