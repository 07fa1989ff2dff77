package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
)

// Limits of what is read.
const (
	maxPEM    = 256 << 10 // of a file
	maxSent   = 16 << 10  // of a CSR or certificate in a call
	maxBlocks = 256       // of a file: an organisation's bundle of CAs
)

// The types of PEM blocks that mean something here.
const (
	certificateBlock = "CERTIFICATE"
	requestBlock     = "CERTIFICATE REQUEST"
	keyBlock         = "PRIVATE KEY"
)

// parseCertificates returns the certificates in a PEM text, at least one. Keys
// and other blocks in it are left alone.
func parseCertificates(text []byte) ([]*x509.Certificate, error) {
	var found []*x509.Certificate
	if len(text) > maxPEM {
		return nil, fmt.Errorf("it has more than %d KiB", maxPEM>>10)
	}
	for n := 0; ; n++ {
		block, rest := pem.Decode(text)
		if block == nil {
			break
		}
		if n == maxBlocks {
			return nil, fmt.Errorf("it has more than %d PEM blocks", maxBlocks)
		}
		text = rest
		if block.Type != certificateBlock {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d in it: %w", len(found)+1, err)
		}
		found = append(found, c)
	}
	if len(found) == 0 {
		return nil, errors.New("it holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)")
	}
	return found, nil
}

// parseRequest returns the public key of a CSR in PEM form, whose owner has
// signed it. Whatever else the CSR asks for is not even looked at.
func parseRequest(text string) (crypto.PublicKey, error) {
	if len(text) > maxSent {
		return nil, fmt.Errorf("it has more than %d KiB", maxSent>>10)
	}
	block, _ := pem.Decode([]byte(text))
	if block == nil || block.Type != requestBlock {
		return nil, errors.New("it is not PEM text with a CERTIFICATE REQUEST")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, err
	}
	switch key := csr.PublicKey.(type) {
	case *ecdsa.PublicKey:
		if key.Curve != elliptic.P256() {
			return nil, fmt.Errorf("its key is on %s: use P-256 or Ed25519", key.Curve.Params().Name)
		}
	case ed25519.PublicKey:
	default:
		return nil, fmt.Errorf("its key is %s: use P-256 or Ed25519", csr.PublicKeyAlgorithm)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("its signature is not by its key: %w", err)
	}
	return csr.PublicKey, nil
}

// certificatePEM returns certificates in PEM form.
func certificatePEM(certificates ...*x509.Certificate) []byte {
	var text []byte
	for _, c := range certificates {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: certificateBlock, Bytes: c.Raw})...)
	}
	return text
}

// keyPEM returns a private key in PEM form.
func keyPEM(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: keyBlock, Bytes: der}), nil
}

// fingerprint is the SHA-256 of a certificate.
type fingerprint [sha256.Size]byte

func fingerprintOf(c *x509.Certificate) fingerprint { return sha256.Sum256(c.Raw) }

// String returns the fingerprint as openssl x509 -fingerprint -sha256 does.
func (f fingerprint) String() string {
	var b strings.Builder
	for i, c := range f {
		if i > 0 {
			b.WriteByte(':')
		}
		b.WriteString(strings.ToUpper(hex.EncodeToString([]byte{c})))
	}
	return b.String()
}

// Fingerprint returns the SHA-256 of a certificate as openssl prints it, for
// people to compare.
func Fingerprint(c *x509.Certificate) string { return fingerprintOf(c).String() }

// subject returns the common name of a certificate, for a sentence: it may be
// anything.
func subject(c *x509.Certificate) string { return fmt.Sprintf("%.64q", c.Subject.CommonName) }
