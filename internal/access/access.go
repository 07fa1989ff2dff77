// Package access decides who may do what on a router: it keeps the tokens that
// calls of the API are made with, and the rights that go with them.
//
// A token is a secret of 256 random bits that somebody holds; here only its
// SHA-256 is kept. It has a role and, for users, a grant: which targets may be
// mapped, through which proxies, at which ports, for how long and how many.
// The file rights.go is the table of who may do what; nobody else decides.
//
// Until there is a first token, a router that listens on loopback alone serves
// everybody. From then on every call needs one.
package access

import (
	"cmp"
	"context"
	"crypto/subtle"
	"fmt"
	"slices"
	"sync"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/policy"
)

// maxTokens bounds what is kept.
const maxTokens = 10_000

// Record is what a store keeps of a token.
type Record struct {
	Token ohrouter.Token `json:"token"`
	Hash  []byte         `json:"hash"` // SHA-256 of the secret
}

// Store keeps tokens across restarts. Implementations are safe for concurrent
// use.
type Store interface {
	// LoadTokens returns every record, in no particular order.
	LoadTokens(ctx context.Context) ([]Record, error)
	// PutToken writes a record. When it returns nil, the record survives a
	// crash of the process and of the machine.
	PutToken(ctx context.Context, r Record) error
	// DeleteToken forgets a token, as lastingly. To delete one that has no
	// record is no error.
	DeleteToken(ctx context.Context, id string) error
}

// Config is what a set of tokens works with.
type Config struct {
	Store    Store // nil: nothing survives a restart
	Required bool  // every call needs a token, also while there is none
}

// Tokens is the set of tokens of a router. Its methods are safe for concurrent
// use; those that do not take a context answer from memory.
type Tokens struct {
	store    Store
	required bool

	// change is held over a creation or revocation, also while the store
	// writes: names stay unique and an admin stays. It is taken before mu.
	change sync.Mutex

	made chan struct{} // has a token when Watch is to look at a new one

	mu   sync.Mutex // guards all below; a leaf, never held during I/O
	byID map[string]*entry
}

// entry is a token that is known. Its token, hash and targets never change.
type entry struct {
	token   ohrouter.Token
	hash    [hashSize]byte
	targets *policy.List

	// Guarded by Tokens.mu.
	revoked bool // refused, although the store may have it yet
	usedAt  time.Time
	recent  window
	calls   pace
}

// Open returns the tokens that the store holds.
func Open(ctx context.Context, cfg Config) (*Tokens, error) {
	t := &Tokens{store: cfg.Store, required: cfg.Required, made: make(chan struct{}, 1), byID: make(map[string]*entry)}
	if cfg.Store == nil {
		return t, nil
	}
	records, err := cfg.Store.LoadTokens(ctx)
	if err != nil {
		return nil, fmt.Errorf("load the API tokens: %w", err)
	}
	for _, r := range records {
		e, err := newEntry(r)
		if err != nil {
			return nil, fmt.Errorf("load the API token %.40q: %w", r.Token.ID, err)
		}
		t.byID[e.token.ID] = e
	}
	return t, nil
}

func newEntry(r Record) (*entry, error) {
	if len(r.Hash) != hashSize || r.Token.ID != idOf([hashSize]byte(r.Hash)) {
		return nil, fmt.Errorf("its hash is not that of its id")
	}
	targets, err := policy.Parse(r.Token.Targets)
	if err != nil {
		return nil, err
	}
	return &entry{token: r.Token, hash: [hashSize]byte(r.Hash), targets: targets}, nil
}

// valid tells whether the token opens anything. It is called with mu held.
func (e *entry) valid(now time.Time) bool {
	return !e.revoked && (e.token.ExpiresAt == nil || now.Before(*e.token.ExpiresAt))
}

