package link

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/socket"
)

func TestDialWithoutProxy(t *testing.T) {
	states := newStates()
	two := []Proxy{{Name: "dc1", Address: "127.0.0.1:1"}, {Name: "dc2", Address: "127.0.0.1:2"}}
	tests := []struct {
		name    string
		proxies []Proxy
		want    Want
		message string
	}{
		{"none configured", nil, Want{}, "the router has no proxy; give it one with --proxy HOST:PORT"},
		{"unknown, pinned", two, Want{Proxy: "dc3", Pinned: true}, `the router has no proxy "dc3"; it has dc1, dc2`},
		{"unknown, none configured", nil, Want{Proxy: "dc3"}, `the router has no proxy "dc3"; it has none`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := NewDialer(tt.proxies, states.States).Dial(t.Context(), tt.want)
			if ohrouter.CodeOf(err) != ohrouter.NoProxy || ohrouter.Message(err) != tt.message {
				t.Errorf("Dial = %v (%s), want %s: %s", err, ohrouter.CodeOf(err), ohrouter.NoProxy, tt.message)
			}
		})
	}
}

// TestDialChoosesProxy says what each proxy does and which one has to serve.
func TestDialChoosesProxy(t *testing.T) {
	bound := Want{Target: database, Proxy: "p0"}
	pinned := Want{Target: database, Proxy: "p0", Pinned: true}
	free := Want{Target: database}
	second := Want{Target: database, Proxy: "p1"}
	const down, up = "down", ""
	tests := []struct {
		name    string
		want    Want
		proxies []string // a code, up or down
		serves  string
		code    ohrouter.Code
	}{
		{"the first", free, []string{up, up}, "p0", ""},
		{"any when the named one is gone", Want{Target: database, Proxy: "gone"}, []string{down, up}, "p1", ""},
		{"the named one", second, []string{up, up}, "p1", ""},
		{"next when draining", free, []string{"draining", up}, "p1", ""},
		{"next when down", free, []string{down, up}, "p1", ""},
		{"next when denied", free, []string{"target_denied", up}, "p1", ""},
		{"next when unresolved", free, []string{"target_unresolved", up}, "p1", ""},
		{"no other when refused", free, []string{"target_refused", up}, "", ohrouter.TargetRefused},
		{"no other at the cap", free, []string{"quota_exceeded", up}, "", ohrouter.QuotaExceeded},
		{"all drain", free, []string{"draining", "draining"}, "", ohrouter.NoProxy},
		{"bound, next when draining", bound, []string{"draining", up}, "p1", ""},
		{"bound, first when draining", second, []string{up, "draining"}, "p0", ""},
		{"bound, next when down", bound, []string{down, up}, "p1", ""},
		{"bound, no other when denied", bound, []string{"target_denied", up}, "", ohrouter.TargetDenied},
		{"bound, free once it drains", bound, []string{"draining", down, "target_denied", up}, "p3", ""},
		{"pinned, no other when down", pinned, []string{down, up}, "", ohrouter.ProxyUnreachable},
		{"pinned, no other when draining", pinned, []string{"draining", up}, "", ohrouter.NoProxy},
		{"says most: denied", free, []string{"target_denied", down, "draining"}, "", ohrouter.TargetDenied},
		{"says most: unresolved", free, []string{down, "target_unresolved", "target_denied"}, "", ohrouter.TargetUnresolved},
		{"says most: down", free, []string{"draining", down}, "", ohrouter.ProxyUnreachable},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			router, states := newStates(), newStates()
			var proxies []Proxy
			for i, does := range tt.proxies {
				name := "p" + string(rune('0'+i))
				switch does {
				case up:
					proxies = append(proxies, proxyAt(t, name, states, echo))
				case down:
					proxies = append(proxies, Proxy{Name: name, Address: unreachable(t)})
				default:
					proxies = append(proxies, proxyAt(t, name, states, refuse(ohrouter.Code(does), "why")))
				}
			}
			l, err := NewDialer(proxies, router.States).Dial(t.Context(), tt.want)
			if ohrouter.CodeOf(err) != tt.code {
				t.Errorf("Dial = %v (%s), want %q", err, ohrouter.CodeOf(err), tt.code)
			}
			if err == nil {
				if l.Proxy() != tt.serves {
					t.Errorf("served by %s, want %s", l.Proxy(), tt.serves)
				}
				l.Close()
			}
			router.want(t, 0, 0, 0)
			states.gone(t)
		})
	}
}

