package link

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/socket"
)

// watchEvery is how often Watch looks at a proxy that no link tells about.
const watchEvery = 10 * time.Second

// Watch keeps what [Dialer.Proxies] returns up to date while there are no
// links, and logs when a proxy goes and comes, until ctx ends. It makes a warm
// link: a proxy that hangs, or drains, takes connections all the same. One that
// nobody has asked for anything yet it connects to, and sends nothing, unless with
// TLS, where both prove who they are. Meanwhile it keeps the pools of warm links.
func (d *Dialer) Watch(ctx context.Context, log *slog.Logger) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { d.keepWarm(ctx) })
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	for {
		d.probe(ctx, log)
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// probe looks once at every proxy that has not been heard of lately.
func (d *Dialer) probe(ctx context.Context, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	var wg sync.WaitGroup
	for _, p := range d.known() {
		wg.Go(func() {
			before := p.snapshot()
			if before.State == ohrouter.ProxyUp && time.Since(*before.SeenAt) < watchEvery {
				p.report(log)
				return
			}
			if d.TLS == nil && !p.hasAnswered() {
				d.reach(ctx, p)
			} else if l, err := d.warm(ctx, p); err == nil { // that takes note
				l.Close() // it has answered: that is all there is to know
			}
			if errors.Is(ctx.Err(), context.Canceled) {
				return // nothing to know
			}
			p.report(log)
		})
	}
	wg.Wait()
}

// reach connects to a proxy that proves nothing, and may be none.
func (d *Dialer) reach(ctx context.Context, p *proxy) {
	begin := time.Now()
	conn, err := d.Sockets.Dial(ctx, p.Address)
	if err != nil {
		_ = p.failed(ctx, err) // it takes note
		return
	}
	p.pool.tookSetUp(time.Since(begin), time.Now())
	socket.Orderly(conn)
	_ = conn.Close() // it was connected: that is all there is to know
	p.connected()
}

// connected notes that the proxy takes connections, which says nothing of a
// drain, nor that it is a proxy when it has answered like something else.
func (p *proxy) connected() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.foreign {
		return
	}
	if p.state != ohrouter.ProxyDraining {
		p.state = ohrouter.ProxyUp
	}
	p.seen = time.Now()
}

// report logs a proxy's state if it is not what was logged last.
func (p *proxy) report(log *slog.Logger) {
	p.mu.Lock()
	state, failure, changed, was := p.state, p.failure, p.state != p.reported, p.reported != ""
	p.reported = state
	p.mu.Unlock()
	switch {
	case !changed:
	case state == ohrouter.ProxyDown:
		log.Warn("proxy down", "proxy", p.Name, "address", p.Address, "err", failure.Message)
	case state == ohrouter.ProxyUp && !was:
		log.Debug("proxy seen", "proxy", p.Name, "address", p.Address)
	default:
		log.Info("proxy seen", "proxy", p.Name, "address", p.Address, "state", state)
	}
}
