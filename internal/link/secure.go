package link

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/gate"
	"github.com/ohrouter/oh-router/internal/socket"
)

// connect connects to a proxy, and proves who both are if links use TLS.
func (d *Dialer) connect(ctx context.Context, p *proxy) (*Link, error) {
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	begin := time.Now()
	conn, err := d.connectWith(ctx, p, p.wasRefused())
	if err != nil {
		return nil, d.explain(p, err)
	}
	p.pool.tookSetUp(time.Since(begin), time.Now())
	l, err := d.newLink(p, conn)
	if err != nil {
		return nil, d.explain(p, err)
	}
	if d.TLS == nil { // with TLS the set-up itself has asked the proxy
		l.begun = begin
	}
	return l, nil
}

// connectWith connects to a proxy. When it proves what it should not, or
// nothing, there is a second attempt if there are other settings for that.
func (d *Dialer) connectWith(ctx context.Context, p *proxy, again bool) (net.Conn, error) {
	var settings *tls.Config
	var resumes bool
	if d.TLS != nil {
		settings, resumes = d.TLS(p.Proxy, again)
	}
	conn, err := d.Sockets.Dial(ctx, p.Address)
	if err != nil {
		return nil, err
	}
	p.reached(conn.RemoteAddr().(*net.TCPAddr).AddrPort())
	if d.TLS == nil {
		return conn, nil
	}
	under, over := bounded(conn, d.MaxHandshake, nil)
	secure := tls.Client(under, settings)
	err = secure.HandshakeContext(ctx)
	over()
	if err == nil && resumes && !secure.ConnectionState().DidResume {
		err = errNotResumed
	}
	if err == nil {
		return secure, nil
	}
	socket.Abort(conn)
	if again || ctx.Err() != nil || !d.differs(p, settings) {
		return nil, err
	}
	return d.connectWith(ctx, p, true)
}

// errNotResumed is why a handshake is begun anew, as a whole.
var errNotResumed = errors.New("the proxy does not resume the session")

// differs tells whether a second attempt has other settings. The first has
// failed.
func (d *Dialer) differs(p *proxy, settings *tls.Config) bool {
	other, _ := d.TLS(p.Proxy, true)
	return other != settings
}

// bounded returns conn for TLS to run over. Until its handshake is over the peer
// may send so many bytes, 0 any number, and a server waits for its turn, nil for
// none.
func bounded(conn *net.TCPConn, most int, turn func() (func(), error)) (t *socket.Transport, over func()) {
	t = socket.NewTransport(conn)
	if most == 0 {
		return t, func() {}
	}
	h := gate.NewHandshake(conn, most)
	h.Turn(turn)
	t.TakeOver(h)
	return t, func() {
		h.Over()
		t.TakeOver(nil)
	}
}

// lent returns what TLS runs over while somebody else has the connection, whose
// bytes come by raw. The peer may send so many until its handshake is complete, 0
// any number.
func lent(raw io.ReadWriter, most int) *socket.Transport {
	t := socket.NewTransport(nil)
	if most > 0 {
		raw = gate.NewHandshake(raw, most)
	}
	t.TakeOver(raw)
	return t
}

func (d *Dialer) explain(p *proxy, err error) error {
	if d.Explain == nil {
		return err
	}
	return d.Explain(p.Proxy, err)
}

// newLink counts a link to p over conn, nil when somebody else has the
// connection. It fails when what the proxy has proved is not good any more.
func (d *Dialer) newLink(p *proxy, conn net.Conn) (*Link, error) {
	l := &Link{conn: conn, proxy: p}
	p.states.begin()
	p.links.Add(1)
	if secure, ok := conn.(*tls.Conn); ok {
		if err := l.prove(&d.secured, secure.ConnectionState()); err != nil {
			l.Close()
			return nil, err
		}
	}
	return l, nil
}

// prove notes who the proxy has proved to be. It fails when that is not good any
// more.
func (l *Link) prove(s *secured, peer tls.ConnectionState) error {
	if len(peer.PeerCertificates) == 0 {
		return nil
	}
	l.leaf, l.secured = peer.PeerCertificates[0], s
	if !s.add(l) {
		return ohrouter.Errorf(ohrouter.Unauthorized, "its certificate has been revoked")
	}
	return nil
}

// secured is the open links with TLS.
type secured struct {
	mu    sync.Mutex // guards what follows; never held during I/O that waits
	links map[*Link]struct{}
	bad   func(leaf *x509.Certificate) bool // what Cut was told last; nil nothing
}

// add tells whether the link may stand. One whose certificate becomes bad from
// here on is cut.
func (s *secured) add(l *Link) bool {
	s.mu.Lock()
	if s.links == nil {
		s.links = make(map[*Link]struct{})
	}
	s.links[l] = struct{}{}
	bad := s.bad
	s.mu.Unlock()
	return bad == nil || !bad(l.leaf)
}

func (s *secured) remove(l *Link) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.links, l)
}

// Cut resets the links whose proxy has a certificate that is not good any more,
// and returns their number. A link that is being made meanwhile fails.
func (d *Dialer) Cut(bad func(leaf *x509.Certificate) bool) (n int) {
	s := &d.secured
	s.mu.Lock()
	s.bad = bad
	links := slices.Collect(maps.Keys(s.links))
	s.mu.Unlock()
	for _, l := range links {
		if bad(l.leaf) {
			l.reset()
			n++
		}
	}
	return n
}

// reset ends a link with TLS, whoever has its connection.
func (l *Link) reset() {
	l.secured.mu.Lock()
	if _, open := l.secured.links[l]; !open { // its session may have another link by now
		l.secured.mu.Unlock()
		return
	}
	cut := l.cut
	if tcp := socket.TCP(l.conn); cut == nil && tcp != nil {
		socket.Abort(tcp) // before somebody takes it
	}
	l.secured.mu.Unlock()
	if cut != nil {
		cut()
	}
}
