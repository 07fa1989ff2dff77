package bolt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/bbolt"

	"github.com/ohrouter/oh-router/internal/identity"
)

// The kinds of what [identity.Store] keeps.
const (
	enrolments  = "enrolments"  // by the hash of the token
	revocations = "revocations" // by the name of the proxy
)

// AddInvitation writes an invitation and forgets those that have ended long
// ago.
func (s *Store) AddInvitation(ctx context.Context, i identity.Invitation) error {
	err := s.transact(ctx, true, func(tx *bbolt.Tx) error {
		var old []string
		err := eachValue(tx, enrolments, func(key string, text []byte) error {
			var former identity.Invitation
			if err := json.Unmarshal(text, &former); err != nil {
				return err
			}
			if former.Forgotten(i.CreatedAt) {
				old = append(old, key)
			}
			return nil
		})
		if err != nil {
			return err
		}
		for _, key := range old {
			if err := setValue(tx, enrolments, key, nil); err != nil {
				return err
			}
		}
		return setJSON(tx, enrolments, i.Hash, i)
	})
	if err != nil {
		return fmt.Errorf("write an enrolment to %s: %w", s.path, err)
	}
	return nil
}

// UseInvitation marks an invitation as used, if it can be, and returns it as it
// was.
func (s *Store) UseInvitation(ctx context.Context, hash string, at time.Time) (identity.Invitation, error) {
	var was identity.Invitation
	err := s.transact(ctx, true, func(tx *bbolt.Tx) error {
		found := false
		err := eachValue(tx, enrolments, func(key string, text []byte) error {
			if key != hash {
				return nil
			}
			found = true
			return json.Unmarshal(text, &was)
		})
		if err == nil && !found {
			return identity.ErrTokenUnknown
		}
		used, ok := was.Use(at)
		if err != nil || !ok {
			return err
		}
		return setJSON(tx, enrolments, hash, used)
	})
	switch {
	case errors.Is(err, identity.ErrTokenUnknown):
		return identity.Invitation{}, err
	case err != nil:
		return identity.Invitation{}, fmt.Errorf("use an enrolment of %s: %w", s.path, err)
	}
	return was, nil
}

// AddRevocation writes a revocation.
func (s *Store) AddRevocation(ctx context.Context, r identity.Revocation) error {
	text, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode the revocation of %s: %w", r.Proxy, err)
	}
	return s.putValue(ctx, revocations, r.Proxy, text)
}

// Revocations returns all of them.
func (s *Store) Revocations(ctx context.Context) ([]identity.Revocation, error) {
	var list []identity.Revocation
	err := s.values(ctx, revocations, func(_ string, text []byte) error {
		var r identity.Revocation
		if err := json.Unmarshal(text, &r); err != nil {
			return err
		}
		list = append(list, r)
		return nil
	})
	return list, err
}

// setJSON is setValue for something that JSON can say.
func setJSON(tx *bbolt.Tx, kind, key string, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return setValue(tx, kind, key, text)
}