// TestNotAProxy has something else listen at a proxy's address.
func TestNotAProxy(t *testing.T) {
	says := func(answer string) func(context.Context, *net.TCPConn) {
		return func(_ context.Context, c *net.TCPConn) {
			c.Read(make([]byte, 256))
			io.WriteString(c, answer)
			socket.Orderly(c)
		}
	}
	const foreign, hangsUp = "answers, but not as an oh-router proxy; check the router's --proxy", "hangs up without an answer"
	tests := []struct {
		name  string
		serve func(context.Context, *net.TCPConn)
		want  string
	}{
		{"HTTP", says("HTTP/1.1 400 Bad Request\r\n\r\n"), foreign},
		{"SSH", says("SSH-2.0-OpenSSH_9.9\r\n"), foreign},
		{"another version", says("\x02\x02\x00\x01\xa0"), foreign},
		{"an address that is none", says("\x01\x02\x00\x01\xa0"), foreign},
		{"closes after the command", says(""), hangsUp},
		{"closes within the answer", says("\x01\x02"), hangsUp},
		{"resets at once", func(_ context.Context, c *net.TCPConn) { socket.Abort(c) }, hangsUp},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			states := newStates()
			p := Proxy{Name: "dc1", Address: listen(t, tt.serve)}
			d := NewDialer([]Proxy{p}, states.States)
			_, err := d.Dial(t.Context(), Want{Session: "s-1", Target: database})
			if ohrouter.CodeOf(err) != ohrouter.ProxyUnreachable {
				t.Errorf("Dial = %v (%s), want %s", err, ohrouter.CodeOf(err), ohrouter.ProxyUnreachable)
			}
			if m := ohrouter.Message(err); !strings.HasPrefix(m, "proxy dc1 at "+p.Address+" "+tt.want) {
				t.Errorf("message %q, want one with %q", m, tt.want)
			}
			if s := d.Proxies()[0]; s.State != ohrouter.ProxyDown || s.LastError == nil || s.SeenAt != nil || s.Links != 0 {
				t.Errorf("proxy %+v, want it down with an error", s)
			}
			states.want(t, 0, 0, 0)
		})
	}
}

func TestUnreachableProxy(t *testing.T) {
	states := newStates()
	address := unreachable(t)
	d := NewDialer([]Proxy{{Name: address, Address: address}}, states.States)
	_, err := d.Dial(t.Context(), Want{Target: database})
	if want := "proxy " + address + " cannot be reached (connection refused); is it running?"; ohrouter.Message(err) != want {
		t.Errorf("message %q, want %q", ohrouter.Message(err), want)
	}
	if ohrouter.CodeOf(err) != ohrouter.ProxyUnreachable {
		t.Errorf("Dial = %v (%s), want %s", err, ohrouter.CodeOf(err), ohrouter.ProxyUnreachable)
	}
}

// A proxy that is known to serve nobody is asked when there is no other.
func TestWhoIsAwayIsAskedLast(t *testing.T) {
	f, away := newFar(t, nil), newFar(t, nil)
	away.Name = "away"
	n := newNear(t, nil, Pool{}, away.Proxy, f.Proxy)
	dial := func(state ohrouter.ProxyState, want string) {
		t.Helper()
		n.proxies[0].state = state
		l, err := n.Dial(t.Context(), Want{Session: "s-1", Target: database, Proxy: "away"})
		if err != nil {
			t.Fatal(err)
		}
		if got := l.Proxy(); got != want {
			t.Errorf("away is %s, the link leads to %s, want %s", state, got, want)
		}
		l.Close()
	}
	dial(ohrouter.ProxyUnknown, "away")
	dial(ohrouter.ProxyDown, "far")
	dial(ohrouter.ProxyDraining, "far")
	dial(ohrouter.ProxyUp, "away")
	n.proxies[1].state = ohrouter.ProxyDown
	dial(ohrouter.ProxyDown, "away") // the order of before
}

// What this machine lacks says nothing of the proxy.
func TestNoSocketForALink(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.EADDRNOTAVAIL} {
		p := newProxy(Proxy{Name: "dc1", Address: "127.0.0.1:9000"}, newStates().States)
		err := p.failed(t.Context(), os.NewSyscallError("connect", errno))
		if want := "the router has run out of file descriptors or local ports, connecting to proxy dc1 at 127.0.0.1:9000 (" + errno.Error() + ")"; ohrouter.Message(err) != want || ohrouter.CodeOf(err) != ohrouter.Internal {
			t.Errorf("message %q (%s), want %q", ohrouter.Message(err), ohrouter.CodeOf(err), want)
		}
		if !elsewhere(err, true) {
			t.Errorf("%v ends the search for a proxy: there may be ports for another one", errno)
		}
		if s := p.snapshot(); s.State != ohrouter.ProxyUnknown || s.LastError != nil {
			t.Errorf("%v makes the proxy %s, %v", errno, s.State, s.LastError)
		}
	}
}

