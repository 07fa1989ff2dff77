package audit

import (
	"cmp"
	"net/netip"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/fair"
)

// Event names what has happened.
type Event string

// The events. Who made a call that led to one is in its [Entry.By].
const (
	ServerStarted Event = "server_started"
	ServerStopped Event = "server_stopped" // in order; there is none after a crash

	TokenCreated Event = "token_created"
	TokenRevoked Event = "token_revoked"
	TokenExpired Event = "token_expired" // its time has ended

	EnrolmentMade    Event = "enrolment_made"    // a token with which a machine may become a proxy
	EnrolmentUsed    Event = "enrolment_used"    // a machine has become a proxy
	EnrolmentRefused Event = "enrolment_refused" // a token was unknown, too old, or used before
	ProxyRenewed     Event = "proxy_renewed"     // its certificate
	ProxyRevoked     Event = "proxy_revoked"     // its certificates

	CertificateChanged Event = "certificate_changed" // of the server itself
	AllowListChanged   Event = "allow_list_changed"  // of a proxy

	BindingCreated Event = "binding_created"
	BindingChanged Event = "binding_changed"
	BindingEnded   Event = "binding_ended"

	SessionOpened  Event = "session_opened"
	SessionClosed  Event = "session_closed"
	SessionRefused Event = "session_refused" // a connection that became none
	SessionKilled  Event = "session_killed"  // its end follows

	CallDenied  Event = "call_denied"  // of the API
	LinkRefused Event = "link_refused" // the other side is not who it has to be

	EventsLost Event = "events_lost" // before this line
)

// Events returns every event, in the order of the documentation.
func Events() []Event {
	return []Event{
		ServerStarted, ServerStopped, TokenCreated, TokenRevoked, TokenExpired,
		EnrolmentMade, EnrolmentUsed, EnrolmentRefused, ProxyRenewed, ProxyRevoked,
		CertificateChanged, AllowListChanged,
		BindingCreated, BindingChanged, BindingEnded,
		SessionOpened, SessionClosed, SessionRefused, SessionKilled,
		CallDenied, LinkRefused, EventsLost,
	}
}

// Entry is an event and what is known of it. Fields that say nothing are left
// out of its line.
type Entry struct {
	Event Event
	By    Caller // who made the call
	Role  string // of the server, or of the token

	Token, TokenName string // the token that it is about
	Owner, OwnerName string // the token whose binding it is

	Binding string
	Target  ohrouter.Target
	Port    uint16         // the mapped port
	Allow   []netip.Prefix // who may connect to it
	Expires time.Time      // end of the binding, token, enrolment or certificate

	Session    string
	Client     netip.AddrPort // who has connected
	Router     netip.AddrPort // the router's end of a link, in a proxy
	RouterName string         // by its certificate
	Proxy      string         // its name
	Address    string         // by which the router looks for it
	Resolved   netip.AddrPort // where the target was connected to
	BytesUp    uint64         // of a session that has ended, as the following
	BytesDown  uint64
	Duration   time.Duration

	Outcome ohrouter.Outcome // how a session ended
	Code    ohrouter.Code    // why something is denied
	Reason  string           // the same for people, and why a binding has ended
	Count   uint64           // of a sum: how many it stands for
	Lost    uint64
}

// kind returns what an event that refuses something has in common with those it
// is summed with.
func (e *Entry) kind() (k kind, refuses bool) {
	switch e.Event {
	case EnrolmentRefused, SessionRefused, CallDenied, LinkRefused:
	default:
		return kind{}, false
	}
	from := cmp.Or(e.By.From.Addr(), e.Client.Addr(), e.Router.Addr())
	k = kind{
		event: string(e.Event), code: e.Code, outcome: e.Outcome, source: fair.Source(from),
		session: e.Session != "", token: e.By.Token,
		binding: e.Binding, proxy: e.Proxy, target: e.Target,
	}
	if e.By.Token != "" { // else they are whatever a stranger likes
		k.call, k.reason = e.By.Call, e.Reason
	}
	return k, true
}
