package access

import (
	ohrouter "github.com/ohrouter/oh-router"
)

// Whoever may not know why a target cannot be reached gets the same answer for
// what the proxy's allow-list denies and for what does not answer: many such
// answers would be a map of a network. What is told:
//
//	target_denied, target_refused, target_unreachable,
//	target_unresolved, target_timeout                   target_unreachable
//	no_proxy, proxy_unreachable                         the code, without names
//	internal                                            the code, without what went wrong
//	everything else                                     as it is
func withheld(code ohrouter.Code) (told ohrouter.Code, message string, changed bool) {
	switch code {
	case ohrouter.TargetDenied, ohrouter.TargetRefused, ohrouter.TargetUnreachable, ohrouter.TargetUnresolved, ohrouter.TargetTimeout:
		return ohrouter.TargetUnreachable, "the target cannot be reached; the router's log has the reason", true
	case ohrouter.NoProxy, ohrouter.ProxyUnreachable:
		return code, "no proxy can serve the target now", true
	case ohrouter.Internal: // what went wrong may have addresses and files in it
		return code, "internal error; the server's log has the details", true
	}
	return code, "", false
}

// Told returns whether the caller may know all of an error of the router, and
// what it may know.
func (c Caller) Told(err error) (all bool, told error) {
	if c.SeesReasons() {
		return true, err
	}
	code, message, changed := withheld(ohrouter.CodeOf(err))
	if !changed {
		return true, err
	}
	return false, &ohrouter.Error{Code: code, Message: message, Err: err}
}

// Binding returns what the caller may know of a binding that it sees.
func (c Caller) Binding(b ohrouter.Binding) ohrouter.Binding {
	if c.SeesReasons() {
		return b
	}
	if b.LastCheck != nil {
		check := *b.LastCheck
		check.Resolved = ""
		b.LastCheck = &check
	}
	if b.LastError != nil {
		if code, message, changed := withheld(b.LastError.Code); changed {
			b.LastError = &ohrouter.Failure{Code: code, Message: message, At: b.LastError.At}
		}
	}
	return b
}

// Session returns what the caller may know of a session that it sees.
func (c Caller) Session(s ohrouter.Session) ohrouter.Session {
	if !c.SeesReasons() {
		s.Resolved = ""
	}
	return s
}
