package registry

import (
	"context"
	"net/netip"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
)

// Record is what the registry remembers of one port: which target it belongs
// to, and the binding that uses it or how long it rests. A port has one record
// at most, so that a port changes its meaning in one write.
type Record struct {
	Port       uint16          // the key
	Target     ohrouter.Target // the target that the port belongs, or last belonged, to
	Binding    *Stored         // nil while no binding uses the port
	EndedAt    time.Time       // when the last binding of the port ended; zero while one uses it
	RestsUntil time.Time       // before then only Target gets the port; zero while a binding uses it
}

// Stored is what survives a restart of a binding. Counters and checks do not.
type Stored struct {
	ID          string
	Proxy       string
	Pinned      bool // Proxy was asked for by name
	CreatedAt   time.Time
	IdleTimeout time.Duration
	ExpiresAt   time.Time // zero without a ttl
	Allow       []netip.Prefix
	MaxSessions int
	Labels      map[string]string
}

// Store keeps records across restarts. Implementations are safe for concurrent
// use and pass storetest.Run.
type Store interface {
	// Load returns every record, in no particular order.
	Load(ctx context.Context) ([]Record, error)
	// Put writes a record in place of the port's former one. When it returns
	// nil, the record survives a crash of the process and of the machine.
	Put(ctx context.Context, r Record) error
	// Delete forgets a port. To delete one that has no record is no error.
	Delete(ctx context.Context, port uint16) error
	// Close releases what the store holds. It is idempotent.
	Close() error
}
