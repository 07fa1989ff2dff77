package identity

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
)

var (
	main1 = ID{Router, "main"}
	east  = ID{Proxy, "east"}
	west  = ID{Proxy, "west"}
)

func TestLink(t *testing.T) {
	by := ca(t)
	router, proxy := credentials(t, by, main1, nil), credentials(t, by, east, nil)
	client, server := router.LinkClient("east"), proxy.LinkServer()
	for round := range 3 {
		c, s := shake(t, client, server)
		if c.err != nil || s.err != nil {
			t.Fatalf("round %d: %v, %v, want a link", round, c.err, s.err)
		}
		if c.state.Version != tls.VersionTLS13 || c.state.NegotiatedProtocol != ALPN || c.state.DidResume != (round > 0) {
			t.Errorf("round %d: version %x, protocol %q, resumed %v", round, c.state.Version, c.state.NegotiatedProtocol, c.state.DidResume)
		}
		for who, state := range map[ID]tls.ConnectionState{east: c.state, main1: s.state} {
			if id, err := peerOf(state); id != who || err != nil {
				t.Errorf("round %d: peer %v, %v, want %v", round, id, err, who)
			}
		}
	}
	if c, s := shake(t, router.LinkClient(""), server); c.err != nil || s.err != nil {
		t.Errorf("link to a proxy without a name: %v, %v", c.err, s.err)
	}
}

// TestLinkRefused has every way in which one side is not who the other wants.
// The client is a router, the server a proxy.
func TestLinkRefused(t *testing.T) {
	by, other := ca(t), ca(t)
	router, proxy := credentials(t, by, main1, nil), credentials(t, by, east, nil)
	with := func(cfg *tls.Config, change func(*tls.Config)) *tls.Config {
		change(cfg)
		return cfg
	}
	// pair makes settings with a certificate that Open would not take.
	pair := func(by *issuer, id ID, change func(*x509.Certificate), fillers ...*x509.Certificate) *tls.Certificate {
		c, key := leaf(t, by, id, change)
		p := &tls.Certificate{Certificate: [][]byte{c.Raw}, PrivateKey: key}
		for _, f := range fillers {
			p.Certificate = append(p.Certificate, f.Raw)
		}
		return p
	}
	server := func(p *tls.Certificate) *tls.Config {
		return with(proxy.LinkServer(), func(cfg *tls.Config) {
			cfg.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return p, nil }
		})
	}
	client := func(p *tls.Certificate) *tls.Config {
		return with(router.LinkClient("east"), func(cfg *tls.Config) {
			cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return p, nil }
		})
	}
	uris := func(texts ...string) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			c.URIs = nil
			for _, text := range texts {
				u, err := url.Parse(text)
				if err != nil {
					t.Fatal(err)
				}
				c.URIs = append(c.URIs, u)
			}
		}
	}
	ended := func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	}
	early := func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }
	usage := func(u ...x509.ExtKeyUsage) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.ExtKeyUsage = u }
	}
	eastLeaf, _ := leaf(t, by, east, nil)
	good := proxy.LinkServer()

	tests := []struct {
		name           string
		client, server *tls.Config
		atServer       bool // who says why
		say            string
	}{
		{"proxy of another CA", router.LinkClient("east"), server(pair(other, east, nil)), false, "proxy/east is not signed by the CA that is trusted here"},
		{"router of another CA", client(pair(other, main1, nil)), good, true, "router/main is not signed by the CA"},
		{"TLS 1.2 client", &tls.Config{MaxVersion: tls.VersionTLS12, InsecureSkipVerify: true, NextProtos: []string{ALPN}}, good, true, "unsupported versions"},
		{"TLS 1.2 server", router.LinkClient("east"), &tls.Config{MaxVersion: tls.VersionTLS12, Certificates: []tls.Certificate{*pair(by, east, nil)}}, false, "protocol version"},
		{"no client certificate", &tls.Config{InsecureSkipVerify: true, NextProtos: []string{ALPN}}, good, true, "the peer sent no certificate: enrol it"},
		{"another proxy", router.LinkClient("west"), good, false, "the peer is proxy/east, not proxy/west"},
		{"claims to be east with a leaf for west", router.LinkClient("east"), server(pair(by, west, nil, eastLeaf)), false, "the peer is proxy/west, not proxy/east"},
		{"router as proxy", router.LinkClient(""), server(pair(by, main1, nil)), false, "the peer is router/main, and a proxy is wanted"},
		{"proxy as router", client(pair(by, east, nil)), good, true, "the peer is proxy/east, and a router is wanted"},
		{"CA as proxy", router.LinkClient("east"), server(&tls.Certificate{Certificate: [][]byte{by.cert.Raw}, PrivateKey: by.key}), false, "0 URI names"},
		{"two names", router.LinkClient("east"), server(pair(by, east, uris("spiffe://oh-router/proxy/east", "spiffe://oh-router/proxy/west"))), false, "2 URI names"},
		{"no name", router.LinkClient("east"), server(pair(by, east, uris())), false, "0 URI names"},
		{"escaped name", router.LinkClient("east"), server(pair(by, east, uris("spiffe://oh-router/proxy/%65ast"))), false, "not of oh-router"},
		{"another domain", router.LinkClient("east"), server(pair(by, east, uris("spiffe://example/proxy/east"))), false, "may sign it"},
		{"port in the name", router.LinkClient("east"), server(pair(by, east, uris("spiffe://oh-router:1/proxy/east"))), false, "not of oh-router"},
		{"expired", router.LinkClient("east"), server(pair(by, east, ended)), false, "ended at"},
		{"expired router", client(pair(by, main1, ended)), good, true, "ended at"},
		{"not begun", router.LinkClient("east"), server(pair(by, east, early)), false, "still to come"},
		{"no use as server", router.LinkClient("east"), server(pair(by, east, usage(x509.ExtKeyUsageClientAuth))), false, "not for this use"},
		{"no use as client", client(pair(by, main1, usage(x509.ExtKeyUsageServerAuth))), good, true, "not for this use"},
		{"no protocol from the client", with(router.LinkClient("east"), func(c *tls.Config) { c.NextProtos = nil; c.VerifyConnection = nil }), good, true, "does not speak oh-router/1"},
		{"another protocol", with(router.LinkClient("east"), func(c *tls.Config) { c.NextProtos = []string{"h2"} }), good, true, "unsupported application protocols"},
		{"no protocol from the server", router.LinkClient("east"), with(server(pair(by, east, nil)), func(c *tls.Config) { c.NextProtos = nil; c.VerifyConnection = nil }), false, "does not speak oh-router/1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, s := shake(t, tt.client, tt.server)
			if c.err == nil || s.err == nil {
				t.Fatalf("client: %v, server: %v, want both refused", c.err, s.err)
			}
			err := c.err
			if tt.atServer {
				err = s.err
			}
			if !strings.Contains(err.Error(), tt.say) {
				t.Errorf("error %q, want it to say %q", err, tt.say)
			}
		})
	}
}

