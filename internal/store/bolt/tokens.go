package bolt

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/ohrouter/oh-router/internal/access"
)

// tokenKind is the bucket of API tokens, by their ids.
const tokenKind = "tokens"

// LoadTokens returns every token. It fails as a whole when one is damaged: a
// router that has lost its tokens must not take everybody for an admin.
func (s *Store) LoadTokens(ctx context.Context) ([]access.Record, error) {
	var records []access.Record
	err := s.values(ctx, tokenKind, func(key string, text []byte) error {
		var r access.Record
		if err := json.Unmarshal(text, &r); err != nil {
			return fmt.Errorf("token %.60q: %w", key, err)
		}
		if r.Token.ID != key {
			return fmt.Errorf("token %.60q is that of %.60q", key, r.Token.ID)
		}
		records = append(records, r)
		return nil
	})
	return records, err
}

// PutToken writes a token and returns when it is on the disk.
func (s *Store) PutToken(ctx context.Context, r access.Record) error {
	text, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode token %s: %w", r.Token.ID, err)
	}
	return s.putValue(ctx, tokenKind, r.Token.ID, text)
}

// DeleteToken forgets a token.
func (s *Store) DeleteToken(ctx context.Context, id string) error {
	return s.putValue(ctx, tokenKind, id, nil)
}
