package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net/url"
	"slices"
	"time"
)

// How long certificates are good. A router renews its own by itself. The life
// of a proxy's is what a machine may be off for without being enrolled again:
// it has a third of it left at least.
const (
	CALife     = 10 * 365 * 24 * time.Hour
	RouterLife = 7 * 24 * time.Hour
	ProxyLife  = 14 * 24 * time.Hour
)

// backdate is how far a clock may be behind the issuer's.
const backdate = time.Hour

// renewAfter returns when a certificate has spent two thirds of its life.
func renewAfter(c *x509.Certificate) time.Time {
	return c.NotBefore.Add(c.NotAfter.Sub(c.NotBefore) / 3 * 2)
}

// newKey makes a private key, as all that are made here are.
func newKey() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

// issuer signs certificates.
type issuer struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// newIssuer makes a CA that can sign leaves alone, and no other URI names than
// ours. Host names are not limited: those of a router may change.
func newIssuer(name string) (*issuer, error) {
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	cert, err := sign(&x509.Certificate{
		Subject:                     pkix.Name{CommonName: "oh-router CA of " + name},
		NotBefore:                   now.Add(-backdate),
		NotAfter:                    now.Add(CALife),
		BasicConstraintsValid:       true,
		IsCA:                        true,
		MaxPathLenZero:              true,
		KeyUsage:                    x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		ExtKeyUsage:                 []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		PermittedURIDomains:         []string{domain},
		PermittedDNSDomainsCritical: true, // the field's name notwithstanding, of all constraints
	}, nil, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return &issuer{cert, key}, nil
}

// ours tells whether a CA is as newIssuer makes them.
func ours(ca *x509.Certificate) bool {
	return ca.PermittedDNSDomainsCritical && slices.Equal(ca.PermittedURIDomains, []string{domain})
}

// order is what a leaf is to say.
type order struct {
	id        ID
	key       crypto.PublicKey
	life      time.Duration
	notBefore time.Time // no earlier than this
	hosts     hosts
}

// issue signs a leaf that is good for both ends of a connection.
func (i *issuer) issue(o order) (*x509.Certificate, error) {
	now := time.Now()
	leaf := &x509.Certificate{
		Subject:               pkix.Name{CommonName: o.id.String()}, // for people
		URIs:                  []*url.URL{o.id.url()},
		DNSNames:              o.hosts.names,
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(o.life),
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	for _, a := range o.hosts.addresses {
		leaf.IPAddresses = append(leaf.IPAddresses, a.AsSlice())
	}
	if leaf.NotBefore.Before(o.notBefore) {
		leaf.NotBefore = o.notBefore
	}
	if leaf.NotAfter.After(i.cert.NotAfter) {
		leaf.NotAfter = i.cert.NotAfter
	}
	return sign(leaf, i.cert, o.key, i.key)
}

// sign signs a certificate; a nil parent is itself.
func sign(template, parent *x509.Certificate, key crypto.PublicKey, by crypto.Signer) (*x509.Certificate, error) {
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key, by)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// newRequest returns a CSR for a key, in PEM form. It names nobody: the router
// knows who asks.
func newRequest(key crypto.Signer) (string, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return "", err
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: requestBlock, Bytes: der})), nil
}
