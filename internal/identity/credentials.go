package identity

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
)

// pollInterval is how soon a change on disk is noticed. Files are asked, not
// watched: that works on every file system, and through the links that
// orchestrators swap.
const pollInterval = time.Second

// Config tells where an identity is kept. Files and Role are required.
type Config struct {
	Files Files
	Role  Role // whose identity it has to be
	// Revoked tells whether a peer's certificate is not good any more; nil:
	// none is revoked.
	Revoked func(leaf *x509.Certificate) bool
	Log     *slog.Logger // nil discards
}

// Credentials are a machine's own identity and the CAs that it trusts, as they
// are on disk. They are safe for concurrent use, and what they give follows the
// files: nothing needs a restart.
type Credentials struct {
	cfg     Config
	current atomic.Pointer[material]

	mu      sync.Mutex // guards what follows; held while the files are read
	seen    [3]fs.FileInfo
	trouble error         // why the files are not in use as they are
	changed chan struct{} // closed when current changes
	warned  time.Time     // end of the certificate that the log has a warning about
}

// material is what was in the files at one time.
type material struct {
	*trust
	id   ID
	leaf *x509.Certificate
	link tls.Certificate // with what leads to the CA
	http tls.Certificate // with the CA, too: who enrols knows its fingerprint alone
}

// Open reads an identity. Its errors are sentences for whoever started the
// program.
func Open(cfg Config) (*Credentials, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	c := &Credentials{cfg: cfg, changed: make(chan struct{})}
	c.seen = c.look()
	m, err := c.load()
	if err != nil {
		return nil, err
	}
	c.current.Store(m)
	c.warn()
	return c, nil
}

// Run follows the files until ctx ends. What is wrong on disk is logged once,
// and what was good stays in use: a half-written pair never replaces it.
func (c *Credentials) Run(ctx context.Context) {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			c.refresh()
		case <-ctx.Done():
			return
		}
	}
}

// ID returns whose identity this is.
func (c *Credentials) ID() ID { return c.current.Load().id }

// Leaf returns the certificate that is in use.
func (c *Credentials) Leaf() *x509.Certificate { return c.current.Load().leaf }

// Trouble returns why the files on disk are not in use as they are now; nil
// when they are.
func (c *Credentials) Trouble() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.trouble
}

// Changed returns a channel that is closed when the identity or the trusted CAs
// change next.
func (c *Credentials) Changed() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changed
}

// refresh takes over what has changed on disk.
func (c *Credentials) refresh() {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.warn()
	// Before the files are read: a change meanwhile is seen the next time.
	now := c.look()
	changed := !same(now, c.seen)
	if !changed && c.trouble == nil { // trouble may pass by itself: a certificate begins
		return
	}
	c.seen = now
	m, err := c.load()
	if err != nil {
		if changed && (c.trouble == nil || c.trouble.Error() != err.Error()) {
			c.cfg.Log.Error("certificate files changed, but are not usable: the former ones stay in use", "err", err)
		}
		c.trouble = err
		return
	}
	c.trouble = nil
	if c.current.Load().equal(m) {
		return
	}
	c.current.Store(m)
	close(c.changed)
	c.changed = make(chan struct{})
	c.cfg.Log.Info("certificate in use", "identity", m.id.String(), "expires_at", m.leaf.NotAfter)
}

// equal tells whether m and other were made of the same certificates.
func (m *material) equal(other *material) bool {
	if len(m.cas) != len(other.cas) || len(m.http.Certificate) != len(other.http.Certificate) {
		return false
	}
	for i := range m.cas {
		if !m.cas[i].Equal(other.cas[i]) {
			return false
		}
	}
	for i := range m.http.Certificate {
		if !bytes.Equal(m.http.Certificate[i], other.http.Certificate[i]) {
			return false
		}
	}
	return true
}

// warn logs, once for each certificate, that it should have been renewed.
func (c *Credentials) warn() {
	leaf := c.Leaf()
	left := time.Until(leaf.NotAfter)
	if left > leaf.NotAfter.Sub(leaf.NotBefore)/4 || c.warned.Equal(leaf.NotAfter) {
		return
	}
	c.warned = leaf.NotAfter
	c.cfg.Log.Warn("certificate ends soon and has not been renewed", "identity", c.ID().String(), "expires_at", leaf.NotAfter)
}

// look returns what the files look like from outside; nil stands for one that
// cannot be seen.
func (c *Credentials) look() (seen [3]fs.FileInfo) {
	for i, name := range []string{c.cfg.Files.Cert, c.cfg.Files.Key, c.cfg.Files.CA} {
		if info, err := os.Stat(name); err == nil {
			seen[i] = info
		}
	}
	return seen
}

