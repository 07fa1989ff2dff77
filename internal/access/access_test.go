package access

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	ohrouter "github.com/ohrouter/oh-router"
)

// memory is a store that forgets everything with the process.
type memory struct {
	mu      sync.Mutex
	records map[string]Record
	fail    error
}

func (m *memory) LoadTokens(context.Context) ([]Record, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Values(m.records)), m.fail
}

func (m *memory) PutToken(_ context.Context, r Record) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail == nil {
		m.records[r.Token.ID] = r
	}
	return m.fail
}

func (m *memory) DeleteToken(_ context.Context, id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail == nil {
		delete(m.records, id)
	}
	return m.fail
}

func newMemory() *memory { return &memory{records: make(map[string]Record)} }

func open(t testing.TB, cfg Config) *Tokens {
	t.Helper()
	tokens, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatalf("Open() = %v", err)
	}
	return tokens
}

func admin(name string) ohrouter.TokenSpec {
	return ohrouter.TokenSpec{Name: name, Role: ohrouter.Admin}
}

func user(name string, targets ...string) ohrouter.TokenSpec {
	return ohrouter.TokenSpec{Name: name, Role: ohrouter.User, Targets: targets}
}

func create(t testing.TB, tokens *Tokens, spec ohrouter.TokenSpec) ohrouter.NewToken {
	t.Helper()
	made, err := tokens.Create(t.Context(), spec)
	if err != nil {
		t.Fatalf("Create(%+v) = %v", spec, err)
	}
	return made
}

func wantCode(t testing.TB, what string, err error, want ohrouter.Code) {
	t.Helper()
	if got := ohrouter.CodeOf(err); got != want {
		t.Errorf("%s = %v with code %q, want %q", what, err, got, want)
	}
}

// TestOpenUntilTheFirstToken is a router on loopback, and one that is not.
func TestOpenUntilTheFirstToken(t *testing.T) {
	tokens := open(t, Config{})
	if c, err := tokens.Authenticate(""); err != nil || c.Role() != ohrouter.Admin || c.Owner() != "" {
		t.Errorf("Authenticate without any tokens = %+v, %v, want anybody", c, err)
	}
	if _, err := tokens.Authenticate("what a client has from elsewhere"); err != nil {
		t.Errorf("Authenticate with a needless token = %v", err)
	}
	_, err := tokens.Create(t.Context(), user("first", "any"))
	wantCode(t, "creating a user first", err, ohrouter.Conflict)
	made := create(t, tokens, admin("root"))
	_, err = tokens.Authenticate("")
	wantCode(t, "Authenticate without the token", err, ohrouter.Unauthorized)
	if c, err := tokens.Authenticate(made.Secret); err != nil || c.Owner() != made.ID {
		t.Errorf("Authenticate = %q, %v, want %q", c.Owner(), err, made.ID)
	}

	_, err = open(t, Config{Required: true}).Authenticate("")
	wantCode(t, "Authenticate where a token is required and there is none", err, ohrouter.Unauthorized)
	if want := "there is none yet: stop the router"; !strings.Contains(ohrouter.Message(err), want) {
		t.Errorf("Authenticate without tokens = %v, want %q", err, want)
	}
}

func TestAuthenticateRefuses(t *testing.T) {
	tokens := open(t, Config{})
	secret := create(t, tokens, admin("root")).Secret
	other := newSecret()
	for _, shown := range []string{
		"", "ohr_", other, secret[:len(secret)-1], secret + "x", " " + secret, strings.ToUpper(secret), "ohe" + secret[3:],
		strings.Repeat("a", 1<<20), secret[:10] + "é" + secret[12:],
	} {
		_, err := tokens.Authenticate(shown)
		wantCode(t, "Authenticate("+shown[:min(len(shown), 60)]+")", err, ohrouter.Unauthorized)
		if err != nil && len(shown) > 8 && strings.Contains(err.Error(), shown[4:min(len(shown), 20)]) {
			t.Errorf("the error repeats the secret: %v", err)
		}
	}
}

func TestOnlyTheHashIsKept(t *testing.T) {
	store := newMemory()
	tokens := open(t, Config{Store: store})
	made := create(t, tokens, admin("root"))
	again := open(t, Config{Store: store})
	if c, err := again.Authenticate(made.Secret); err != nil || c.Owner() != made.ID {
		t.Errorf("Authenticate after a restart = %q, %v, want %q", c.Owner(), err, made.ID)
	}
	hash := hashOf(made.Secret)
	if got := store.records[made.ID].Hash; !slices.Equal(got, hash[:]) {
		t.Errorf("the store has %x, want the SHA-256 %x", got, hash)
	}
	r := store.records[made.ID]
	r.Token.ID = "t-forged"
	store.records["t-forged"] = r
	if _, err := Open(t.Context(), Config{Store: store}); err == nil {
		t.Error("Open takes a record whose id is not that of its hash")
	}
}

