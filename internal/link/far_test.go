package link

import (
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/socket"
)

// far is a proxy whose sessions say what their targets got.
type far struct {
	Proxy
	*Acceptor
	states   counted
	accepted atomic.Int32      // connections
	conns    chan *net.TCPConn // accepted
	payload  chan string       // of a session, as a whole, when the router has ended it
	drain    func()
}

// newFar starts a proxy, with TLS if there are certificates.
func newFar(t testing.TB, c *certs) *far {
	t.Helper()
	draining := make(chan struct{})
	f := &far{
		states: newStates(), conns: make(chan *net.TCPConn, 1024), payload: make(chan string, 1024),
		drain: sync.OnceFunc(func() { close(draining) }),
	}
	f.Acceptor = &Acceptor{States: f.states.States, Draining: draining, Patience: time.Second, MaxHandshake: 16 << 10}
	if c != nil {
		f.TLS = c.server()
	}
	f.Proxy = Proxy{Name: "far", Address: listen(t, f.serve)}
	return f
}

// serve ends a session in order, with the word "done", when the router has.
func (f *far) serve(ctx context.Context, c *net.TCPConn) {
	f.accepted.Add(1)
	f.conns <- c
	req, err := f.Accept(ctx, c)
	if err != nil {
		return
	}
	defer req.Close()
	if f.draining() {
		req.Reject(ohrouter.Draining, shuttingDown)
		return
	}
	conn, err := req.Accept(ctx, resolved)
	if err != nil {
		return
	}
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	b, err := io.ReadAll(conn)
	if err != nil {
		return
	}
	f.payload <- string(b)
	io.WriteString(conn, "done")
	endWrite(conn)
	io.Copy(io.Discard, conn)
}

// endWrite ends one direction of a session in order.
func endWrite(c net.Conn) {
	socket.Orderly(c)
	c.(interface{ CloseWrite() error }).CloseWrite()
}

// carry says the rest of a session's payload, and wants that the target got all
// of it, once.
func (f *far) carry(t testing.TB, l *Link, rest, want string) {
	t.Helper()
	defer l.Close()
	io.WriteString(l.Conn(), rest)
	endWrite(l.Conn())
	if b, err := io.ReadAll(l.Conn()); err != nil || string(b) != "done" {
		t.Errorf("the session ends with %q, %v; want all that the target said", b, err)
	}
	f.wantPayload(t, want)
}

// wantPayload wants that targets got this since it was asked last, and no more.
func (f *far) wantPayload(t testing.TB, want ...string) {
	t.Helper()
	for _, w := range want {
		select {
		case got := <-f.payload:
			if got != w {
				t.Errorf("a target got %q, want %q", got, w)
			}
		default:
			t.Errorf("a target got nothing, want %q", w)
		}
	}
	select {
	case got := <-f.payload:
		t.Errorf("a target got %q in a session of its own", got)
	default:
	}
}

// near is a router that may have warm links. When a test ends, all that they
// cost has to be given back.
type near struct {
	*Dialer
	states counted
	stop   func() // ends what keeps links warm
}

// descriptors is what warm links may take.
const descriptors = 1000

func newNear(t testing.TB, c *certs, limits Pool, proxies ...Proxy) *near {
	t.Helper()
	n := &near{states: newStates(), stop: func() {}}
	n.Dialer = NewDialer(proxies, n.states.States)
	if c != nil {
		n.TLS, n.MaxHandshake = always(c.client()), 16<<10
	}
	limits.Descriptors = socket.NewBudget(descriptors)
	n.Pool = limits
	n.worthwhile()
	t.Cleanup(func() {
		n.stop()
		n.drop()
		n.states.gone(t)
		for _, p := range n.Proxies() {
			if p.Links != 0 {
				t.Errorf("%d links to proxy %s after the end", p.Links, p.Name)
			}
		}
		if !n.Pool.Descriptors.TryAcquire(descriptors) {
			t.Error("descriptors are missing after the end")
		}
	})
	return n
}

// worthwhile makes pools of use although the proxies are near.
func (n *near) worthwhile() {
	for _, p := range n.known() {
		p.pool.mu.Lock()
		p.pool.least = 0
		p.pool.mu.Unlock()
	}
}

// farAway has answers of the first proxy, as it seems, take an hour.
func (n *near) farAway() {
	p := &n.known()[0].pool
	p.mu.Lock()
	defer p.mu.Unlock()
	p.first = shortest{n: enough, since: time.Now(), latest: time.Hour}
	p.measure()
}

// keep keeps links warm from here on.
func (n *near) keep() {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { n.keepWarm(ctx) })
	n.stop = func() { cancel(); wg.Wait() }
}

func (n *near) drop() {
	for _, p := range n.known() {
		p.pool.drop()
	}
}

// put puts warm links into the pool of the first proxy.
func (n *near) put(t testing.TB, links int) (put []*Link) {
	t.Helper()
	p := n.known()[0]
	for range links {
		l, err := n.warm(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		p.pool.mu.Lock()
		p.pool.making++
		p.pool.mu.Unlock()
		if !p.pool.made(n.Pool, l, nil, time.Now()) {
			t.Fatal("a warm link was not taken")
		}
		put = append(put, l)
	}
	return put
}

// wantWarm waits until there are so many warm links.
func (n *near) wantWarm(t testing.TB, want int) {
	t.Helper()
	eventually(t, "as many warm links as there are to be", func() bool { return n.inPools() == want })
	if got := n.states.now(t)["warm"]; got != float64(want) {
		t.Errorf(`ohrouter_links{state="warm"} = %v, want %d`, got, want)
	}
}

func (n *near) inPools() (links int) {
	for _, p := range n.known() {
		p.pool.mu.Lock()
		links += len(p.pool.links)
		p.pool.mu.Unlock()
	}
	return links
}

// ahead is early payload.
func ahead(s string) func() []byte { return func() []byte { return []byte(s) } }

// plainAndTLS runs a test on links without TLS and with it.
func plainAndTLS(t *testing.T, test func(t *testing.T, c *certs)) {
	c := newCerts(t)
	t.Run("plain", func(t *testing.T) { test(t, nil) })
	t.Run("tls", func(t *testing.T) { test(t, &c) })
}