func TestProxyWithoutAnAddress(t *testing.T) {
	p := newProxy(Proxy{Name: "dc1", Address: "dc1.internal:9000"}, newStates().States)
	for _, dns := range []*net.DNSError{{Err: "no such host", Name: "dc1.internal", IsNotFound: true}, {Err: "i/o timeout", Name: "dc1.internal", IsTimeout: true}} {
		err := p.failed(t.Context(), &net.OpError{Op: "dial", Err: dns})
		if want := "proxy dc1 at dc1.internal:9000 cannot be found: the router cannot resolve dc1.internal (" + dns.Err + "); check the router's --proxy"; ohrouter.Message(err) != want {
			t.Errorf("message %q, want %q", ohrouter.Message(err), want)
		}
	}
}

// silent reads a link and never answers.
func silent(ctx context.Context, c *net.TCPConn) {
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	io.Copy(io.Discard, struct{ io.Reader }{c})
}

func TestDialCancelled(t *testing.T) {
	states := newStates()
	asked := make(chan struct{})
	d := NewDialer([]Proxy{
		{Name: "dc1", Address: listen(t, func(ctx context.Context, c *net.TCPConn) { close(asked); silent(ctx, c) })},
		{Name: "dc2", Address: unreachable(t)},
	}, states.States)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { <-asked; cancel() })
	start := time.Now()
	_, err := d.Dial(ctx, Want{Target: database})
	if took := time.Since(start); !errors.Is(err, context.Canceled) || took > Timeout*4/5 {
		t.Errorf("Dial = %v after %v, want %v at once", err, took, context.Canceled)
	}
	for _, p := range d.Proxies() {
		if p.State != ohrouter.ProxyUnknown {
			t.Errorf("proxy %s is %s because a caller went away", p.Name, p.State)
		}
	}
	states.want(t, 0, 0, 0)
}

func TestSetProxies(t *testing.T) {
	router, states := newStates(), newStates()
	one, two := proxyAt(t, "dc1", states, echo), proxyAt(t, "dc2", states, echo)
	d := NewDialer([]Proxy{one}, router.States)
	l, err := d.Dial(t.Context(), Want{Target: database})
	if err != nil {
		t.Fatal(err)
	}
	d.SetProxies([]Proxy{two, one})
	got := d.Proxies()
	if len(got) != 2 || got[0].Name != "dc2" || got[0].State != ohrouter.ProxyUnknown || got[0].SeenAt != nil {
		t.Errorf("Proxies = %+v, want dc2, unknown, first", got)
	}
	if got[1].Name != "dc1" || got[1].State != ohrouter.ProxyUp || got[1].Links != 1 || got[1].SeenAt == nil || got[1].SeenAt.Location() != time.UTC {
		t.Errorf("Proxies = %+v, want dc1 up with its link, seen at a time in UTC", got)
	}
	d.SetProxies([]Proxy{two})
	if d.Knows("dc1") || !d.Knows("dc2") {
		t.Errorf("Knows dc1 %v, dc2 %v; want only dc2", d.Knows("dc1"), d.Knows("dc2"))
	}
	exchange(t, l.Conn()) // the link stands though its proxy is gone
	l.Close()
	router.want(t, 0, 0, 0)
	moved := Proxy{Name: "dc2", Address: one.Address}
	d.SetProxies([]Proxy{moved})
	if got := d.Proxies()[0]; got.State != ohrouter.ProxyUnknown || got.Address != one.Address {
		t.Errorf("moved proxy %+v, want it unknown at %s", got, one.Address)
	}
}

// records is what a logger wrote. It is safe for concurrent use.
type records struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (r *records) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.b.Write(b)
}

// take returns what was written since the last take.
func (r *records) take() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	defer r.b.Reset()
	return r.b.String()
}

func newLog() (*slog.Logger, *records) {
	r := new(records)
	return slog.New(slog.NewTextHandler(r, &slog.HandlerOptions{Level: slog.LevelDebug})), r
}

func TestWatchLogsTransitions(t *testing.T) {
	states := newStates()
	p := Proxy{Name: "dc1", Address: unreachable(t)}
	d := NewDialer([]Proxy{p}, states.States)
	log, written := newLog()
	probe := func(want ...string) {
		t.Helper()
		d.probe(t.Context(), log)
		got := written.take()
		if len(want) == 0 && got != "" {
			t.Errorf("logged %q, want nothing", got)
		}
		for _, w := range want {
			if !strings.Contains(got, w) {
				t.Errorf("logged %q, want %q", got, w)
			}
		}
	}
	probe("level=WARN", `msg="proxy down"`, "proxy=dc1", "cannot be reached")
	probe()
	t.Run("up", func(t *testing.T) {
		listenAt(t, p.Address, silent)
		probe("level=INFO", `msg="proxy seen"`, "state=up")
		probe()
		if s := d.Proxies()[0]; s.State != ohrouter.ProxyUp || s.SeenAt == nil {
			t.Errorf("proxy %+v, %+v, want it up and seen", s, s.LastError)
		}
	})
	d.proxies[0].seen = time.Now().Add(-watchEvery) // as if that time had passed
	probe("level=WARN", `msg="proxy down"`)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	d.SetProxies([]Proxy{{Name: "dc2", Address: p.Address}})
	d.probe(ctx, log)
	if got := written.take(); got != "" || d.Proxies()[0].State != ohrouter.ProxyUnknown {
		t.Errorf("after the end logged %q, state %s; want nothing and %s", got, d.Proxies()[0].State, ohrouter.ProxyUnknown)
	}
}

