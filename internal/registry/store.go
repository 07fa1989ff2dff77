package registry

import (
	"context"
	"net/netip"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
)

// Record is what the registry remembers of one port: which target it belongs
// to and whose it is, and the binding that uses it or how long it rests. A port has one record
// at most, so that a port changes its meaning in one write. The JSON shape is
// what stores may keep.
type Record struct {
	Port       uint16          `json:"port"`                 // the key
	Owner      string          `json:"owner,omitempty"`      // id of the token whose binding it serves, or last served; "" without tokens
	Target     ohrouter.Target `json:"target"`               // the target that the port belongs, or last belonged, to
	Binding    *Stored         `json:"binding,omitempty"`    // nil while no binding uses the port
	EndedAt    time.Time       `json:"ended_at,omitzero"`    // when the last binding of the port ended; zero while one uses it
	RestsUntil time.Time       `json:"rests_until,omitzero"` // before then only Target, for Owner, gets the port; zero while a binding uses it
}

// claim returns whom the port serves or last served.
func (r *Record) claim() claim { return claim{r.Owner, r.Target} }

// createdAt returns when the binding was created that uses the port; zero without.
func (r *Record) createdAt() time.Time {
	if r.Binding == nil {
		return time.Time{}
	}
	return r.Binding.CreatedAt
}

// Stored is what survives a restart of a binding. Counters and checks do not.
type Stored struct {
	ID          string            `json:"id"`
	Proxy       string            `json:"proxy,omitempty"`
	Pinned      bool              `json:"pinned,omitempty"` // Proxy was asked for by name
	CreatedAt   time.Time         `json:"created_at"`
	IdleTimeout ohrouter.Duration `json:"idle_timeout"`        // 0 never recycled
	TTL         ohrouter.Duration `json:"ttl,omitempty"`       // as it was asked for; 0 none
	ExpiresAt   time.Time         `json:"expires_at,omitzero"` // zero without a ttl
	Allow       []netip.Prefix    `json:"allow,omitempty"`
	MaxSessions int               `json:"max_sessions,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`

	ProxyProtocol string `json:"proxy_protocol,omitempty"`
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
}
