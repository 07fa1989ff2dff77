package proxy

import (
	"net/netip"
	"sync"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/relay"
)

// known has the addresses at which names were just connected: an event loop
// cannot wait for a name server, and name servers are not to be asked for every
// session.
type known struct {
	within time.Duration // after this they are looked up anew

	mu sync.Mutex // guards at
	at map[ohrouter.Target]address
}

type address struct {
	way   relay.Way
	until time.Time
}

const (
	// maxKnown is how many addresses are kept.
	maxKnown = 1024
	// maxAttempt is how long connecting to one may take. It comes on top of what the
	// router was told that connecting takes, and is less than [link.Timeout], by which
	// that waits longer.
	maxAttempt = 3 * time.Second
)

// note keeps the one of a name's addresses that was connected, which took so long.
// A name that has several of a kind may have them to share out sessions, and is
// looked up for each.
func (k *known) note(t ohrouter.Target, at netip.AddrPort, all []netip.Addr, resolved time.Time, took time.Duration) {
	v4, v6 := 0, 0
	for _, a := range all {
		if a.Unmap().Is4() {
			v4++
		} else {
			v6++
		}
	}
	if k.within <= 0 || v4 > 1 || v6 > 1 || at.Addr().Zone() != "" { // a loop connects to none with a zone
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.at == nil || len(k.at) >= maxKnown {
		k.at = make(map[ohrouter.Target]address) // what is of use comes again
	}
	k.at[t] = address{
		way:   relay.Way{To: netip.AddrPortFrom(at.Addr().Unmap(), at.Port()), ConnectWithin: min(attemptDelay+3*took, maxAttempt)},
		until: resolved.Add(k.within),
	}
}

// find returns the way to a name; nowhere if it is to be looked up. What is known
// may be wrong by now, so that there is not much time to connect.
func (k *known) find(t ohrouter.Target, now time.Time) relay.Way {
	k.mu.Lock()
	defer k.mu.Unlock()
	a := k.at[t]
	if now.After(a.until) {
		delete(k.at, t)
		return relay.Way{}
	}
	return a.way
}

// forget has a name looked up anew.
func (k *known) forget(t ohrouter.Target) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.at, t)
}
