package identity

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
)

// Limits of what is looked at and remembered of peers.
const (
	maxIntermediates = 8    // of what a peer sends behind its leaf
	maxProven        = 1024 // leaves
)

// trust checks certificates against a set of CAs.
type trust struct {
	cas   []*x509.Certificate
	roots *x509.CertPool
	named bool // with --ca-file, by a caller who has no certificate

	mu     sync.Mutex // guards proven
	proven map[proof]window
}

// proof is a leaf whose chain has been checked for a use.
type proof struct {
	leaf  [sha256.Size]byte
	usage x509.ExtKeyUsage
}

// window is when every certificate of a chain is good.
type window struct{ from, until time.Time }

func newTrust(cas []*x509.Certificate) *trust {
	t := &trust{cas: cas, roots: x509.NewCertPool(), proven: make(map[proof]window)}
	for _, ca := range cas {
		t.roots.AddCert(ca)
	}
	return t
}

// chain checks that the first certificate is good now, for a use, and signed by
// a trusted CA; the others may help to find the way there.
func (t *trust) chain(certs []*x509.Certificate, usage x509.ExtKeyUsage) error {
	leaf, now := certs[0], time.Now()
	key := proof{sha256.Sum256(leaf.Raw), usage}
	t.mu.Lock()
	w, ok := t.proven[key]
	t.mu.Unlock()
	if ok && !now.Before(w.from) && !now.After(w.until) {
		return nil
	}
	intermediates := x509.NewCertPool()
	for _, c := range certs[1:min(len(certs), 1+maxIntermediates)] {
		intermediates.AddCert(c)
	}
	chains, err := leaf.Verify(x509.VerifyOptions{
		Roots: t.roots, Intermediates: intermediates, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage},
	})
	if err != nil {
		return t.explain(leaf, err, now)
	}
	w = window{leaf.NotBefore, leaf.NotAfter}
	for _, c := range chains[0] {
		if c.NotBefore.After(w.from) {
			w.from = c.NotBefore
		}
		if c.NotAfter.Before(w.until) {
			w.until = c.NotAfter
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.proven) >= maxProven {
		clear(t.proven)
	}
	t.proven[key] = w
	return nil
}

// explain returns the sentence for an error of a chain.
func (t *trust) explain(leaf *x509.Certificate, err error, now time.Time) error {
	e := &ohrouter.Error{Code: ohrouter.Unauthorized, Err: err}
	who := claimed(leaf)
	invalid, ok := errors.AsType[x509.CertificateInvalidError](err)
	switch {
	case ok && invalid.Reason == x509.Expired:
		bad := invalid.Cert
		if bad == nil {
			bad = leaf
		}
		what := "the certificate of " + who
		if bad != leaf {
			what = fmt.Sprintf("the CA %s above the certificate of %s", subject(bad), who)
		}
		if now.Before(bad.NotBefore) {
			e.Message = fmt.Sprintf("%s begins at %s, which is still to come by this machine's clock: set the clocks", what, stamp(bad.NotBefore))
		} else {
			e.Message = fmt.Sprintf("%s ended at %s: %s, or set this machine's clock if that is wrong", what, stamp(bad.NotAfter), t.replace(bad))
		}
	case ok && invalid.Reason == x509.IncompatibleUsage:
		e.Message = fmt.Sprintf("the certificate of %s is not for this use: it needs the extended key usages serverAuth and clientAuth", who)
	case ok:
		e.Message = fmt.Sprintf("the certificate of %s is not as its CA may sign it: make it anew", who)
	default:
		ca := "none"
		if len(t.cas) > 0 {
			ca = fmt.Sprintf("%s (SHA-256 %s)", subject(t.cas[0]), fingerprintOf(t.cas[0]))
		}
		what := "enrol it with a token of this router, or give both sides the same CA"
		if t.named {
			what = "look whether it is the right router, and name the file of its own CA with --ca-file"
		}
		e.Message = fmt.Sprintf("the certificate of %s is not signed by the CA that is trusted here, %s: %s", who, ca, what)
	}
	return e
}

// replace returns what gives the owner of a certificate that has ended another.
func (t *trust) replace(ended *x509.Certificate) string {
	id, err := Of(ended)
	switch {
	case err != nil || !slices.ContainsFunc(t.cas, ours):
		return "replace it"
	case id.Role == Router: // which renews it while it runs
		return "stop that router, run 'oh-router ca init' on its machine, and start it again"
	}
	return "enrol it again"
}

// stamp returns a time as sentences have it.
func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// demand is what a peer has to prove.
type demand struct {
	role     Role // "" any
	name     string
	usage    x509.ExtKeyUsage
	protocol string // "" any
	optional bool   // it may have no certificate
}

// check tells whether the peer of a connection is who is demanded. revoked may
// be nil.
func (t *trust) check(s tls.ConnectionState, d demand, revoked func(*x509.Certificate) bool) error {
	switch {
	case s.Version < tls.VersionTLS13:
		return ohrouter.Errorf(ohrouter.Unauthorized, "the peer speaks %s: TLS 1.3 is needed", tls.VersionName(s.Version))
	case d.protocol != "" && s.NegotiatedProtocol != d.protocol:
		return ohrouter.Errorf(ohrouter.Unauthorized,
			"the peer does not speak %s: look which program answers at that address, and whether both are oh-router", d.protocol)
	case len(s.PeerCertificates) == 0 && d.optional:
		return nil
	case len(s.PeerCertificates) == 0:
		return ohrouter.Errorf(ohrouter.Unauthorized, "the peer sent no certificate: enrol it with 'oh-router proxy enroll', or give it a certificate of the same CA")
	}
	leaf := s.PeerCertificates[0]
	if err := t.chain(s.PeerCertificates, d.usage); err != nil {
		return err
	}
	id, err := Of(leaf)
	switch {
	case err != nil:
		return err
	case d.role != "" && id.Role != d.role:
		return ohrouter.Errorf(ohrouter.Unauthorized, "the peer is %s, and a %s is wanted here: look at the address, and at which certificate the peer has", id, d.role)
	case d.name != "" && id.Name != d.name:
		return ohrouter.Errorf(ohrouter.Unauthorized,
			"the peer is %s, not %s: correct the name or the address, or enrol it as %q", id, ID{d.role, d.name}, d.name)
	case revoked != nil && revoked(leaf):
		return revokedError(id)
	}
	return nil
}

func revokedError(id ID) error {
	return &ohrouter.Error{
		Code: ohrouter.Unauthorized, Err: ErrRevoked,
		Message: fmt.Sprintf("the certificate of %s has been revoked: invite it again if it is to come back", id),
	}
}
