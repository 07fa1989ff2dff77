package bolt_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/bbolt"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/access"
	"github.com/ohrouter/oh-router/internal/store/bolt"
	"github.com/ohrouter/oh-router/internal/store/storetest"
)

func token(id string) access.Record {
	at := time.Date(2026, 3, 1, 12, 0, 0, 5, time.UTC)
	return access.Record{
		Hash: []byte(strings.Repeat(id[:1], 32)),
		Token: ohrouter.Token{
			ID: id, Name: "name of " + id, Role: ohrouter.User, CreatedAt: at, ExpiresAt: &at,
			Grant: ohrouter.Grant{
				Targets: []string{"any"}, Proxies: []string{"east"}, Ports: &ohrouter.PortRange{Low: 1, High: 2},
				MaxTTL: ohrouter.Duration(time.Hour), MaxBindings: 3, MaxSessions: 4, TargetsPerMinute: 5, CallsPerSecond: 6, Reasons: true,
			},
		},
	}
}

func wantTokens(t *testing.T, s access.Store, want ...access.Record) {
	t.Helper()
	got, err := s.LoadTokens(t.Context()) // in the order of the keys
	if err != nil {
		t.Fatalf("LoadTokens() = %v", err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("tokens (-want +got):\n%s", d)
	}
}

func TestTokens(t *testing.T) {
	dir, _ := filled(t, 3) // a file of before there were tokens
	s := open(t, dir)
	wantTokens(t, s)
	for _, id := range []string{"a", "b", "a"} {
		if err := s.PutToken(t.Context(), token(id)); err != nil {
			t.Fatalf("PutToken(%s) = %v", id, err)
		}
	}
	wantTokens(t, s, token("a"), token("b"))
	for range 2 { // the second time, nothing is there
		if err := s.DeleteToken(t.Context(), "a"); err != nil {
			t.Fatalf("DeleteToken(a) = %v", err)
		}
	}
	if err := s.Put(t.Context(), storetest.Bound(20001)); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.PutToken(t.Context(), token("c")); err == nil {
		t.Error("PutToken after Close = nil, want an error")
	}
	if _, err := s.LoadTokens(t.Context()); err == nil {
		t.Error("LoadTokens after Close = nil, want an error")
	}
	s = open(t, dir)
	defer s.Close()
	wantTokens(t, s, token("b"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.PutToken(ctx, token("c")); err == nil {
		t.Error("PutToken with a cancelled context = nil, want an error")
	}
	wantTokens(t, s, token("b"))
}

// TestLostTokens takes tokens out of the file, or changes one: that must not
// look like a router that has none.
func TestLostTokens(t *testing.T) {
	for what, harm := range map[string]func(tx *bbolt.Tx) error{
		"bucket gone":   func(tx *bbolt.Tx) error { return tx.DeleteBucket([]byte("tokens")) },
		"token gone":    func(tx *bbolt.Tx) error { return tx.Bucket([]byte("tokens")).Delete([]byte("a")) },
		"token changed": func(tx *bbolt.Tx) error { return tx.Bucket([]byte("tokens")).Put([]byte("a"), []byte("1234{}")) },
	} {
		dir := t.TempDir()
		s := open(t, dir)
		if err := s.PutToken(t.Context(), token("a")); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		db, err := bbolt.Open(filepath.Join(dir, "bindings.db"), 0o600, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Update(harm); err != nil {
			t.Fatal(err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		s = open(t, dir)
		if _, err := s.LoadTokens(t.Context()); err == nil || !strings.Contains(err.Error(), "damaged") {
			t.Errorf("LoadTokens with %s = %v, want damage", what, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestNoSecretInTheFile makes a token and looks for it in the file.
func TestNoSecretInTheFile(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	tokens, err := access.Open(t.Context(), access.Config{Store: s})
	if err != nil {
		t.Fatal(err)
	}
	made, err := tokens.Create(t.Context(), ohrouter.TokenSpec{Name: "root", Role: ohrouter.Admin})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile(filepath.Join(dir, "bindings.db"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(file), made.ID) || strings.Contains(string(file), made.Secret[4:20]) {
		t.Error("the file has the secret, or does not have the token")
	}
	s = open(t, dir)
	defer s.Close()
	if tokens, err = access.Open(t.Context(), access.Config{Store: s}); err != nil {
		t.Fatal(err)
	}
	if c, err := tokens.Authenticate(made.Secret); err != nil || c.Owner() != made.ID {
		t.Errorf("Authenticate after a restart = %q, %v, want %q", c.Owner(), err, made.ID)
	}
}

var _ access.Store = (*bolt.Store)(nil)
