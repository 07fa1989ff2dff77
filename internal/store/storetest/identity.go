package storetest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ohrouter/oh-router/internal/identity"
)

// IdentityStore is a store that can be closed.
type IdentityStore interface {
	identity.Store
	Close() error
}

// RunIdentity tests an [identity.Store]. fresh is as for [Run].
func RunIdentity(t *testing.T, fresh func(t testing.TB) (open func() IdentityStore)) {
	for _, test := range []struct {
		name string
		run  func(t *testing.T, open func() IdentityStore)
	}{
		{"Unknown", unknownInvitation},
		{"UseOnce", useOnce},
		{"Expired", useExpired},
		{"UseConcurrently", useConcurrently},
		{"Forget", forget},
		{"Revocations", revoke},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, fresh(t)) })
	}
}

// made is when the invitations of these tests are made.
func made() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 123456789, time.UTC) }

func invitation(proxy string) identity.Invitation {
	return identity.Invitation{
		Hash: strings.Repeat("0a", 31) + fmt.Sprintf("%02x", len(proxy)), Proxy: proxy,
		CreatedAt: made(), ExpiresAt: made().Add(time.Hour),
	}
}

func invite(t testing.TB, s identity.Store, invitations ...identity.Invitation) {
	t.Helper()
	for _, i := range invitations {
		if err := s.AddInvitation(t.Context(), i); err != nil {
			t.Fatalf("AddInvitation(%v) = %v", i, err)
		}
	}
}

func wantUse(t testing.TB, s identity.Store, want identity.Invitation, at time.Time) {
	t.Helper()
	got, err := s.UseInvitation(t.Context(), want.Hash, at)
	if err != nil {
		t.Fatalf("UseInvitation() = %v", err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("UseInvitation (-want +got):\n%s", d)
	}
}

// reopened closes a store and opens it again.
func reopened(t testing.TB, s IdentityStore, open func() IdentityStore) IdentityStore {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatalf("Close() = %v", err)
	}
	s = open()
	t.Cleanup(func() { s.Close() })
	return s
}

func unknownInvitation(t *testing.T, open func() IdentityStore) {
	s := open()
	for range 2 {
		if _, err := s.UseInvitation(t.Context(), invitation("a").Hash, made()); !errors.Is(err, identity.ErrTokenUnknown) {
			t.Errorf("UseInvitation of what is not there = %v, want ErrTokenUnknown", err)
		}
		invite(t, s, invitation("bb"))
	}
	s = reopened(t, s, open)
	wantUse(t, s, invitation("bb"), made())
}

func useOnce(t *testing.T, open func() IdentityStore) {
	s := open()
	invite(t, s, invitation("a"), invitation("bb"))
	used := invitation("a")
	used.UsedAt = made().Add(time.Minute)
	wantUse(t, s, invitation("a"), used.UsedAt)
	wantUse(t, s, used, used.UsedAt.Add(time.Minute))
	s = reopened(t, s, open)
	wantUse(t, s, used, used.UsedAt.Add(time.Minute))
	wantUse(t, s, invitation("bb"), made())
}

func useExpired(t *testing.T, open func() IdentityStore) {
	s := open()
	invite(t, s, invitation("a"))
	for range 2 { // which is no use
		wantUse(t, s, invitation("a"), invitation("a").ExpiresAt)
	}
	reopened(t, s, open)
}

func useConcurrently(t *testing.T, open func() IdentityStore) {
	s := open()
	invite(t, s, invitation("a"))
	var first atomic.Int32
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			i, err := s.UseInvitation(t.Context(), invitation("a").Hash, made())
			if err != nil {
				t.Errorf("UseInvitation() = %v", err)
			} else if i.UsedAt.IsZero() {
				first.Add(1)
			}
		})
	}
	wg.Wait()
	if n := first.Load(); n != 1 {
		t.Errorf("%d calls used the invitation, want 1", n)
	}
	reopened(t, s, open)
}

func forget(t *testing.T, open func() IdentityStore) {
	s := open()
	old, recent, now := invitation("a"), invitation("bb"), invitation("ccc")
	now.CreatedAt = made().Add(60 * 24 * time.Hour)
	now.ExpiresAt = now.CreatedAt.Add(time.Hour)
	recent.ExpiresAt = now.CreatedAt.Add(-24 * time.Hour)
	invite(t, s, old, recent, now)
	if _, err := s.UseInvitation(t.Context(), old.Hash, now.CreatedAt); !errors.Is(err, identity.ErrTokenUnknown) {
		t.Errorf("UseInvitation of one that ended two months ago = %v, want ErrTokenUnknown", err)
	}
	wantUse(t, s, recent, now.CreatedAt)
	wantUse(t, s, now, now.CreatedAt)
	reopened(t, s, open)
}

func revoke(t *testing.T, open func() IdentityStore) {
	s := open()
	wantRevoked := func(want ...identity.Revocation) {
		t.Helper()
		got, err := s.Revocations(t.Context())
		if err != nil {
			t.Fatalf("Revocations() = %v", err)
		}
		slices.SortFunc(got, func(a, b identity.Revocation) int { return strings.Compare(a.Proxy, b.Proxy) })
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("revocations (-want +got):\n%s", d)
		}
	}
	wantRevoked()
	east, west := identity.Revocation{Proxy: "east", At: made()}, identity.Revocation{Proxy: "west", At: made()}
	later := identity.Revocation{Proxy: "east", At: made().Add(time.Hour)}
	for _, r := range []identity.Revocation{west, east, later} {
		if err := s.AddRevocation(t.Context(), r); err != nil {
			t.Fatalf("AddRevocation(%v) = %v", r, err)
		}
	}
	wantRevoked(later, west)
	s = reopened(t, s, open)
	wantRevoked(later, west)
}
