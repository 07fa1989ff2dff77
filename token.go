package ohrouter

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Role is what the holder of a token is to the router.
type Role string

// The roles.
const (
	Admin  Role = "admin"  // does everything
	User   Role = "user"   // maps what is granted to it; sees and touches only its own
	Viewer Role = "viewer" // sees everything, changes nothing
)

// Roles returns every role, in the order of the documentation.
func Roles() []Role { return []Role{Admin, User, Viewer} }

// Grant is what a user may have. The zero value grants no target. It means
// nothing for the other roles.
type Grant struct {
	Targets          []string   `json:"targets"`            // patterns as in a proxy's allow-list, for targets as they are asked for
	Proxies          []string   `json:"proxies"`            // names; empty any
	Ports            *PortRange `json:"ports"`              // mapped ports; nil any of the router's
	MaxTTL           Duration   `json:"max_ttl"`            // of a binding, which has one then; 0 no limit
	MaxBindings      int        `json:"max_bindings"`       // at once; 0 no limit
	MaxSessions      int        `json:"max_sessions"`       // at once, of all bindings together; 0 no limit
	TargetsPerMinute int        `json:"targets_per_minute"` // that were not bound before; 0 no limit
	CallsPerSecond   int        `json:"calls_per_second"`   // of the API, in the long run; 0 no limit
	Reasons          bool       `json:"reasons"`            // why a target cannot be reached, and where its name leads, is told
}

// Token is a snapshot of a right to call the API. The secret that its holder
// shows is not part of it, and is kept nowhere.
type Token struct {
	ID   string `json:"id"`
	Name string `json:"name"`
	Role Role   `json:"role"`
	Grant
	CreatedAt  time.Time  `json:"created_at"`
	ExpiresAt  *time.Time `json:"expires_at"`   // nil never
	LastUsedAt *time.Time `json:"last_used_at"` // nil not since the router started
}

// TokenSpec is what a new token is to be. A nil quota is the default.
type TokenSpec struct {
	Name             string     `json:"name"`
	Role             Role       `json:"role"`
	TTL              Duration   `json:"ttl,omitempty"` // 0 no end
	Targets          []string   `json:"targets,omitempty"`
	Proxies          []string   `json:"proxies,omitempty"`
	Ports            *PortRange `json:"ports,omitempty"`
	MaxTTL           Duration   `json:"max_ttl,omitempty"`
	MaxBindings      *int       `json:"max_bindings,omitempty"` // 0 no limit
	MaxSessions      *int       `json:"max_sessions,omitempty"` // 0 no limit
	TargetsPerMinute *int       `json:"targets_per_minute,omitempty"`
	CallsPerSecond   *int       `json:"calls_per_second,omitempty"`
	Reasons          bool       `json:"reasons,omitempty"`
}

// NewToken is a token that has just been made, with its secret: the only time
// that anybody sees it.
type NewToken struct {
	Token
	Secret string `json:"secret"`
}

// PortRange is the ports from Low to High, both included.
type PortRange struct{ Low, High uint16 }

// Contains tells whether port lies in the range.
func (r PortRange) Contains(port uint16) bool { return port >= r.Low && port <= r.High }

// String returns "LOW-HIGH".
func (r PortRange) String() string { return fmt.Sprintf("%d-%d", r.Low, r.High) }

// MarshalText returns what String does.
func (r PortRange) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads "LOW-HIGH", or one port. The error has code
// [InvalidRequest].
func (r *PortRange) UnmarshalText(b []byte) error {
	low, high, isRange := strings.Cut(string(b), "-")
	if !isRange {
		high = low
	}
	l, errLow := strconv.ParseUint(low, 10, 16)
	h, errHigh := strconv.ParseUint(high, 10, 16)
	if errLow != nil || errHigh != nil || l == 0 || h < l {
		return Errorf(InvalidRequest, "%.40q is not a range of ports such as 20000-20099", b)
	}
	*r = PortRange{Low: uint16(l), High: uint16(h)}
	return nil
}
