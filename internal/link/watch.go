package link

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
)

// watchEvery is how often Watch looks at a proxy that no link tells about.
const watchEvery = 10 * time.Second

// Watch keeps what [Dialer.Proxies] returns up to date while there are no
// links, and logs when a proxy goes and comes, until ctx ends. It makes a warm
// link, by whose answer it knows a proxy, and how long that may take for a
// target. Meanwhile it keeps the pools of warm links.
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
			if l, err := d.warm(ctx, p); err == nil { // it takes note of either
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

// connected notes that the proxy takes connections, which says nothing of a
// drain.
func (p *proxy) connected() {
	p.mu.Lock()
	defer p.mu.Unlock()
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