func TestRevoke(t *testing.T) {
	store := newMemory()
	tokens := open(t, Config{Store: store})
	root := create(t, tokens, admin("root"))
	made := create(t, tokens, user("ci", "any"))
	if _, valid := tokens.Token(made.ID); !valid {
		t.Errorf("Token(%s) is not valid", made.ID)
	}
	if err := tokens.Revoke(t.Context(), made.ID); err != nil {
		t.Fatalf("Revoke() = %v", err)
	}
	_, err := tokens.Authenticate(made.Secret)
	wantCode(t, "Authenticate after Revoke", err, ohrouter.Unauthorized)
	if _, valid := tokens.Token(made.ID); valid {
		t.Errorf("Token(%s) is valid after Revoke", made.ID)
	}
	wantCode(t, "second Revoke", tokens.Revoke(t.Context(), made.ID), ohrouter.NotFound)
	wantCode(t, "Revoke of the last admin", tokens.Revoke(t.Context(), root.ID), ohrouter.Conflict)
	if got := open(t, Config{Store: store}).List(); len(got) != 1 || got[0].Name != "root" {
		t.Errorf("after a restart there is %+v, want root alone", got)
	}
	create(t, tokens, user("ci", "any")) // the name is free again
}

// TestRevokeWithoutStore refuses a token at once, whatever the disk says.
func TestRevokeWithoutStore(t *testing.T) {
	store := newMemory()
	tokens := open(t, Config{Store: store})
	create(t, tokens, admin("root"))
	made := create(t, tokens, user("ci", "any"))
	store.fail = errors.New("the disk is gone")
	wantCode(t, "Revoke", tokens.Revoke(t.Context(), made.ID), ohrouter.Internal)
	_, err := tokens.Authenticate(made.Secret)
	wantCode(t, "Authenticate", err, ohrouter.Unauthorized)
	_, err = tokens.Create(t.Context(), admin("second"))
	wantCode(t, "Create", err, ohrouter.Internal)
	store.fail = nil
	if err := tokens.Revoke(t.Context(), made.ID); err != nil {
		t.Errorf("Revoke once the disk is back = %v", err)
	}
	if got := open(t, Config{Store: store}).List(); len(got) != 1 {
		t.Errorf("after a restart there are %d tokens, want 1", len(got))
	}
}

func TestEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tokens := open(t, Config{})
		create(t, tokens, admin("root"))
		time.Sleep(time.Nanosecond)
		spec := user("ci", "any")
		spec.TTL = ohrouter.Duration(time.Hour)
		made := create(t, tokens, spec)
		time.Sleep(time.Hour - 1)
		if _, err := tokens.Authenticate(made.Secret); err != nil {
			t.Errorf("Authenticate before the end = %v", err)
		}
		time.Sleep(time.Nanosecond)
		_, err := tokens.Authenticate(made.Secret)
		wantCode(t, "Authenticate at the end", err, ohrouter.Unauthorized)
		list := tokens.List()
		if len(list) != 2 || list[1].LastUsedAt == nil || time.Since(*list[1].LastUsedAt) != 1 {
			t.Errorf("List() = %+v, want the ended one with its last use", list)
		}
		for _, at := range []time.Time{list[1].CreatedAt, *list[1].ExpiresAt, *list[1].LastUsedAt} {
			if at.Location() != time.UTC {
				t.Errorf("%v is not in UTC", at)
			}
		}
	})
}

func TestCreate(t *testing.T) {
	tokens := open(t, Config{})
	create(t, tokens, admin("root"))
	made := create(t, tokens, ohrouter.TokenSpec{
		Name: "ci", Role: ohrouter.User, Targets: []string{"DB.internal.:5432", "10.0.0.0/8:22,80"}, Proxies: []string{"east", "east"},
		Ports: &ohrouter.PortRange{Low: 20000, High: 20009}, MaxTTL: ohrouter.Duration(time.Hour), MaxSessions: new(7), Reasons: true,
	})
	want := ohrouter.Grant{
		Targets: []string{"db.internal:5432", "10.0.0.0/8:22,80"}, Proxies: []string{"east"}, Ports: &ohrouter.PortRange{Low: 20000, High: 20009},
		MaxTTL: ohrouter.Duration(time.Hour), MaxBindings: defaultBindings, MaxSessions: 7, TargetsPerMinute: defaultTargetsPerMinute,
		CallsPerSecond: defaultCallsPerSecond, Reasons: true,
	}
	if d := cmp.Diff(want, made.Grant); d != "" {
		t.Errorf("grant (-want +got):\n%s", d)
	}
	unlimited := user("free", "any")
	unlimited.MaxBindings, unlimited.MaxSessions, unlimited.TargetsPerMinute, unlimited.CallsPerSecond = new(0), new(0), new(0), new(0)
	if made := create(t, tokens, unlimited); made.MaxBindings != 0 || made.MaxSessions != 0 || made.TargetsPerMinute != 0 || made.CallsPerSecond != 0 {
		t.Errorf("quotas of 0 became %+v", made.Grant)
	}
	_, err := tokens.Create(t.Context(), user("ci", "any"))
	wantCode(t, "the same name again", err, ohrouter.Conflict)
}

