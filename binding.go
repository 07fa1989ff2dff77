package ohrouter

import (
	"encoding/json"
	"net/netip"
	"strings"
	"time"
)

// Duration is a time.Duration that stands as a Go string ("5m0s") in JSON.
type Duration time.Duration

// String returns what [time.Duration.String] does.
func (d Duration) String() string { return time.Duration(d).String() }

// MarshalText returns what String does.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads what [time.ParseDuration] does; empty text is 0.
func (d *Duration) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*d = 0
		return nil
	}
	v, err := time.ParseDuration(string(b))
	if err != nil {
		return Errorf(InvalidRequest, "%.40q %s", b, whyNoDuration(string(b)))
	}
	*d = Duration(v)
	return nil
}

// whyNoDuration returns what is wrong with a text that is not a duration.
func whyNoDuration(s string) string {
	if _, err := time.ParseDuration(s + "s"); err == nil && strings.Trim(s, "0123456789.") == "" {
		return "has no unit: write " + s + "s for seconds"
	}
	zeros := strings.Map(func(r rune) rune {
		if '0' <= r && r <= '9' {
			return '0'
		}
		return r
	}, s)
	if _, err := time.ParseDuration(zeros); err == nil {
		return "is too long a time"
	}
	return "is not a duration such as 90s, 5m or 1h30m"
}

// Optional is a string that stands as null in JSON while it is empty.
type Optional string

// MarshalJSON returns null for "".
func (o Optional) MarshalJSON() ([]byte, error) {
	if o == "" {
		return []byte("null"), nil
	}
	return json.Marshal(string(o))
}

// ProxyProtocolV2 is the value of a binding's ProxyProtocol that has targets
// told who the client is, with a header of version 2 of the PROXY protocol
// before the client's first byte.
const ProxyProtocolV2 = "v2"

// BindingSpec is what a bind call asks for. The zero value of a field means
// "as it is" for an existing binding and "the default" for a new one.
type BindingSpec struct {
	Target      Target            `json:"target"`
	Proxy       string            `json:"proxy,omitempty"`        // name of the proxy to use; "" any that serves the target
	Port        uint16            `json:"port,omitempty"`         // mapped port to have; 0 any of the range
	IdleTimeout *Duration         `json:"idle_timeout,omitempty"` // nil the default; 0 never
	TTL         Duration          `json:"ttl,omitempty"`          // absolute; 0 none
	Allow       []netip.Prefix    `json:"allow,omitempty"`        // who may connect; empty anybody
	MaxSessions int               `json:"max_sessions,omitempty"` // 0 no limit
	Labels      map[string]string `json:"labels,omitempty"`
	Check       *bool             `json:"check,omitempty"` // nil is true

	ProxyProtocol string `json:"proxy_protocol,omitempty"` // ProxyProtocolV2, or "" for none

	// AllowRequester adds the address that makes the call to Allow. In JSON it
	// is the word requester there, which the API replaces.
	AllowRequester bool `json:"-"`

	// What the API knows of the caller, and no caller says.
	Owner        string         `json:"-"` // id of the token; "" without tokens
	DefaultAllow []netip.Prefix `json:"-"` // for a new binding without an allow of its own
}

// BindingPatch changes a binding. A nil field stays as it is; any other value
// replaces the field's.
type BindingPatch struct {
	IdleTimeout *Duration          `json:"idle_timeout,omitempty"` // 0 never
	TTL         *Duration          `json:"ttl,omitempty"`          // from now on; 0 none
	Allow       *[]netip.Prefix    `json:"allow,omitempty"`
	MaxSessions *int               `json:"max_sessions,omitempty"`
	Labels      *map[string]string `json:"labels,omitempty"`
}

// BindingState is where a binding is in its life.
type BindingState string

// The states of a binding.
const (
	BindingActive   BindingState = "active"
	BindingDraining BindingState = "draining" // its listener is closed; sessions may finish
)

