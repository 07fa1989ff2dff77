package link

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"testing"
	"time"
)

// certs are a CA and what it has signed, for links with TLS.
type certs struct {
	pool          *x509.CertPool
	router, proxy tls.Certificate
}

func newCerts(t testing.TB) certs {
	t.Helper()
	key := newKey(t)
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	root := signed(t, ca, ca, key, key)
	c := certs{pool: x509.NewCertPool()}
	c.pool.AddCert(root.Leaf)
	for i, to := range []*tls.Certificate{&c.router, &c.proxy} {
		leaf := &x509.Certificate{
			SerialNumber: big.NewInt(int64(2 + i)), NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
			DNSNames: []string{"link.test"}, KeyUsage: x509.KeyUsageDigitalSignature,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		}
		*to = signed(t, leaf, ca, newKey(t), key)
	}
	return c
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func signed(t testing.TB, cert, by *x509.Certificate, key, signer *ecdsa.PrivateKey) tls.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, cert, by, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// server returns the settings of a proxy.
func (c certs) server() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"oh-router/1"},
		Certificates: []tls.Certificate{c.proxy}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: c.pool,
	}
}

// client returns the settings of a router.
func (c certs) client() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"oh-router/1"}, ServerName: "link.test",
		Certificates: []tls.Certificate{c.router}, RootCAs: c.pool,
	}
}

// always makes the same settings for every attempt.
func always(c *tls.Config) func(Proxy, bool) (*tls.Config, bool) {
	return func(Proxy, bool) (*tls.Config, bool) { return c, false }
}
