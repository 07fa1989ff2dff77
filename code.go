package ohrouter

import (
	"errors"
	"fmt"
	"slices"
)

// Code names why something failed. The list is closed: the same codes stand
// in API answers, on the link, in metric labels and in logs, so that nobody
// ever has to read an error's text to know what it is.
type Code string

// The codes. Each comment says what happened and whose turn it is.
const (
	InvalidRequest    Code = "invalid_request"    // the caller sent something malformed
	Unauthorized      Code = "unauthorized"       // no valid credentials
	Forbidden         Code = "forbidden"          // valid credentials without the right
	TargetDenied      Code = "target_denied"      // the proxy's allow-list does not have the target
	NotFound          Code = "not_found"          // no such binding, session or page
	Conflict          Code = "conflict"           // it exists with other values, or the port is taken
	QuotaExceeded     Code = "quota_exceeded"     // a limit is reached; later may work
	TargetRefused     Code = "target_refused"     // the target's host answered: nothing listens there
	TargetUnreachable Code = "target_unreachable" // no way from the proxy to the target
	TargetUnresolved  Code = "target_unresolved"  // the proxy cannot resolve the target's name
	TargetTimeout     Code = "target_timeout"     // the target did not answer in time
	NoProxy           Code = "no_proxy"           // no proxy serves the target, or the name is unknown
	ProxyUnreachable  Code = "proxy_unreachable"  // the router cannot complete a handshake with the proxy
	PortsExhausted    Code = "ports_exhausted"    // every port of the range is taken or resting
	Draining          Code = "draining"           // shutting down; takes nothing new
	Internal          Code = "internal"           // a fault of oh-router or its machine
)

// Codes returns every code, in the order of the documentation.
func Codes() []Code {
	return []Code{
		InvalidRequest, Unauthorized, Forbidden, TargetDenied, NotFound, Conflict, QuotaExceeded,
		TargetRefused, TargetUnreachable, TargetUnresolved, TargetTimeout,
		NoProxy, ProxyUnreachable, PortsExhausted, Draining, Internal,
	}
}

// Known tells whether c is in the list.
func (c Code) Known() bool { return slices.Contains(Codes(), c) }

// Error is a failure with a code. Message is a sentence for a person: what was
// being done, to what, and where it helps what to try next; it holds nothing
// that the caller may not see. Err is the cause, for logs.
type Error struct {
	Code    Code
	Message string
	Err     error
}

// Error returns the message, followed by the cause where there is one.
func (e *Error) Error() string {
	if e.Err == nil {
		return e.Message
	}
	return e.Message + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Errorf returns an error with a code and a formatted message, and no cause.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// CodeOf returns the code of the first [Error] in err's chain: "" for nil,
// [Internal] for an error that has none.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	if e, ok := errors.AsType[*Error](err); ok && e.Code != "" {
		return e.Code
	}
	return Internal
}

// Message returns the sentence for a person of the first [Error] in err's
// chain, and a general one for an error that has none: internal errors are for
// logs, not for callers.
func Message(err error) string {
	if err == nil {
		return ""
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Message
	}
	return "internal error; the server's log has the details"
}

// Outcome names how a session ended. The list is closed; a session that never
// began has the [Code] of the reason as its outcome.
type Outcome string

// The outcomes.
const (
	ClientClosed  Outcome = "client_closed"  // orderly, the client first
	TargetClosed  Outcome = "target_closed"  // orderly, the target first
	ClientReset   Outcome = "client_reset"   // the client reset, vanished, or took nothing for too long
	TargetReset   Outcome = "target_reset"   // the target did, as far as the proxy tells
	LinkLost      Outcome = "link_lost"      // the link between router and proxy broke
	Killed        Outcome = "killed"         // somebody cut this session
	BindingClosed Outcome = "binding_closed" // its binding was released or expired
	Drained       Outcome = "drained"        // the server's shutdown did not wait longer
	SourceDenied  Outcome = "source_denied"  // the client's address is not in the binding's allow list
	SessionLimit  Outcome = "session_limit"  // the binding's max_sessions, or those of its owner's token, were open
)

// Outcomes returns every outcome, in the order of the documentation.
func Outcomes() []Outcome {
	return []Outcome{
		ClientClosed, TargetClosed, ClientReset, TargetReset, LinkLost,
		Killed, BindingClosed, Drained, SourceDenied, SessionLimit,
	}
}