// TestFillers shows that certificates behind the leaf change nothing.
func TestFillers(t *testing.T) {
	by, other := ca(t), ca(t)
	router, proxy := credentials(t, by, main1, nil), credentials(t, by, east, nil)
	c, key := leaf(t, by, east, nil)
	p := &tls.Certificate{Certificate: [][]byte{c.Raw}, PrivateKey: key}
	westLeaf, _ := leaf(t, by, west, nil)
	for range 20 {
		p.Certificate = append(p.Certificate, westLeaf.Raw, other.cert.Raw)
	}
	server := proxy.LinkServer()
	server.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return p, nil }
	got, _ := shake(t, router.LinkClient("east"), server)
	if id, err := peerOf(got.state); got.err != nil || id != east || err != nil {
		t.Errorf("link to a leaf of east with fillers: %v, peer %v, %v", got.err, id, err)
	}
	if got, _ := shake(t, router.LinkClient("west"), server); got.err == nil {
		t.Error("link to west with its leaf as a filler = nil, want an error")
	}
}

// TestIntermediate has an organisation's own chain.
func TestIntermediate(t *testing.T) {
	root := ca(t)
	root.cert.MaxPathLen, root.cert.MaxPathLenZero = -1, false
	root.cert.SerialNumber = nil
	cert, err := sign(root.cert, nil, root.key.Public(), root.key)
	if err != nil {
		t.Fatal(err)
	}
	root.cert = cert
	key, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	template := *root.cert
	template.SerialNumber, template.RawSubject, template.Subject.CommonName, template.SubjectKeyId = nil, nil, "middle", nil
	middle := &issuer{key: key}
	if middle.cert, err = sign(&template, root.cert, key.Public(), root.key); err != nil {
		t.Fatal(err)
	}
	own := func(id ID) *Credentials {
		c, key := leaf(t, middle, id, nil)
		files := bundle(t, key, c, middle.cert)
		files.CA = bundle(t, key, root.cert).CA
		return opened(t, Config{Files: files, Role: id.Role})
	}
	c, s := shake(t, own(main1).LinkClient("east"), own(east).LinkServer())
	if c.err != nil || s.err != nil {
		t.Errorf("link with an intermediate: %v, %v", c.err, s.err)
	}
}