func TestCreateRefuses(t *testing.T) {
	tokens := open(t, Config{})
	create(t, tokens, admin("root"))
	long := slices.Repeat([]string{"any"}, maxPatterns+1)
	for what, spec := range map[string]ohrouter.TokenSpec{
		"no name":         {Role: ohrouter.Admin},
		"long name":       admin(strings.Repeat("a", maxName+1)),
		"spaced name":     admin("a b"),
		"name like an id": admin("t-abc"),
		"no role":         {Name: "a"},
		"unknown role":    {Name: "a", Role: "root"},
		"negative ttl":    {Name: "a", Role: ohrouter.Admin, TTL: -1},
		"endless ttl":     {Name: "a", Role: ohrouter.Admin, TTL: ohrouter.Duration(maxTTL + 1)},
		"admin's grant":   {Name: "a", Role: ohrouter.Admin, Targets: []string{"any"}},
		"viewer's quota":  {Name: "a", Role: ohrouter.Viewer, MaxBindings: new(1)},
		"no targets":      user("a"),
		"bad target":      user("a", "10.0.0.1/8:1"),
		"many targets":    user("a", long...),
		"many proxies":    {Name: "a", Role: ohrouter.User, Targets: []string{"any"}, Proxies: slices.Repeat([]string{"p"}, maxProxies+1)},
		"empty proxy":     {Name: "a", Role: ohrouter.User, Targets: []string{"any"}, Proxies: []string{""}},
		"bad ports":       {Name: "a", Role: ohrouter.User, Targets: []string{"any"}, Ports: &ohrouter.PortRange{Low: 2, High: 1}},
		"negative quota":  {Name: "a", Role: ohrouter.User, Targets: []string{"any"}, MaxBindings: new(-1)},
		"big quota":       {Name: "a", Role: ohrouter.User, Targets: []string{"any"}, TargetsPerMinute: new(maxPerMin + 1)},
		"big pace":        {Name: "a", Role: ohrouter.User, Targets: []string{"any"}, CallsPerSecond: new(maxPerSec + 1)},
		"negative limit":  {Name: "a", Role: ohrouter.User, Targets: []string{"any"}, MaxTTL: -1},
	} {
		_, err := tokens.Create(t.Context(), spec)
		wantCode(t, what, err, ohrouter.InvalidRequest)
	}
	if n := len(tokens.List()); n != 1 {
		t.Errorf("there are %d tokens after mistakes, want 1", n)
	}
}

func TestNewTarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tokens := open(t, Config{})
		root := create(t, tokens, admin("root"))
		spec := user("ci", "any")
		spec.TargetsPerMinute = new(3)
		ci := create(t, tokens, spec)
		target := func(port uint16) ohrouter.Target { return ohrouter.Target{Host: "db", Port: port} }
		for port := range uint16(3) {
			if err := tokens.NewTarget(ci.ID, target(1+port)); err != nil {
				t.Errorf("new target %d = %v", 1+port, err)
			}
			time.Sleep(10 * time.Second)
		}
		wantCode(t, "the fourth", tokens.NewTarget(ci.ID, target(4)), ohrouter.QuotaExceeded)
		if err := tokens.NewTarget(ci.ID, target(2)); err != nil {
			t.Errorf("a target that was new just now = %v", err)
		}
		time.Sleep(30 * time.Second) // the first is a minute old
		if err := tokens.NewTarget(ci.ID, target(4)); err != nil {
			t.Errorf("the fourth a minute after the first = %v", err)
		}
		wantCode(t, "the fifth", tokens.NewTarget(ci.ID, target(5)), ohrouter.QuotaExceeded)
		for port := range uint16(1000) {
			if err := tokens.NewTarget(root.ID, target(1+port)); err != nil {
				t.Fatalf("an admin's new target %d = %v", 1+port, err)
			}
		}
	})
}