// Create makes a token and returns it with its secret, which is kept nowhere.
// The first token must be an admin's, for it closes the API to everybody else.
// Errors have the codes [ohrouter.InvalidRequest], [ohrouter.Conflict],
// [ohrouter.QuotaExceeded] or [ohrouter.Internal].
func (t *Tokens) Create(ctx context.Context, spec ohrouter.TokenSpec) (ohrouter.NewToken, error) {
	made, err := tokenOf(spec, time.Now())
	if err != nil {
		return ohrouter.NewToken{}, err
	}
	secret := newSecret()
	hash := hashOf(secret)
	made.ID = idOf(hash)
	record := Record{Token: made, Hash: hash[:]}
	e, err := newEntry(record)
	if err != nil {
		return ohrouter.NewToken{}, err
	}

	t.change.Lock()
	defer t.change.Unlock()
	if err := t.fits(made); err != nil {
		return ohrouter.NewToken{}, err
	}
	if t.store != nil {
		if err := t.store.PutToken(ctx, record); err != nil {
			return ohrouter.NewToken{}, unstored("the new token", err)
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.byID[made.ID] = e
	select {
	case t.made <- struct{}{}:
	default: // it is to look anyway
	}
	return ohrouter.NewToken{Token: e.snapshot(), Secret: secret}, nil
}

// fits returns why a new token cannot join the others.
func (t *Tokens) fits(made ohrouter.Token) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.byID) == 0 && made.Role != ohrouter.Admin {
		return ohrouter.Errorf(ohrouter.Conflict, "the first token must have the role admin: from then on every call needs one, and somebody has to make the others")
	}
	if len(t.byID) >= maxTokens {
		return ohrouter.Errorf(ohrouter.QuotaExceeded, "there are %d tokens already, which is the limit; revoke some", maxTokens)
	}
	for _, e := range t.byID {
		if e.token.Name == made.Name || e.token.ID == made.ID {
			return ohrouter.Errorf(ohrouter.Conflict, "there is a token of the name %s already (%s); revoke it or choose another name", made.Name, e.token.ID)
		}
	}
	return nil
}

func unstored(what string, err error) error {
	return &ohrouter.Error{
		Code: ohrouter.Internal, Err: err,
		Message: "the router's state store did not take " + what + "; see --state and the router's log",
	}
}

// List returns every token, the oldest first, those that have ended included.
func (t *Tokens) List() []ohrouter.Token {
	t.mu.Lock()
	list := make([]ohrouter.Token, 0, len(t.byID))
	for _, e := range t.byID {
		list = append(list, e.snapshot())
	}
	t.mu.Unlock()
	slices.SortFunc(list, func(a, b ohrouter.Token) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.ID, b.ID))
	})
	return list
}

// snapshot returns what callers see of a token, whose times are UTC; what it ends
// by is a clock that nobody sets, until a restart. It is called with mu held.
func (e *entry) snapshot() ohrouter.Token {
	s := e.token
	s.CreatedAt = s.CreatedAt.UTC()
	if s.ExpiresAt != nil {
		s.ExpiresAt = new(s.ExpiresAt.UTC())
	}
	if !e.usedAt.IsZero() {
		s.LastUsedAt = new(e.usedAt.UTC())
	}
	return s
}

// Token returns a token by its id, and whether it is valid: known, not revoked
// and not at its end.
func (t *Tokens) Token(id string) (token ohrouter.Token, valid bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.byID[id]
	if e == nil || !e.valid(time.Now()) {
		return ohrouter.Token{}, false
	}
	return e.snapshot(), true
}

