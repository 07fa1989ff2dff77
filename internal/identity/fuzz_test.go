package identity

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"strings"
	"testing"
)

func FuzzParseToken(f *testing.F) {
	good := newToken(fingerprint{1, 2, 3}).text()
	f.Add(good)
	f.Add(good[:len(good)-1] + "~")
	f.Add(strings.ToUpper(good))
	f.Add(good + "A")
	f.Add("ohe_")
	f.Fuzz(func(t *testing.T, s string) {
		got, err := parseToken(s)
		if err == nil && got.text() != s {
			t.Errorf("parseToken(%q) is the token %q", s, got.text())
		}
		if err != nil && len(s) > 20 && strings.Contains(err.Error(), s) {
			t.Errorf("the error %q shows the token", err)
		}
	})
}

func FuzzParseRequest(f *testing.F) {
	key, err := newKey()
	if err != nil {
		f.Fatal(err)
	}
	good, err := newRequest(key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(strings.ReplaceAll(good, " REQUEST", ""))
	f.Add(strings.Replace(good, "A", "B", 1))
	f.Add(strings.Repeat(good, 100))
	f.Fuzz(func(t *testing.T, s string) {
		got, err := parseRequest(s)
		if (got == nil) == (err == nil) {
			t.Errorf("parseRequest(%q) = %v, %v", s, got, err)
		}
	})
}

func FuzzParseCertificates(f *testing.F) {
	by := ca(f)
	cert, key := leaf(f, by, east, nil)
	text, err := keyPEM(key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(certificatePEM(cert, by.cert))
	f.Add(append(text, certificatePEM(cert)...))
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		certs, err := parseCertificates(b)
		if (len(certs) == 0) == (err == nil) {
			t.Errorf("parseCertificates(%q) = %d certificates, %v", b, len(certs), err)
		}
		for _, c := range certs {
			if id, err := Of(c); err == nil && CheckName(id.Name) != nil {
				t.Errorf("Of() = %q, which is no name", id)
			}
			if again, err := parseCertificates(certificatePEM(c)); err != nil || !bytes.Equal(again[0].Raw, c.Raw) {
				t.Errorf("a certificate that was read cannot be read again: %v", err)
			}
		}
	})
}

func TestParseRequest(t *testing.T) {
	big, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for say, key := range map[string]any{"key is RSA": big, "key is on P-384": p384} {
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
		if err != nil {
			t.Fatal(err)
		}
		text := string(pem.EncodeToMemory(&pem.Block{Type: requestBlock, Bytes: der}))
		if _, err := parseRequest(text); err == nil || !strings.Contains(err.Error(), say) {
			t.Errorf("parseRequest() = %v, want it to say %q", err, say)
		}
	}
	key, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	text, err := newRequest(key)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode([]byte(text))
	block.Bytes[len(block.Bytes)-1] ^= 1
	if _, err := parseRequest(string(pem.EncodeToMemory(block))); err == nil || !strings.Contains(err.Error(), "signature") {
		t.Errorf("parseRequest with a wrong signature = %v", err)
	}
	for _, s := range []string{"", text[1:], strings.Repeat("x", maxSent+1)} {
		if _, err := parseRequest(s); err == nil {
			t.Errorf("parseRequest(%.20q) = nil, want an error", s)
		}
	}
}