func TestWatchDoesNotTakeJustAnybodyForAProxy(t *testing.T) {
	states := newStates()
	log, _ := newLog()
	answer := "HTTP/1.1 400 Bad Request\r\n\r\n"
	p := Proxy{Name: "dc1", Address: listen(t, func(_ context.Context, c *net.TCPConn) {
		if n, _ := c.Read(make([]byte, 256)); n > 0 {
			io.WriteString(c, answer)
			socket.Orderly(c)
		}
	})}
	d := NewDialer([]Proxy{p}, states.States)
	if _, err := d.Dial(t.Context(), Want{Target: database}); err == nil {
		t.Fatal("HTTP taken for a proxy")
	}
	d.probe(t.Context(), log)
	if s := d.Proxies()[0]; s.State != ohrouter.ProxyDown {
		t.Errorf("proxy is %s because it takes connections, want %s", s.State, ohrouter.ProxyDown)
	}
}

// A proxy that has answered is asked again: that it takes connections says
// nothing of a drain, nor of its end.
func TestWatchAsksWhoHasAnswered(t *testing.T) {
	states, address := newStates(), unreachable(t)
	log, _ := newLog()
	d := NewDialer([]Proxy{{Name: "dc1", Address: address}}, states.States)
	drains := make(chan struct{})
	close(drains)
	for i, tt := range []struct {
		draining chan struct{}
		want     ohrouter.ProxyState
	}{{nil, ohrouter.ProxyUp}, {drains, ohrouter.ProxyDraining}, {nil, ohrouter.ProxyUp}} {
		t.Run(fmt.Sprint(i, tt.want), func(t *testing.T) {
			a := &Acceptor{States: newStates().States, Patience: time.Second, Draining: tt.draining}
			listenAt(t, address, func(ctx context.Context, c *net.TCPConn) {
				if req, err := a.Accept(ctx, c); err == nil {
					req.Accept(ctx, resolved)
					req.Close()
				}
			})
			if i == 0 {
				l, err := d.Dial(t.Context(), Want{Session: "s-1", Target: database})
				if err != nil {
					t.Fatal(err)
				}
				l.Close()
			}
			d.proxies[0].seen = time.Now().Add(-watchEvery) // as if that time had passed
			d.probe(t.Context(), log)
			if s := d.Proxies()[0]; s.State != tt.want {
				t.Errorf("the proxy is %s, want %s (%v)", s.State, tt.want, s.LastError)
			}
		})
	}
}

func TestWatch(t *testing.T) {
	states := newStates()
	accepted := make(chan error, 1)
	a := &Acceptor{States: states.States}
	p := Proxy{Name: "dc1", Address: listen(t, func(ctx context.Context, c *net.TCPConn) {
		_, err := a.Accept(ctx, c)
		accepted <- err
	})}
	d := NewDialer([]Proxy{p}, states.States)
	log, _ := newLog()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { d.Watch(ctx, log) })
	if err := <-accepted; err != io.EOF {
		t.Errorf("a probe looks like %v to the proxy, want %v", err, io.EOF)
	}
	eventually(t, "proxy up", func() bool { return d.Proxies()[0].State == ohrouter.ProxyUp })
	cancel()
	wg.Wait()
	states.want(t, 0, 0, 0)
}

func TestUpForOthers(t *testing.T) {
	states := newStates()
	d := NewDialer([]Proxy{{Name: "dc1", Address: listen(t, silent)}, {Name: "dc2", Address: unreachable(t)}}, states.States)
	over, cancel := context.WithCancel(t.Context())
	cancel()
	d.Up(over, "dc1") // and is not remembered
	for name, want := range map[string]bool{"dc1": true, "dc2": false, "dc3": false} {
		for range 2 { // the second is remembered
			if got := d.Up(t.Context(), name); got != want {
				t.Errorf("Up(%s) = %v, want %v", name, got, want)
			}
		}
	}
	states.want(t, 0, 0, 0)
}
