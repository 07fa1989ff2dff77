package proxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/policy"
	"github.com/ohrouter/oh-router/internal/socket"
)

// connect resolves a target once, and connects to one of the addresses that
// the allow-list permits.
func (p *Proxy) connect(ctx context.Context, t ohrouter.Target) (*net.TCPConn, error) {
	begin := time.Now()
	defer func() { p.dialSeconds.Observe(time.Since(begin).Seconds()) }()
	ctx, cancel := context.WithTimeout(ctx, p.cfg.DialTimeout)
	defer cancel()
	allow := p.allow.Load()
	if !allow.PermitsName(t) {
		return nil, denied(t, allow.Explain(t, t.Addr()))
	}
	addrs, err := p.lookup(ctx, t)
	if err != nil {
		return nil, err
	}
	resolved := time.Now()
	permitted, why := p.permitted(t, addrs, allow)
	if len(permitted) == 0 {
		return nil, denied(t, why)
	}
	conn, at, err := p.race(ctx, interleave(permitted))
	if err != nil {
		return nil, p.dialError(t, at, err, time.Since(begin))
	}
	if !t.Addr().IsValid() {
		p.known.note(t, conn.RemoteAddr().(*net.TCPAddr).AddrPort(), addrs, resolved, time.Since(resolved))
	}
	return conn, nil
}

// permitted returns those of a target's addresses that may be dialled, or why
// there is none.
func (p *Proxy) permitted(t ohrouter.Target, addrs []netip.Addr, allow *policy.List) (list []netip.AddrPort, why string) {
	for _, a := range addrs {
		at := netip.AddrPortFrom(a.Unmap(), t.Port)
		switch {
		case !allow.Permits(t, a):
			why = cmp.Or(why, allow.Explain(t, a))
		case p.isOwn(at):
			why = fmt.Sprintf("the proxy itself listens on %v: a session to that would be a loop", at)
		default:
			list = append(list, at)
		}
	}
	return list, why
}

// denied tells why in the log alone: what the proxy would allow is its
// operator's to know.
func denied(t ohrouter.Target, why string) error {
	e := ohrouter.Errorf(ohrouter.TargetDenied, "%v is not among the targets that the proxy may dial; its operator finds the reason in its log", t)
	e.Err = errors.New(why)
	return e
}

// lookup returns the addresses of the target's host, at least one.
func (p *Proxy) lookup(ctx context.Context, t ohrouter.Target) ([]netip.Addr, error) {
	if a := t.Addr(); a.IsValid() {
		return []netip.Addr{a}, nil
	}
	resolve := p.cfg.Resolve
	if resolve == nil {
		resolve = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	addrs, err := resolve(ctx, t.Host)
	if err == nil && len(addrs) > 0 {
		return addrs, nil
	}
	message := fmt.Sprintf("the proxy cannot resolve %s: its name servers do not answer", t.Host)
	if dns, ok := errors.AsType[*net.DNSError](err); err == nil || ok && dns.IsNotFound {
		message = fmt.Sprintf("the proxy cannot resolve %s: no such name; names are resolved where the proxy runs", t.Host)
	}
	return nil, &ohrouter.Error{Code: ohrouter.TargetUnresolved, Message: message, Err: err}
}

// interleave orders addresses so that families take turns, beginning with the
// first address's (RFC 8305, section 4).
func interleave(addrs []netip.AddrPort) []netip.AddrPort {
	var first, second []netip.AddrPort
	for _, a := range addrs {
		if a.Addr().Is4() == addrs[0].Addr().Is4() {
			first = append(first, a)
		} else {
			second = append(second, a)
		}
	}
	ordered := make([]netip.AddrPort, 0, len(addrs))
	for i := range first {
		ordered = append(ordered, first[i])
		if i < len(second) {
			ordered = append(ordered, second[i])
		}
	}
	return append(ordered, second[min(len(first), len(second)):]...)
}

// attemptDelay is how long an attempt has before the next address is tried
// beside it (RFC 8305, section 5).
const attemptDelay = 250 * time.Millisecond

type attempt struct {
	conn *net.TCPConn
	at   netip.AddrPort
	err  error
}

// race connects to the addresses, each a little after the former or as soon as
// that has failed, and returns the first connection. The error is the one that
// says most, and at its address.
func (p *Proxy) race(ctx context.Context, addrs []netip.AddrPort) (conn *net.TCPConn, at netip.AddrPort, err error) {
	if len(addrs) == 1 {
		conn, err = p.cfg.Targets.Dial(ctx, addrs[0].String())
		return conn, addrs[0], err
	}
	ctx, cancel := context.WithCancel(ctx)
	results := make(chan attempt)
	running := 0
	defer func() {
		cancel()
		for range running { // losers: every attempt is waited for
			if late := <-results; late.conn != nil {
				socket.Orderly(late.conn) // nothing was cut
				_ = late.conn.Close()
			}
		}
	}()
	next := time.NewTimer(0)
	defer next.Stop()
	var best attempt
	for rest := addrs; len(rest) > 0 || running > 0; {
		var due <-chan time.Time
		if len(rest) > 0 {
			due = next.C
		}
		select {
		case <-due:
			a := rest[0]
			rest = rest[1:]
			running++
			go func() {
				c, err := p.cfg.Targets.Dial(ctx, a.String())
				results <- attempt{c, a, err}
			}()
			next.Reset(attemptDelay)
		case r := <-results:
			running--
			if r.err == nil {
				return r.conn, r.at, nil
			}
			if best.err == nil || says(r.err) > says(best.err) {
				best = r
			}
			next.Reset(0)
		}
	}
	return nil, best.at, best.err
}

// says orders dial errors by how much they tell of the target.
func says(err error) int {
	switch dialCode(err) {
	case ohrouter.TargetRefused:
		return 2
	case ohrouter.TargetTimeout:
		return 1
	}
	return 0
}

func dialCode(err error) ohrouter.Code {
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return ohrouter.TargetRefused
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, syscall.ETIMEDOUT), isTimeout(err):
		return ohrouter.TargetTimeout
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE), errors.Is(err, syscall.EADDRNOTAVAIL):
		return ohrouter.Internal
	}
	return ohrouter.TargetUnreachable
}

// dialError makes an error for people of a dial that has failed after so long.
func (p *Proxy) dialError(t ohrouter.Target, at netip.AddrPort, err error, took time.Duration) error {
	where := t.String()
	if at.String() != where {
		where += " (" + at.Addr().String() + ")"
	}
	var message string
	code := dialCode(err)
	switch code {
	case ohrouter.TargetRefused:
		message = fmt.Sprintf("%s refused the connection: nothing listens there, or a firewall rejects it; check the port, and that the service runs", where)
	case ohrouter.TargetTimeout:
		waited := p.cfg.DialTimeout
		if errors.Is(err, syscall.ETIMEDOUT) { // the kernel has given up before (net.ipv4.tcp_syn_retries)
			waited = min(waited, took.Round(100*time.Millisecond))
		}
		message = fmt.Sprintf("%s did not answer within %v: the host is down, or a firewall drops packets; check the address, and what lies between it and the proxy", where, waited)
	case ohrouter.Internal:
		message = fmt.Sprintf("the proxy has run out of file descriptors or local ports, connecting to %s", where)
	default:
		message = fmt.Sprintf("%s cannot be reached from the proxy: %s", where, reason(err))
	}
	return &ohrouter.Error{Code: code, Message: message, Err: err}
}

// reason is the innermost cause of a failed dial, such as "no route to host".
func reason(err error) string {
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno.Error()
	}
	return strings.TrimPrefix(err.Error(), "dial tcp ")
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}