// TestResumedRevoked revokes a proxy that has sessions to resume.
func TestResumedRevoked(t *testing.T) {
	by := ca(t)
	list, err := LoadRevocations(t.Context(), newMemory())
	if err != nil {
		t.Fatal(err)
	}
	router, proxy := credentials(t, by, main1, list.Revoked), credentials(t, by, east, nil)
	client, server := router.LinkClient("east"), proxy.LinkServer()
	shake(t, client, server)
	if c, _ := shake(t, client, server); c.err != nil || !c.state.DidResume {
		t.Fatalf("second link: %v, resumed %v, want a resumed one", c.err, c.state.DidResume)
	}
	changed := list.Changed()
	if err := list.Revoke(t.Context(), "east"); err != nil {
		t.Fatal(err)
	}
	select {
	case <-changed:
	default:
		t.Error("Revoke told nobody")
	}
	c, _ := shake(t, client, server)
	wantSentence(t, c.err, ohrouter.Unauthorized, "certificate of proxy/east has been revoked")
	if !errors.Is(c.err, ErrRevoked) {
		t.Errorf("error %v is not ErrRevoked", c.err)
	}
}

// TestResumedOtherCA takes trust away from the CA of a proxy that has sessions
// to resume.
func TestResumedOtherCA(t *testing.T) {
	by, next := ca(t), ca(t)
	c, key := leaf(t, by, main1, nil)
	files := bundle(t, key, c, by.cert)
	router, proxy := opened(t, Config{Files: files, Role: Router}), credentials(t, by, east, nil)
	client, server := router.LinkClient("east"), proxy.LinkServer()
	shake(t, client, server)
	c, key = leaf(t, next, main1, nil)
	writeBundle(t, files.Cert, key, c, next.cert)
	router.refresh()
	got, _ := shake(t, client, server)
	wantSentence(t, got.err, ohrouter.Unauthorized, "not signed by the CA")
}

// TestResumedExpired lets certificates end that have sessions to resume.
func TestResumedExpired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		by := ca(t)
		router, proxy := credentials(t, by, main1, nil), credentials(t, by, east, nil)
		client, server := router.LinkClient("east"), proxy.LinkServer()
		pipe := func() (c, s side) {
			a, b := bufferedPipe()
			done := make(chan side)
			go func() { defer b.Close(); done <- meet(tls.Server(b, server), true) }()
			c = meet(tls.Client(a, client), false)
			a.Close()
			return c, <-done
		}
		pipe()
		if c, s := pipe(); c.err != nil || s.err != nil || !c.state.DidResume {
			t.Fatalf("second link: %v, %v, resumed %v, want a resumed one", c.err, s.err, c.state.DidResume)
		}
		time.Sleep(time.Hour + time.Second)
		c, _ := pipe()
		wantSentence(t, c.err, ohrouter.Unauthorized, "the certificate of proxy/east ended at")
	})
}

