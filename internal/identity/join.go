package identity

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	ohrouter "github.com/ohrouter/oh-router"
)

// Join makes a machine a proxy of the router whose API has a URL: with an
// enrolment token it gets a certificate for a key that it makes and never gives
// away, and keeps both, the CA and the URL in a state directory, in place of
// what was there. The token says which CA the router has to be of; it is sent to
// no other.
func Join(ctx context.Context, router, tokenText, state string) (*x509.Certificate, error) {
	t, err := parseToken(tokenText)
	if err != nil {
		return nil, err
	}
	if router, err = parseRouter(router); err != nil {
		return nil, err
	}
	dir, err := makeFolder(state)
	if err != nil {
		return nil, err
	}
	// The token must not be spent for what cannot be kept.
	if err := writable(dir); err != nil {
		return nil, fmt.Errorf("keep a certificate in %s: %w", dir, err)
	}
	key, err := newKey()
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	csr, err := newRequest(key)
	if err != nil {
		return nil, fmt.Errorf("make a certificate request: %w", err)
	}
	answer, err := call(ctx, pinned(t.ca), router+EnrolPath, ohrouter.Enrolment{Token: tokenText, Request: csr})
	if err != nil {
		return nil, err
	}
	leaf, ca, err := accept(answer, key, t.ca)
	if err != nil {
		return nil, strange(router, err)
	}
	if err := writeFile(filepath.Join(dir, addressFile), []byte(router+"\n")); err != nil {
		return nil, fmt.Errorf("write the router's URL: %w", err)
	}
	return leaf, keep(dir, key, leaf, ca)
}

// writable tells whether a folder takes files.
func writable(dir string) error {
	temp, err := writeTemp(filepath.Join(dir, proxyFile), make([]byte, maxSent))
	if err != nil {
		return err
	}
	return os.Remove(temp)
}

// pinned returns the settings for a call to a router of which only its CA's
// fingerprint is known. The router sends the CA along.
func pinned(ca fingerprint) *tls.Config {
	return dialling(func(s tls.ConnectionState) error {
		i := slices.IndexFunc(s.PeerCertificates, func(c *x509.Certificate) bool { return fingerprintOf(c) == ca && c.IsCA })
		if i < 1 { // the first is the router's own
			return ohrouter.Errorf(ohrouter.Unauthorized,
				"whoever answers there is not of the CA that the enrolment token is for (SHA-256 %v): look at the URL, and whether something between ends TLS", ca)
		}
		return newTrust(s.PeerCertificates[i:i+1]).check(s, demand{role: Router, usage: x509.ExtKeyUsageServerAuth}, nil)
	}, "http/1.1")
}

// accept checks that an answer is what was asked for: a proxy's certificate for
// the key, signed by the CA.
func accept(answer ohrouter.Certificate, key *ecdsa.PrivateKey, want fingerprint) (leaf, ca *x509.Certificate, err error) {
	certs, err := parseCertificates([]byte(answer.Certificate))
	if err != nil {
		return nil, nil, fmt.Errorf("the certificate: %w", err)
	}
	cas, err := parseCertificates([]byte(answer.CA))
	if err != nil {
		return nil, nil, fmt.Errorf("the CA's certificate: %w", err)
	}
	leaf, ca = certs[0], cas[0]
	id, err := Of(leaf)
	switch {
	case err != nil:
		return nil, nil, err
	case fingerprintOf(ca) != want:
		return nil, nil, errors.New("it has another CA")
	case !key.PublicKey.Equal(leaf.PublicKey):
		return nil, nil, errors.New("its certificate is for another key")
	case id != ID{Proxy, answer.Proxy}:
		return nil, nil, fmt.Errorf("its certificate is that of %s", id)
	}
	return leaf, ca, leaf.CheckSignatureFrom(ca)
}

// keep writes the identity of a proxy.
func keep(dir string, key crypto.Signer, leaf, ca *x509.Certificate) error {
	text, err := keyPEM(key)
	if err != nil {
		return fmt.Errorf("write the key: %w", err)
	}
	if err := writeFile(filepath.Join(dir, proxyFile), append(text, certificatePEM(leaf, ca)...)); err != nil {
		return fmt.Errorf("write the certificate: %w", err)
	}
	return nil
}

// readAddress returns where a proxy has been enrolled.
func readAddress(dir string) (string, error) {
	text, err := readFile(filepath.Join(dir, addressFile))
	if err != nil {
		return "", fmt.Errorf("read the router's URL: %w", err)
	}
	address, err := parseRouter(string(bytes.TrimSpace(text)))
	if err != nil {
		return "", unusable(filepath.Join(dir, addressFile), err)
	}
	return address, nil
}