// Revoke ends a token: from now on it is refused, whatever becomes of the
// store. Its bindings are for the caller to close. Errors have the codes
// [ohrouter.NotFound], [ohrouter.Conflict] for the last admin's, without whom
// nobody could make another, or [ohrouter.Internal] when the store may let it
// come back with a restart; then Revoke is to be called again.
func (t *Tokens) Revoke(ctx context.Context, id string) error {
	t.change.Lock()
	defer t.change.Unlock()
	if _, _, err := t.Bar(id); err != nil {
		return err
	}
	if t.store != nil {
		if err := t.store.DeleteToken(ctx, id); err != nil {
			return unstored("the end of token "+id+", which is refused until a restart: revoke it again", err)
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.byID, id)
	return nil
}

// Bar refuses a token from now on until a restart: the part of Revoke that waits
// for no store. It returns the token, and whether this call was the first.
func (t *Tokens) Bar(id string) (token ohrouter.Token, first bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.byID[id]
	if e == nil {
		return ohrouter.Token{}, false, ohrouter.Errorf(ohrouter.NotFound, "no token has the id %.40q", id)
	}
	now := time.Now()
	admins := 0
	for _, o := range t.byID {
		if o != e && o.token.Role == ohrouter.Admin && o.valid(now) {
			admins++
		}
	}
	if e.token.Role == ohrouter.Admin && e.valid(now) && admins == 0 {
		return ohrouter.Token{}, false, ohrouter.Errorf(ohrouter.Conflict, "%s is the last valid token of an admin: create another one first, or nobody could", id)
	}
	first = !e.revoked
	e.revoked = true
	return e.snapshot(), first, nil
}

// Authenticate returns who shows a secret. Without one ("") that is anybody,
// as long as no token is needed. The error has nothing of the secret in it, and
// code [ohrouter.Unauthorized], or [ohrouter.QuotaExceeded] and [Wait] when the
// holder of a valid token calls too often. Who holds a token that is known is
// returned then, too.
func (t *Tokens) Authenticate(secret string) (Caller, error) {
	hash, err := parseSecret(secret)
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.byID) == 0 && !t.required {
		return Anybody(), nil
	}
	switch {
	case secret == "" && len(t.byID) == 0:
		return Caller{}, ohrouter.Errorf(ohrouter.Unauthorized, "the call needs a token, and there is none yet: stop the router, make the first one on its machine "+
			"with oh-router token create root --role admin --out root.token --state DIR, and start it again; its log names DIR")
	case secret == "":
		return Caller{}, ohrouter.Errorf(ohrouter.Unauthorized, "the call needs a token, as in Authorization: Bearer ohr_…; an admin makes one with oh-router token create")
	case err != nil:
		return Caller{}, err
	}
	// The id is a part of the hash and says nothing about the secret. What
	// decides takes the same time wherever the hashes differ.
	e := t.byID[idOf(hash)]
	if e == nil || subtle.ConstantTimeCompare(e.hash[:], hash[:]) != 1 {
		return Caller{}, errInvalid()
	}
	who := Caller{token: e.token, targets: e.targets}
	if !e.valid(now) {
		return who, errInvalid()
	}
	e.usedAt = now
	if most := who.callsPerSecond(); most > 0 {
		if wait := e.calls.take(most, now); wait > 0 {
			return who, overQuota(wait, "the token may make %d calls a second", most)
		}
	}
	return who, nil
}

func errInvalid() error {
	return ohrouter.Errorf(ohrouter.Unauthorized, "the token is not valid: it has ended, was revoked, or is of another router")
}

// NewTarget counts a target that the holder of a token has not bound. The error
// has code [ohrouter.QuotaExceeded] and [Wait] when that were too many within a
// minute.
func (t *Tokens) NewTarget(id string, target ohrouter.Target) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.byID[id]
	if e == nil || e.token.TargetsPerMinute == 0 {
		return nil
	}
	if wait := e.recent.add(target, e.token.TargetsPerMinute, time.Now()); wait > 0 {
		return overQuota(wait, "the token may bind %d new targets a minute", e.token.TargetsPerMinute)
	}
	return nil
}

// overQuota returns the error of a quota that has room again after a while.
func overQuota(wait time.Duration, format string, args ...any) error {
	after := Wait(wait)
	return &ohrouter.Error{
		Code: ohrouter.QuotaExceeded, Err: after,
		Message: fmt.Sprintf(format+"; the next one in %d s", append(args, after.Seconds())...),
	}
}
