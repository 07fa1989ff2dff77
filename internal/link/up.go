package link

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/ohrouter/oh-router/internal/socket"
)

// How long a look at a proxy may take, and how long its result is good for:
// when a proxy dies, all its sessions ask.
const (
	lookTimeout = time.Second
	lookFresh   = 100 * time.Millisecond
)

// look is the latest look whether a proxy takes connections. Its zero value is
// none.
type look struct {
	mu sync.Mutex // held while one looks: the others wait for the result
	at time.Time
	up bool
}

// Up tells whether a proxy takes connections now, as seen at most 100 ms ago.
// It connects and sends nothing. A proxy that there is not takes none.
func (d *Dialer) Up(ctx context.Context, name string) bool {
	d.mu.Lock()
	i := slices.IndexFunc(d.proxies, func(p *proxy) bool { return p.Name == name })
	if i < 0 {
		d.mu.Unlock()
		return false
	}
	p := d.proxies[i]
	d.mu.Unlock()
	p.look.mu.Lock()
	defer p.look.mu.Unlock()
	if time.Since(p.look.at) < lookFresh {
		return p.look.up
	}
	short, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	conn, err := d.Sockets.Dial(short, p.Address)
	if err == nil {
		socket.Orderly(conn)
		_ = conn.Close() // it was connected: that is all there is to know
	}
	if ctx.Err() == nil { // else it says nothing of the proxy, to others
		p.look.at, p.look.up = time.Now(), err == nil
	}
	return err == nil
}
