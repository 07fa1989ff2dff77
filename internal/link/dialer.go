package link

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/socket"
)

// Dialer is the router's end of the handshake: it knows the proxies and makes
// links to them. It is safe for concurrent use.
type Dialer struct {
	states *States

	mu      sync.Mutex // guards proxies; never held during I/O
	proxies []*proxy   // in the order of the configuration
}

// Proxy is where a proxy listens.
type Proxy struct {
	Name    string
	Address string // "host:port"
}

// NewDialer returns a dialer for these proxies, whose names differ.
func NewDialer(proxies []Proxy, states *States) *Dialer {
	d := &Dialer{states: states}
	d.SetProxies(proxies)
	return d
}

// SetProxies replaces the proxies. Those that stay keep their state; links that
// stand are not touched.
func (d *Dialer) SetProxies(proxies []Proxy) {
	d.mu.Lock()
	defer d.mu.Unlock()
	former := d.proxies
	d.proxies = nil
	for _, p := range proxies {
		i := slices.IndexFunc(former, func(f *proxy) bool { return f.Proxy == p })
		if i < 0 {
			d.proxies = append(d.proxies, &proxy{Proxy: p, state: ohrouter.ProxyUnknown})
		} else {
			d.proxies = append(d.proxies, former[i])
		}
	}
}

// Want says which link is wanted.
type Want struct {
	Session string          // names the session in both logs; at most 64 bytes
	Target  ohrouter.Target // canonical
	Proxy   string          // the proxy to use; "" any that serves the target
	Pinned  bool            // no other proxy will do, not even while Proxy drains or is down
	Park    bool            // Ack comes later: until then no byte may be sent
	// Early is asked for payload that is there already, once the proxy is
	// connected; it goes right behind the AckCommand. Every proxy that is tried
	// asks again: what counts is what was given to the last. It may be nil, and
	// is not asked for a link to park.
	Early func() []byte
}

// Dial makes a link. Its error has the code that the proxy answered, or
// [ohrouter.ProxyUnreachable] when the handshake could not be completed, or
// [ohrouter.NoProxy]; it wraps ctx's when ctx was cancelled. ctx bounds the
// handshake, not the link.
func (d *Dialer) Dial(ctx context.Context, want Want) (*Link, error) {
	candidates, err := d.candidates(want)
	if err != nil {
		return nil, err
	}
	bound := candidates[0].Name == want.Proxy
	early := want.Early
	gave := false // payload to the proxy that was asked last
	if early != nil {
		want.Early = func() []byte {
			b := early()
			gave = len(b) > 0
			return b
		}
	}
	var worst error // of the answers, the one that says most
	for i, p := range candidates {
		gave = false
		l, err := d.dial(ctx, p, want)
		if err == nil {
			return l, nil
		}
		if worst == nil || rank(err) > rank(worst) {
			worst = err
		}
		if gave && ohrouter.CodeOf(err) == ohrouter.ProxyUnreachable {
			break // the target may have the payload: it must not get it twice
		}
		if ctx.Err() != nil || !elsewhere(err, bound && i == 0) {
			break
		}
	}
	if ohrouter.CodeOf(worst) == ohrouter.Draining {
		return nil, &ohrouter.Error{
			Code: ohrouter.NoProxy, Err: worst,
			Message: fmt.Sprintf("no proxy takes %v: every one that could is shutting down; try again when it is back", want.Target),
		}
	}
	return nil, worst
}

// candidates returns the proxies to ask, in order.
func (d *Dialer) candidates(want Want) ([]*proxy, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if want.Proxy == "" {
		if len(d.proxies) == 0 {
			return nil, ohrouter.Errorf(ohrouter.NoProxy, "the router has no proxy; give it one with --proxy HOST:PORT")
		}
		return slices.Clone(d.proxies), nil
	}
	i := slices.IndexFunc(d.proxies, func(p *proxy) bool { return p.Name == want.Proxy })
	switch {
	case i < 0 && (want.Pinned || len(d.proxies) == 0):
		return nil, ohrouter.Errorf(ohrouter.NoProxy, "the router has no proxy %q; it has %s", want.Proxy, d.names())
	case i < 0: // the one that served the binding is gone from the configuration
		return slices.Clone(d.proxies), nil
	case want.Pinned:
		return []*proxy{d.proxies[i]}, nil
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

// elsewhere tells whether another proxy may serve what one did not. What the
// proxy that a binding is bound to says of the target holds: the same name may
// be another machine in another network.
func elsewhere(err error, bound bool) bool {
	switch ohrouter.CodeOf(err) {
	case ohrouter.Draining, ohrouter.ProxyUnreachable:
		return true
	case ohrouter.TargetDenied, ohrouter.TargetUnresolved:
		return !bound
	}
	return false
}

// rank orders failures by how much they say of the target.
func rank(err error) int {
	switch ohrouter.CodeOf(err) {
	case ohrouter.Draining:
		return 0
	case ohrouter.ProxyUnreachable:
		return 1
	case ohrouter.TargetDenied:
		return 2
	case ohrouter.TargetUnresolved:
		return 3
	}
	return 4
}

// dial makes a link to one proxy and takes note of how that went.
func (d *Dialer) dial(ctx context.Context, p *proxy, want Want) (*Link, error) {
	l, err := d.connect(ctx, p)
	if err != nil {
		return nil, p.failed(ctx, err)
	}
	answered, err := l.handshake(ctx, want)
	if err == nil {
		p.answered(ohrouter.ProxyUp)
		return l, nil
	}
	l.Close()
	switch {
	case !answered:
		return nil, p.failed(ctx, err)
	case ohrouter.CodeOf(err) == ohrouter.Draining:
		p.answered(ohrouter.ProxyDraining)
	default:
		p.answered(ohrouter.ProxyUp)
	}
	return nil, err
}

func (d *Dialer) connect(ctx context.Context, p *proxy) (*Link, error) {
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	conn, err := socket.Dial(ctx, p.Address)
	if err != nil {
		return nil, err
	}
	p.links.Add(1)
	return &Link{Proxy: p.Name, conn: conn, proxy: p, tracker: d.states.track()}, nil
}

// Proxies returns what is known of the proxies, in the order of the
// configuration.
func (d *Dialer) Proxies() []ohrouter.Proxy {
	d.mu.Lock()
	proxies := slices.Clone(d.proxies)
	d.mu.Unlock()
	list := make([]ohrouter.Proxy, 0, len(proxies))
	for _, p := range proxies {
		list = append(list, p.snapshot())
	}
	return list
}

// Knows tells whether there is a proxy of that name.
func (d *Dialer) Knows(name string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.ContainsFunc(d.proxies, func(p *proxy) bool { return p.Name == name })
}
