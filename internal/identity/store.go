package identity

import (
	"context"
	"errors"
	"time"
)

// Errors that say more than their code. They are in the chain of what
// [Authority] returns.
var (
	ErrTokenUnknown = errors.New("enrolment token unknown")
	ErrTokenUsed    = errors.New("enrolment token used already")
	ErrTokenExpired = errors.New("enrolment token expired")
	ErrRevoked      = errors.New("certificate revoked")
)

// Invitation is an enrolment token as it is stored. The JSON shape is what
// stores may keep.
type Invitation struct {
	Hash      string    `json:"hash"`  // SHA-256 of the token, in hexadecimal digits: the key
	Proxy     string    `json:"proxy"` // whom it makes of whoever has it
	CreatedAt time.Time `json:"created_at"`
	ExpiresAt time.Time `json:"expires_at"`
	UsedAt    time.Time `json:"used_at,omitzero"` // zero until somebody did
}

// open tells whether an invitation may still be used at a time.
func (i Invitation) open(at time.Time) bool { return i.UsedAt.IsZero() && at.Before(i.ExpiresAt) }

// Use returns the invitation as it is after its use at a time, and whether that
// is possible.
func (i Invitation) Use(at time.Time) (Invitation, bool) {
	if !i.open(at) {
		return i, false
	}
	i.UsedAt = at
	return i, true
}

// Revocation ends all certificates of a proxy that begin at a time or earlier.
// The JSON shape is what stores may keep.
type Revocation struct {
	Proxy string    `json:"proxy"` // the key
	At    time.Time `json:"at"`
}

// remembered is how long an invitation that has ended is kept, so that its use
// is told from that of one that never was.
const remembered = 30 * 24 * time.Hour

// Forgotten tells whether a store may forget the invitation at a time.
func (i Invitation) Forgotten(at time.Time) bool { return at.After(i.ExpiresAt.Add(remembered)) }

// Store keeps invitations and revocations across restarts. Implementations are
// safe for concurrent use and pass storetest.RunIdentity. What they have
// written when they return nil survives a crash of the process and of the
// machine.
type Store interface {
	// AddInvitation writes an invitation. It forgets others that are Forgotten
	// when this one is made.
	AddInvitation(ctx context.Context, i Invitation) error
	// UseInvitation applies Use to the invitation with a hash, in one step
	// against all other calls, and returns it as it was before. ErrTokenUnknown
	// is the error where there is none.
	UseInvitation(ctx context.Context, hash string, at time.Time) (Invitation, error)
	// AddRevocation writes a revocation in place of the proxy's former one.
	AddRevocation(ctx context.Context, r Revocation) error
	// Revocations returns all of them, in no particular order.
	Revocations(ctx context.Context) ([]Revocation, error)
}