func TestHTTPS(t *testing.T) {
	by, other := ca(t), ca(t)
	list, err := LoadRevocations(t.Context(), newMemory())
	if err != nil {
		t.Fatal(err)
	}
	router := credentials(t, by, main1, list.Revoked)
	if err := list.Revoke(t.Context(), "west"); err != nil {
		t.Fatal(err)
	}
	ours, err := ClientTLS(certificatePEM(by.cert))
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := ClientTLS(certificatePEM(other.cert))
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name     string
		client   *tls.Config
		peer     ID
		atServer bool
		say      string // "" is let in
	}{
		{"nobody", ours, ID{}, false, ""},
		{"nobody, again", ours, ID{}, false, ""},
		{"who trusts another CA", theirs, ID{}, false, "not signed by the CA"},
		{"a proxy", credentials(t, by, east, nil).HTTPSClient(), east, false, ""},
		{"a revoked proxy", credentials(t, by, west, nil).HTTPSClient(), west, true, "has been revoked"},
		{"TLS 1.2", &tls.Config{MaxVersion: tls.VersionTLS12, InsecureSkipVerify: true}, ID{}, true, "unsupported versions"},
	}
	server := router.HTTPSServer()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, s := shake(t, tt.client, server)
			err := c.err
			if tt.atServer {
				err = s.err
			}
			if tt.say != "" {
				if err == nil || !strings.Contains(err.Error(), tt.say) {
					t.Errorf("error %v, want it to say %q", err, tt.say)
				}
				return
			}
			if id, perr := peerOf(s.state); err != nil || perr != nil || id != tt.peer {
				t.Errorf("error %v, peer %v (%v), want %v", err, id, perr, tt.peer)
			}
		})
	}
	// A browser with ours as its CA, and a certificate of another one.
	c, key := leaf(t, other, east, nil)
	roots := x509.NewCertPool()
	roots.AddCert(by.cert)
	cfg := &tls.Config{RootCAs: roots, ServerName: "127.0.0.1", Certificates: []tls.Certificate{{Certificate: [][]byte{c.Raw}, PrivateKey: key, Leaf: c}}}
	if got, _ := shake(t, cfg, server); got.err == nil {
		t.Error("a client that wants a host name of a certificate without any is let in")
	}
	cfg.RootCAs, cfg.InsecureSkipVerify = nil, true
	if got, s := shake(t, cfg, server); got.err != nil || s.err != nil || len(s.state.PeerCertificates) > 0 {
		t.Errorf("a client with somebody else's certificate: %v, %v, sent %d certificates: want none asked for", got.err, s.err, len(s.state.PeerCertificates))
	}
	cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cfg.Certificates[0], nil }
	if _, s := shake(t, cfg, server); s.err == nil || !strings.Contains(s.err.Error(), "not signed by the CA") {
		t.Errorf("a client that sends somebody else's certificate all the same: %v, want it refused", s.err)
	}
}

// TestExplain has what one side hears of the other's refusal.
func TestExplain(t *testing.T) {
	by, other := ca(t), ca(t)
	router, proxy := credentials(t, by, main1, nil), credentials(t, by, east, nil)
	c, _ := shake(t, credentials(t, other, main1, nil).LinkClient("east"), proxy.LinkServer())
	wantSentence(t, c.err, ohrouter.Unauthorized, "not signed by the CA")
	if !errors.Is(Explain(c.err), c.err) || Explain(nil) != nil {
		t.Error("Explain changes what is clear")
	}
	skip := router.LinkClient("east")
	stranger, key := leaf(t, other, main1, nil)
	skip.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return &tls.Certificate{Certificate: [][]byte{stranger.Raw}, PrivateKey: key}, nil
	}
	bare := router.LinkClient("east")
	bare.GetClientCertificate = nil
	foreign := router.LinkClient("east")
	foreign.NextProtos = []string{"h2"}
	old := &tls.Config{MaxVersion: tls.VersionTLS12, InsecureSkipVerify: true}
	for name, tt := range map[string]struct {
		client *tls.Config
		say    string
	}{
		"refused":  {skip, "does not accept the certificate of this machine"},
		"none":     {bare, "does not accept the certificate of this machine"},
		"protocol": {foreign, "the peer serves something else there"},
		"version":  {old, "1.3 is needed"},
	} {
		c, _ := shake(t, tt.client, proxy.LinkServer())
		wantSentence(t, Explain(c.err), ohrouter.Unauthorized, tt.say)
		if !errors.Is(Explain(c.err), c.err) {
			t.Errorf("%s: Explain cuts the chain", name)
		}
	}
	a, b := net.Pipe()
	go func() { defer b.Close(); _, _ = b.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n")) }()
	go func() { _, _ = b.Read(make([]byte, 4096)) }()
	err := tls.Client(a, router.LinkClient("east")).Handshake()
	a.Close()
	wantSentence(t, Explain(err), ohrouter.Unauthorized, "does not speak TLS")
}

func BenchmarkHandshake(b *testing.B) {
	by := ca(b)
	router, proxy := credentials(b, by, main1, nil), credentials(b, by, east, nil)
	for name, resume := range map[string]bool{"full": false, "resumed": true} {
		b.Run(name, func(b *testing.B) {
			client, server := router.LinkClient("east"), proxy.LinkServer()
			if !resume {
				client.ClientSessionCache = nil
			}
			shake(b, client, server)
			for b.Loop() {
				if c, s := shake(b, client, server); c.err != nil || s.err != nil || c.state.DidResume != resume {
					b.Fatalf("%v, %v, resumed %v", c.err, s.err, c.state.DidResume)
				}
			}
		})
	}
}

// peerOf returns who is at the other end of a connection; the zero ID of one
// that has sent no certificate.
func peerOf(s tls.ConnectionState) (ID, error) {
	if len(s.PeerCertificates) == 0 {
		return ID{}, nil
	}
	return Of(s.PeerCertificates[0])
}
