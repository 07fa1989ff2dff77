package link

import (
	"context"
	"crypto/tls"
	"slices"
	"strings"
	"sync"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/socket"
)

// Dialer is the router's end of the handshake: it knows the proxies and makes
// links to them. It is safe for concurrent use. Its fields are set before its
// first use.
type Dialer struct {
	// TLS returns the settings for a link to a proxy, and, when a handshake with
	// them has failed, those for a second attempt, which may be the same for
	// none. resumes tells that they are for a session that is resumed: a handshake
	// that is none has failed. A proxy's refusal comes behind the handshake: then
	// the next link is the second attempt. A nil TLS is plain TCP.
	TLS func(p Proxy, again bool) (settings *tls.Config, resumes bool)
	// Explain may find a better error for a link to a proxy that was not made.
	Explain func(p Proxy, err error) error
	// MaxHandshake is how many bytes of TLS a proxy may send before it has proved
	// who it is; 0 any number.
	MaxHandshake int
	// Pool bounds the warm links.
	Pool Pool
	// Sockets are the options of links.
	Sockets socket.Options

	states  *States
	secured secured
	refill  chan struct{} // has a token when a pool has to grow

	mu      sync.Mutex // guards proxies; never held during I/O
	proxies []*proxy   // in the order of the configuration; replaced, never changed
}

// Proxy is where a proxy listens.
type Proxy struct {
	Name    string
	Address string // "host:port"
}

// NewDialer returns a dialer for these proxies, whose names differ.
func NewDialer(proxies []Proxy, states *States) *Dialer {
	d := &Dialer{states: states, refill: make(chan struct{}, 1)}
	d.SetProxies(proxies)
	return d
}

// SetProxies replaces the proxies. Those that stay keep their state; links that
// stand are not touched, warm ones of a proxy that goes are closed.
func (d *Dialer) SetProxies(proxies []Proxy) {
	d.mu.Lock()
	former := d.proxies
	d.proxies = nil
	for _, p := range proxies {
		i := slices.IndexFunc(former, func(f *proxy) bool { return f.Proxy == p })
		if i < 0 {
			d.proxies = append(d.proxies, newProxy(p, d.states))
		} else {
			d.proxies = append(d.proxies, former[i])
		}
	}
	gone := slices.DeleteFunc(slices.Clone(former), func(f *proxy) bool { return slices.Contains(d.proxies, f) })
	d.mu.Unlock()
	for _, p := range gone {
		p.pool.end()
	}
}

// Want says which link is wanted.
type Want struct {
	Session string          // names the session in both logs; at most 64 bytes
	Target  ohrouter.Target // canonical
	Proxy   string          // the proxy to use; "" any that serves the target
	Pinned  bool            // no other proxy will do, not even while Proxy drains or is down
	Park    bool            // Ack comes later: until then no byte may be sent
	// Preamble goes before all payload, and is none: it is made again for every
	// proxy that is tried. A link to park does not send it.
	Preamble []byte
	// Early is asked for the payload that there is so far, once the proxy is
	// connected; it goes right behind the AckCommand. It may be asked again while a
	// proxy that is far away has not answered, and is for every proxy that is tried.
	// It may be nil, and is not asked for a link to park.
	Early func() []byte
}

// commands returns the frames that ask for what is wanted.
func (w Want) commands() ([]byte, error) {
	b := make([]byte, 0, len(w.Session)+len(w.Target.Host)+len(w.Preamble)+24) // what it takes, at most
	b, err := frames.append(b, typeConnect, &connectCommand{Session: w.Session, Host: w.Target.Host, Port: w.Target.Port, Park: w.Park})
	if err == nil && !w.Park {
		b = append(append(b, frames.ack...), w.Preamble...)
	}
	return b, err
}

// Dial makes a link, as [Handshake.Dial] does.
func (d *Dialer) Dial(ctx context.Context, want Want) (*Link, error) { return d.Begin(want).Dial(ctx) }

// candidates returns the proxies to ask, in order. The slice may be shared.
func (d *Dialer) candidates(want Want) ([]*proxy, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if want.Proxy == "" {
		if len(d.proxies) == 0 {
			return nil, ohrouter.Errorf(ohrouter.NoProxy, "the router has no proxy; give it one with --proxy HOST:PORT")
		}
		return d.proxies, nil
	}
	i := slices.IndexFunc(d.proxies, func(p *proxy) bool { return p.Name == want.Proxy })
	switch {
	case i < 0 && (want.Pinned || len(d.proxies) == 0):
		return nil, ohrouter.Errorf(ohrouter.NoProxy, "the router has no proxy %q; it has %s", want.Proxy, d.names())
	case i < 0: // the one that served the binding is gone from the configuration
		return d.proxies, nil
	case want.Pinned:
		return d.proxies[i : i+1], nil
	case i == 0:
		return d.proxies, nil
	}
	first := d.proxies[i]
	return append([]*proxy{first}, slices.DeleteFunc(slices.Clone(d.proxies), func(p *proxy) bool { return p == first })...), nil
}

// names lists the proxies for a person. The caller holds mu.
func (d *Dialer) names() string {
	var names []string
	for _, p := range d.proxies {
		names = append(names, p.Name)
	}
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// Proxies returns what is known of the proxies, in the order of the
// configuration, with times in UTC.
func (d *Dialer) Proxies() []ohrouter.Proxy {
	proxies := d.known()
	list := make([]ohrouter.Proxy, 0, len(proxies))
	for _, p := range proxies {
		s := p.snapshot()
		if s.SeenAt != nil { // here, for probe measures by it
			s.SeenAt = new(s.SeenAt.UTC())
		}
		list = append(list, s)
	}
	return list
}

// known returns the proxies.
func (d *Dialer) known() []*proxy {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.proxies)
}

// Knows tells whether there is a proxy of that name.
func (d *Dialer) Knows(name string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.ContainsFunc(d.proxies, func(p *proxy) bool { return p.Name == name })
}
