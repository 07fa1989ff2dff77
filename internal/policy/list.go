// Package policy answers one question: may this target be dialled?
//
// A [List] is made of patterns and permits what one of them names; an empty
// one permits nothing. The patterns are
//
//	10.0.0.0/8:22,80,1000-2000   addresses, and the ports behind them
//	10.0.0.5:3306                one address
//	[2001:db8::]/32:443          IPv6 stands in brackets
//	db-*.internal:*              names; * stands for any characters, dots included
//	*:443                        every name and address
//	any                          every name and address, every port
//
// Addresses at which a network keeps what is nobody else's business are
// special: loopback, unspecified, link-local, multicast, broadcast, and those
// where clouds hand out credentials, in any form that carries them. They are
// reached only through addresses that name them: 127.0.0.0/8:80 opens loopback
// on port 80; any, *:80 and 0.0.0.0/0:80 do not. What is special, and how much
// a pattern has to name, is the table in special.go.
//
// The package does no I/O. Names are resolved by the caller, who asks
// [List.PermitsName] before and [List.Permits] for each address after.
package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/ohrouter/oh-router"
)

// maxPatterns bounds a list: every dial reads all of it.
const maxPatterns = 10_000

// List is an allow-list. It never changes after [Parse], so goroutines may
// share it; nil and the zero List permit nothing.
type List struct {
	patterns []pattern
	fixed    bool // nobody can add a pattern
}

// Parse reads patterns. The error has code [ohrouter.InvalidRequest], names the
// first pattern that is wrong and, where it can, the spelling that is right.
func Parse(patterns []string) (*List, error) {
	if len(patterns) > maxPatterns {
		return nil, ohrouter.Errorf(ohrouter.InvalidRequest, "%d patterns are more than the %d that a list may have", len(patterns), maxPatterns)
	}
	l := &List{patterns: make([]pattern, 0, len(patterns))}
	for _, s := range patterns {
		p, err := parsePattern(s)
		if err != nil {
			return nil, ohrouter.Errorf(ohrouter.InvalidRequest, "pattern %.300q: %v", s, err)
		}
		l.patterns = append(l.patterns, p)
	}
	return l, nil
}

// Everything returns the list of a process that serves the machine it runs on
// alone: any target, and loopback. The other special addresses stay closed.
func Everything() *List {
	l, err := Parse([]string{"any", "127.0.0.0/8:*", "[::1]:*"})
	if err != nil {
		panic(err)
	}
	l.fixed = true
	return l
}

// Split cuts a list such as "10.0.0.0/8:22,80,db.*:3306" into its patterns.
// Commas separate patterns and the ports within one, so an item that is
// nothing but ports continues the pattern before it.
func Split(list string) []string {
	var patterns []string
	for item := range strings.SplitSeq(list, ",") {
		item = strings.TrimSpace(item)
		switch {
		case item == "":
		case len(patterns) > 0 && strings.Trim(item, "0123456789-*") == "":
			patterns[len(patterns)-1] += "," + item
		default:
			patterns = append(patterns, item)
		}
	}
	return patterns
}

// Permits is the whole decision: whether t may be dialled at addr. Ask it for
// every address that is about to be connected to; a name that was permitted
// with one address is not permitted with another.
func (l *List) Permits(t ohrouter.Target, addr netip.Addr) bool {
	if l == nil || !addr.IsValid() {
		return false
	}
	addr = plain(addr)
	if literal := t.Addr(); literal.IsValid() && plain(literal) != addr {
		return false
	}
	within, isSpecial := specialRange(addr)
	return slices.ContainsFunc(l.patterns, func(p pattern) bool {
		if isSpecial {
			// Both contain addr: the one with more bits lies within the other.
			return p.matchesAddr(addr, t.Port) && p.cidr.Bits() >= within.prefix.Bits()
		}
		return p.matchesAddr(addr, t.Port) || p.matchesHost(t)
	})
}

// PermitsName is the early decision: whether t could be permitted with some
// address, so that a name which cannot is never looked up. For a target that
// is an address the answer is final.
func (l *List) PermitsName(t ohrouter.Target) bool {
	if l == nil {
		return false
	}
	if addr := t.Addr(); addr.IsValid() {
		return l.Permits(t, addr)
	}
	return slices.ContainsFunc(l.patterns, func(p pattern) bool {
		return p.matchesHost(t) || p.cidr.IsValid() && p.ports.contains(t.Port)
	})
}

// PermitsWritten is the decision of one who does not resolve names: whether t
// is permitted as it is written. A name needs a pattern of names, for nobody
// here knows its addresses.
func (l *List) PermitsWritten(t ohrouter.Target) bool {
	if l == nil {
		return false
	}
	if addr := t.Addr(); addr.IsValid() {
		return l.Permits(t, addr)
	}
	return slices.ContainsFunc(l.patterns, func(p pattern) bool { return p.matchesHost(t) })
}

// Explain says in a sentence why t is not permitted at addr and which pattern
// would permit it. It is for the logs and messages of the proxy's side; addr is
// the zero Addr where none is known.
func (l *List) Explain(t ohrouter.Target, addr netip.Addr) string {
	if !addr.IsValid() {
		return fmt.Sprintf("no pattern of the allow-list names %s; --allow %s would permit it", t, t)
	}
	addr = plain(addr)
	remedy := ohrouter.Target{Host: addr.String(), Port: t.Port}
	within, ok := specialRange(addr)
	switch {
	case ok && l != nil && l.fixed:
		return fmt.Sprintf("%s is special (%s), which 'oh-router up' does not dial", addr, within.kind)
	case ok:
		return fmt.Sprintf("%s is special (%s): only a CIDR within %s opens it; --allow %s would permit it", addr, within.kind, within.prefix, remedy)
	}
	return fmt.Sprintf("no pattern of the allow-list names %s or %s; --allow %s would permit it", t, addr, remedy)
}

// Patterns returns the list's patterns in canonical form and the order given.
// [Parse] reads them back.
func (l *List) Patterns() []string {
	if l == nil {
		return nil
	}
	s := make([]string, len(l.patterns))
	for i, p := range l.patterns {
		s[i] = p.String()
	}
	return s
}

// String returns the patterns, separated by commas. [Split] takes it apart.
func (l *List) String() string { return strings.Join(l.Patterns(), ",") }

// plain returns the spelling of addr that patterns are held against: without a
// zone, and IPv4 where it is IPv4 in IPv6 clothes.
func plain(addr netip.Addr) netip.Addr { return addr.WithZone("").Unmap() }
