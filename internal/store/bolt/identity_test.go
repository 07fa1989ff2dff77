package bolt_test

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/ohrouter/oh-router/internal/identity"
	"github.com/ohrouter/oh-router/internal/store/bolt"
	"github.com/ohrouter/oh-router/internal/store/storetest"
)

var _ identity.Store = (*bolt.Store)(nil)

func TestIdentityStore(t *testing.T) {
	storetest.RunIdentity(t, func(t testing.TB) func() storetest.IdentityStore {
		dir := t.TempDir()
		return func() storetest.IdentityStore { return open(t, dir) }
	})
}

// TestLostRevocations takes a revocation out of the file: the certificate must
// not become good again unnoticed.
func TestLostRevocations(t *testing.T) {
	for what, harm := range map[string]func(tx *bbolt.Tx) error{
		"bucket gone":     func(tx *bbolt.Tx) error { return tx.DeleteBucket([]byte("revocations")) },
		"revocation gone": func(tx *bbolt.Tx) error { return tx.Bucket([]byte("revocations")).Delete([]byte("east")) },
		"revocation changed": func(tx *bbolt.Tx) error {
			return tx.Bucket([]byte("revocations")).Put([]byte("east"), []byte("1234{}"))
		},
	} {
		dir := t.TempDir()
		s := open(t, dir)
		if err := s.AddRevocation(t.Context(), identity.Revocation{Proxy: "east", At: time.Now()}); err != nil {
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
		if _, err := identity.LoadRevocations(t.Context(), s); err == nil || !strings.Contains(err.Error(), "damaged") {
			t.Errorf("LoadRevocations with %s = %v, want damage", what, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
