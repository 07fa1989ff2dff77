package identity

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	ohrouter "github.com/ohrouter/oh-router"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// memory is a Store without a disk.
type memory struct {
	mu          sync.Mutex
	invitations map[string]Invitation
	revocations map[string]Revocation
	err         error // of every call, if set
}

func newMemory() *memory {
	return &memory{invitations: map[string]Invitation{}, revocations: map[string]Revocation{}}
}

func (m *memory) AddInvitation(_ context.Context, i Invitation) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.invitations[i.Hash] = i
	return m.err
}

func (m *memory) UseInvitation(_ context.Context, hash string, at time.Time) (Invitation, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	was, ok := m.invitations[hash]
	if !ok {
		return was, ErrTokenUnknown
	}
	m.invitations[hash], _ = was.Use(at)
	return was, m.err
}

func (m *memory) AddRevocation(_ context.Context, r Revocation) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.revocations[r.Proxy] = r
	return m.err
}

func (m *memory) Revocations(context.Context) ([]Revocation, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []Revocation
	for _, r := range m.revocations {
		list = append(list, r)
	}
	return list, m.err
}

// ca makes a CA.
func ca(t testing.TB) *issuer {
	t.Helper()
	i, err := newIssuer(t.Name() + rand.Text())
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// leaf signs a leaf for a new key; change may make it another one than issue
// would.
func leaf(t testing.TB, by *issuer, id ID, change func(*x509.Certificate)) (*x509.Certificate, crypto.Signer) {
	t.Helper()
	key, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	c, err := by.issue(order{id: id, key: key.Public(), life: time.Hour})
	if err == nil && change != nil {
		c.SerialNumber, c.ExtraExtensions, c.SignatureAlgorithm = nil, nil, 0
		change(c)
		c, err = sign(c, by.cert, key.Public(), by.key)
	}
	if err != nil {
		t.Fatal(err)
	}
	return c, key
}

// bundle writes key, leaf and CAs to a file and returns the files of that.
func bundle(t testing.TB, key crypto.Signer, certs ...*x509.Certificate) Files {
	t.Helper()
	path := filepath.Join(t.TempDir(), "bundle.pem")
	writeBundle(t, path, key, certs...)
	return Files{path, path, path}
}

func writeBundle(t testing.TB, path string, key crypto.Signer, certs ...*x509.Certificate) {
	t.Helper()
	text, err := keyPEM(key)
	if err == nil {
		err = writeFile(path, append(text, certificatePEM(certs...)...))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// credentials opens an identity that a CA signs.
func credentials(t testing.TB, by *issuer, id ID, revoked func(*x509.Certificate) bool) *Credentials {
	t.Helper()
	c, key := leaf(t, by, id, nil)
	return opened(t, Config{Files: bundle(t, key, c, by.cert), Role: id.Role, Revoked: revoked})
}

func opened(t testing.TB, cfg Config) *Credentials {
	t.Helper()
	c, err := Open(cfg)
	if err != nil {
		t.Fatalf("Open() = %v", err)
	}
	return c
}

// side is how a handshake went for one side.
type side struct {
	state tls.ConnectionState
	err   error // of the handshake, or of the first read behind it
}

// shake lets a client and a server meet. The server speaks first.
func shake(t testing.TB, client, server *tls.Config) (c, s side) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		conn, err := ln.Accept()
		if err != nil {
			s.err = err
			return
		}
		defer conn.Close()
		s = meet(tls.Server(conn, server), true)
	})
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c = meet(tls.Client(conn, client), false)
	conn.Close()
	wg.Wait()
	return c, s
}

// meet does one side's part.
func meet(conn *tls.Conn, server bool) (s side) {
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if s.err = conn.Handshake(); s.err != nil {
		return s
	}
	s.state = conn.ConnectionState()
	if server {
		_, s.err = conn.Write([]byte("x"))
		if s.err == nil { // the client closes
			_, _ = conn.Read(make([]byte, 1))
		}
		return s
	}
	_, s.err = io.ReadFull(conn, make([]byte, 1))
	return s
}

// bufferedPipe is net.Pipe with a buffer in each direction, without which the
// two sides of TLS may both be writing. Unlike sockets it is known to synctest.
func bufferedPipe() (a, b net.Conn) {
	a, b = net.Pipe()
	return newBuffered(a), newBuffered(b)
}

type buffered struct {
	net.Conn
	out chan []byte
}

func newBuffered(c net.Conn) *buffered {
	b := &buffered{c, make(chan []byte, 100)}
	go func() {
		for p := range b.out {
			_, _ = c.Write(p)
		}
		c.Close()
	}()
	return b
}

func (b *buffered) Write(p []byte) (int, error) {
	b.out <- bytes.Clone(p)
	return len(p), nil
}

func (b *buffered) Close() error {
	close(b.out)
	return nil
}

// wantSentence checks what an error says and its code.
func wantSentence(t testing.TB, err error, code ohrouter.Code, parts ...string) {
	t.Helper()
	if ohrouter.CodeOf(err) != code {
		t.Errorf("error %v has code %q, want %q", err, ohrouter.CodeOf(err), code)
	}
	for _, part := range parts {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("error %q, want it to say %q", err, part)
		}
	}
}

// record is a log that can be read.
type record struct {
	mu   sync.Mutex
	text strings.Builder
}

func (r *record) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.Write(b)
}

func (r *record) log() *slog.Logger { return slog.New(slog.NewTextHandler(r, nil)) }

// count is how often a text has been logged.
func (r *record) count(text string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Count(r.text.String(), text)
}

func wantMode(t testing.TB, path string, want os.FileMode) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil || info.Mode() != want {
		t.Errorf("mode of %s = %v (%v), want %v", path, info.Mode(), err, want)
	}
}