// same tells whether files have not changed.
func same(a, b [3]fs.FileInfo) bool {
	for i := range a {
		if (a[i] == nil) != (b[i] == nil) {
			return false
		}
		if a[i] != nil && (!os.SameFile(a[i], b[i]) || a[i].Size() != b[i].Size() || !a[i].ModTime().Equal(b[i].ModTime())) {
			return false
		}
	}
	return true
}

// load reads the files and checks that they fit together.
func (c *Credentials) load() (*material, error) {
	texts := make(map[string][]byte, 3)
	for _, name := range []string{c.cfg.Files.Cert, c.cfg.Files.Key, c.cfg.Files.CA} {
		text, err := readFile(name)
		if err != nil {
			return nil, unreadable(err)
		}
		texts[name] = text
	}
	own, err := parseCertificates(texts[c.cfg.Files.Cert])
	if err != nil {
		return nil, unusable(c.cfg.Files.Cert, err)
	}
	others, err := parseCertificates(texts[c.cfg.Files.CA])
	if err != nil {
		return nil, unusable(c.cfg.Files.CA, err)
	}
	cas := onlyCAs(others)
	if len(cas) == 0 {
		return nil, unusable(c.cfg.Files.CA, errors.New("no certificate in it is that of a CA"))
	}
	pair, err := tls.X509KeyPair(texts[c.cfg.Files.Cert], texts[c.cfg.Files.Key])
	if err != nil {
		return nil, unusable(c.cfg.Files.Key, fmt.Errorf("its key and the first certificate of %s do not make a pair: %w", c.cfg.Files.Cert, err))
	}
	m := newMaterial(pair, own, cas)
	return m, c.suits(m)
}

// suits tells whether m can be used in the role.
func (c *Credentials) suits(m *material) (err error) {
	if m.id, err = Of(m.leaf); err != nil {
		return unusable(c.cfg.Files.Cert, err)
	}
	if m.id.Role != c.cfg.Role {
		return unusable(c.cfg.Files.Cert, fmt.Errorf("it is the certificate of %s, and this is a %s", m.id, c.cfg.Role))
	}
	uses := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	if c.cfg.Role == Router { // which makes links, and serves the API
		uses = append(uses, x509.ExtKeyUsageClientAuth)
	}
	for _, use := range uses {
		if err := m.chain(m.certificates(), use); err != nil {
			return unusable(c.cfg.Files.Cert, err)
		}
	}
	return nil
}

// newMaterial sorts what was in the files.
func newMaterial(pair tls.Certificate, own, cas []*x509.Certificate) *material {
	m := &material{trust: newTrust(cas), leaf: own[0], link: pair}
	m.link.Leaf, m.link.Certificate = m.leaf, [][]byte{m.leaf.Raw}
	for _, c := range own[1:] {
		if c.IsCA && c.CheckSignatureFrom(c) != nil { // peers have the root
			m.link.Certificate = append(m.link.Certificate, c.Raw)
		}
	}
	m.http = m.link
	m.http.Certificate = append(slices.Clip(m.http.Certificate), cas[0].Raw)
	return m
}

// certificates returns the leaf and what leads to the CA.
func (m *material) certificates() []*x509.Certificate {
	certs := []*x509.Certificate{m.leaf}
	for _, der := range m.link.Certificate[1:] {
		if c, err := x509.ParseCertificate(der); err == nil { // as it did before
			certs = append(certs, c)
		}
	}
	return certs
}

// onlyCAs returns those of certs that may sign others.
func onlyCAs(certs []*x509.Certificate) []*x509.Certificate {
	var cas []*x509.Certificate
	for _, c := range certs {
		if c.IsCA && c.BasicConstraintsValid { // a leaf among the roots would be good for ever
			cas = append(cas, c)
		}
	}
	return cas
}

// unusable returns the sentence for a file that is not as it has to be.
func unusable(file string, why error) error {
	return &ohrouter.Error{Code: ohrouter.InvalidRequest, Message: file + " cannot be used", Err: why}
}

// unreadable returns the sentence for a file that cannot be read.
func unreadable(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read the certificate: %w; a router gets one with 'oh-router ca init', a proxy with 'oh-router proxy enroll'", err)
	}
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("read the certificate: %w; run as a user who may read it, or name other files with --state or --tls-cert", err)
	}
	return fmt.Errorf("read the certificate: %w", err)
}
