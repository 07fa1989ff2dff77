package proxy

import (
	"net/netip"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
)

// OfThisMachine is ofThisMachine, MaxKnown is maxKnown, Interleave is interleave.
var (
	OfThisMachine = ofThisMachine
	MaxKnown      = maxKnown
	Interleave    = interleave
)

// DialError is dialError.
func (p *Proxy) DialError(t ohrouter.Target, err error, took time.Duration) error {
	return p.dialError(t, netip.AddrPortFrom(t.Addr(), t.Port), err, took)
}

// Know has p remember where a name has led.
func (p *Proxy) Know(t ohrouter.Target, ip string) {
	at := netip.MustParseAddr(ip)
	p.known.note(t, netip.AddrPortFrom(at, t.Port), []netip.Addr{at}, time.Now(), time.Microsecond)
}

// Known returns how many names p remembers.
func (p *Proxy) Known() int {
	p.known.mu.Lock()
	defer p.known.mu.Unlock()
	return len(p.known.at)
}