// Binding is a snapshot of a target mapped to a port of the router.
type Binding struct {
	ID            string            `json:"id"`
	Owner         Optional          `json:"owner"` // id of the token that made it; "" without tokens
	Target        Target            `json:"target"`
	Proxy         Optional          `json:"proxy"`   // name of the proxy that serves it; "" not known yet
	Pinned        bool              `json:"-"`       // Proxy was asked for by name: no other may serve it
	Address       string            `json:"address"` // "host:port": where clients connect; the API fills it and Host in
	Host          string            `json:"host"`
	Port          uint16            `json:"port"`
	State         BindingState      `json:"state"`
	CreatedAt     time.Time         `json:"created_at"`
	LastUsedAt    time.Time         `json:"last_used_at"` // the last bind call or session's end; now while a session is open
	IdleTimeout   Duration          `json:"idle_timeout"` // 0 never recycled
	ExpiresAt     *time.Time        `json:"expires_at"`   // nil without a ttl
	Allow         []netip.Prefix    `json:"allow"`        // never nil
	MaxSessions   int               `json:"max_sessions"` // 0 no limit
	Labels        map[string]string `json:"labels"`       // never nil
	ProxyProtocol Optional          `json:"proxy_protocol"`
	Sessions      int               `json:"sessions"` // open now
	SessionsTotal uint64            `json:"sessions_total"`
	BytesUp       uint64            `json:"bytes_up"` // client → target, live
	BytesDown     uint64            `json:"bytes_down"`
	LastCheck     *Check            `json:"last_check"`
	LastError     *Failure          `json:"last_error"`
	OwnerName     string            `json:"-"` // of the owner's token
	OwnerSessions int               `json:"-"` // that all bindings of the owner may have open together; 0 no limit
}

// Check is the result of connecting to a binding's target.
type Check struct {
	OK       bool      `json:"ok"`
	Resolved Optional  `json:"resolved"` // "ip:port" that the proxy connected to; "" when it did not
	Duration Duration  `json:"duration"`
	At       time.Time `json:"at"`
}

// Failure is the latest failed check or session set-up of a binding, or the
// latest failed handshake with a proxy.
type Failure struct {
	Code    Code      `json:"code"`
	Message string    `json:"message"`
	At      time.Time `json:"at"`
}

// Session is a snapshot of one client connection carried to a target.
type Session struct {
	ID        string         `json:"id"`
	BindingID string         `json:"binding_id"`
	Target    Target         `json:"target"`
	Resolved  Optional       `json:"resolved"` // "ip:port" that the proxy connected to; "" while there is no link
	Proxy     Optional       `json:"proxy"`    // name of the proxy; "" while there is no link
	Client    netip.AddrPort `json:"client"`
	StartedAt time.Time      `json:"started_at"`
	BytesUp   uint64         `json:"bytes_up"` // client → target, live
	BytesDown uint64         `json:"bytes_down"`
}

// ProxyState is what the router last saw of a proxy.
type ProxyState string

// The states of a proxy.
const (
	ProxyUnknown  ProxyState = "unknown"  // not spoken to yet
	ProxyUp       ProxyState = "up"       // the last handshake was answered
	ProxyDown     ProxyState = "down"     // the last handshake was not
	ProxyDraining ProxyState = "draining" // it answers that it is shutting down
)

// Proxy is a snapshot of one proxy that the router knows.
type Proxy struct {
	Name      string     `json:"name"`
	Address   string     `json:"address"` // "host:port" that the router dials
	State     ProxyState `json:"state"`
	Links     int        `json:"links"`      // open now
	SeenAt    *time.Time `json:"seen_at"`    // the last answered handshake; nil before the first
	LastError *Failure   `json:"last_error"` // the last handshake that was not answered
}

// Usage is what a binding's port has been used for since the router started.
type Usage struct {
	Sessions      int // open now, with those that are being set up
	Standing      int // of these, those whose target is connected
	SessionsTotal uint64
	BytesUp       uint64 // client → target, live
	BytesDown     uint64
	LastEnd       time.Time // end of the last session, by a clock that nobody sets; zero before the first
	LastOK        time.Time // last session set-up that succeeded, by the same clock; zero before the first
	LastError     *Failure  // latest session set-up that failed
}
