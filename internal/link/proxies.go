package link

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
)

// proxy is what the dialer knows of one proxy.
type proxy struct {
	Proxy
	states  *States      // of its links
	literal bool         // its address is no name
	links   atomic.Int64 // open
	look    look         // of Up
	pool    pool

	mu       sync.Mutex // guards what follows; never held during I/O
	state    ohrouter.ProxyState
	reported ohrouter.ProxyState // in the log
	seen     time.Time
	failure  *ohrouter.Failure
	foreign  bool           // what listens there is no proxy, by its last answer
	refused  bool           // it has refused to prove anything, or what this side has proved, since it last answered
	takes    time.Duration  // the longest it takes to answer, as it said
	address  netip.AddrPort // at which it was reached last
	resolved time.Time      // when that was
}

// addressFresh is how long a proxy's name is not resolved again.
const addressFresh = 5 * time.Second

// reached notes the address at which the proxy was connected.
func (p *proxy) reached(at netip.AddrPort) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if at.Addr().Zone() == "" {
		p.address, p.resolved = at, time.Now()
	}
}

// forget makes the next one to connect ask a name server.
func (p *proxy) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.resolved = time.Time{}
}

// at returns where to connect without asking a name server, the zero AddrPort
// when that is not known.
func (p *proxy) at(now time.Time) netip.AddrPort {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.literal || now.Sub(p.resolved) < addressFresh {
		return p.address
	}
	return netip.AddrPort{}
}

// newProxy returns what is known of a proxy at first.
func newProxy(configured Proxy, states *States) *proxy {
	p := &proxy{Proxy: configured, states: states, state: ohrouter.ProxyUnknown}
	p.pool.least = worthwhile
	if at, err := netip.ParseAddrPort(configured.Address); err == nil && at.Addr().Zone() == "" {
		p.literal, p.address = true, at
	}
	return p
}

// firstPatience is how long a proxy may take that has not said how long it
// takes: its default --dial-timeout.
const firstPatience = 5 * time.Second

func (p *proxy) patience() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.takes == 0 {
		return firstPatience
	}
	return p.takes
}

func (p *proxy) learn(ms uint32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.takes = min(time.Duration(ms)*time.Millisecond, time.Minute)
}

// hasAnswered tells whether the proxy has ever answered as one.
func (p *proxy) hasAnswered() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.takes > 0
}

func (p *proxy) answered(s ohrouter.ProxyState) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.state, p.seen, p.foreign, p.refused = s, time.Now(), false, false
}

// away returns 1 for a proxy that is known to serve nobody now, else 0.
func (p *proxy) away() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state == ohrouter.ProxyDown || p.state == ohrouter.ProxyDraining {
		return 1
	}
	return 0
}

// failed makes an error of a handshake that was not completed. When that is
// because ctx ended, or this process may have no more sockets, it says nothing of
// the proxy.
func (p *proxy) failed(ctx context.Context, err error) error {
	e := &ohrouter.Error{Code: ohrouter.ProxyUnreachable, Err: err}
	foreign, refused := ohrouter.CodeOf(err) == ohrouter.InvalidRequest, ohrouter.CodeOf(err) == ohrouter.Unauthorized
	dns, isName := errors.AsType[*net.DNSError](err)
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return fmt.Errorf("link to proxy %s: %w", p.Name, ctx.Err())
	case isOwn(err):
		e.Code = ohrouter.Internal
		e.Message = fmt.Sprintf("the router has run out of file descriptors or local ports, connecting to %s%s", p.where(), why(err))
		return e
	case foreign:
		e.Message = fmt.Sprintf("%s answers, but not as an oh-router proxy; check the router's --proxy", p.where())
	case refused:
		e.Message = fmt.Sprintf("no secure link to %s: %s", p.where(), ohrouter.Message(err))
	case isName:
		e.Message = fmt.Sprintf("%s cannot be found: the router cannot resolve %s (%s); check the router's --proxy", p.where(), dns.Name, dns.Err)
	case hangsUp(err):
		e.Message = fmt.Sprintf("%s hangs up without an answer; is it an oh-router proxy of this version, and do both sides have a certificate, or neither? Its log may say why", p.where())
	case isTimeout(err):
		e.Message = fmt.Sprintf("%s does not answer in time; check its address, and what lies between it and the router", p.where())
	default:
		e.Message = fmt.Sprintf("%s cannot be reached%s; is it running?", p.where(), why(err))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.state, p.foreign, p.refused = ohrouter.ProxyDown, foreign, p.refused || refused
	p.failure = &ohrouter.Failure{Code: e.Code, Message: e.Message, At: time.Now().UTC()}
	return e
}

// wasRefused tells whether the next handshake of TLS is a second attempt.
func (p *proxy) wasRefused() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.refused
}

func (p *proxy) where() string {
	if p.Name == p.Address {
		return "proxy " + p.Address
	}
	return fmt.Sprintf("proxy %s at %s", p.Name, p.Address)
}

func (p *proxy) snapshot() ohrouter.Proxy {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := ohrouter.Proxy{
		Name: p.Name, Address: p.Address, State: p.state,
		Links: int(p.links.Load()), LastError: p.failure,
	}
	if seen := p.seen; !seen.IsZero() {
		s.SeenAt = &seen
	}
	return s
}

// isOwn tells whether a connection was not made for want of something that this
// process, or its machine, is to have.
func isOwn(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.EADDRNOTAVAIL)
}

// why returns what the system says of a connection that was not made, in
// parentheses, if it does.
func why(err error) string {
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return " (" + errno.Error() + ")"
	}
	return ""
}

// hangsUp tells whether the peer's end of a connection was why an exchange with
// it failed.
func hangsUp(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}
