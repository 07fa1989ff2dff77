package link

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/socket"
)

// Pool bounds the warm links to each proxy: connected ahead of their sessions,
// and proved with TLS. How many there are between Min and Max follows the rate
// at which links are wanted. Where making a link takes no time worth saving
// there are none. The zero Pool keeps none.
type Pool struct {
	Min, Max    int
	Descriptors socket.Budget // a warm link takes one
}

// How the pools behave.
const (
	// worthwhile is how long making a link has to take for a pool to be of use.
	worthwhile = 2 * time.Millisecond
	// measureEvery is how often it is looked how long that takes.
	measureEvery = 30 * time.Second
	// maxWarm is how old a warm link gets; a proxy waits ackTimeout. Ages
	// differ by a third, so that links that were made together do not end
	// together.
	maxWarm = 45 * time.Second
	// rush is the shortest time whose arrivals a pool has links for: what a
	// client opens at once.
	rush = 100 * time.Millisecond
	// calm is how long it takes a pool to forget half of a rush.
	calm = 15 * time.Second
	// What comes between attempts to fill the pool of a proxy that fails.
	minPause, maxPause = time.Second, 30 * time.Second
	// tidyEvery is how often links that are too old are replaced.
	tidyEvery = time.Second
)

// pool has the warm links of one proxy.
type pool struct {
	mu     sync.Mutex // guards what follows; never held during I/O
	links  []warmLink // oldest first
	making int
	latest []time.Duration // how long making a link took, the last times
	setUp  time.Duration   // the shortest of them, as a busy machine makes others longer; 0 not known
	known  time.Time       // since when
	level  float64         // links wanted within setUp, or a rush
	peak   float64         // the highest level, as far as it is not forgotten
	at     time.Time       // of level and peak
	pause  time.Duration   // after failures
	next   time.Time       // no attempt before
}

type warmLink struct {
	*Link
	until time.Time
}

// tookSetUp notes how long it took to make a link.
func (p *pool) tookSetUp(d time.Duration, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.latest = append(p.latest, d)
	p.latest = p.latest[max(0, len(p.latest)-4):]
	p.setUp, p.known = slices.Min(p.latest), now
}

// unknown tells that it is time to look how long making a link takes.
func (p *pool) unknown(now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return now.Sub(p.known) > measureEvery
}

// want notes that a link is wanted now.
func (p *pool) want(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.decay(now)
	p.level++
	p.peak = max(p.peak, p.level)
}

// decay brings level and peak up to date. The caller holds mu.
func (p *pool) decay(now time.Time) {
	since := now.Sub(p.at).Seconds()
	p.at = now
	p.level *= math.Exp(-since / max(4*p.setUp, rush).Seconds())
	p.peak = max(p.level, p.peak*math.Exp2(-since/calm.Seconds()))
}

// missing returns how many links are to be made now, which the caller will do.
func (p *pool) missing(limits Pool, now time.Time) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.worth(limits) || now.Before(p.next) {
		return 0
	}
	p.decay(now)
	size := min(max(int(math.Ceil(p.peak-0.5)), limits.Min), limits.Max)
	n := max(size-len(p.links)-p.making, 0)
	p.making += n
	return n
}

// worth tells whether warm links are of use. The caller holds mu.
func (p *pool) worth(limits Pool) bool {
	return limits.Max > 0 && (p.setUp >= worthwhile || p.setUp == 0 && limits.Min > 0)
}

// made adds a link that missing has asked for, or notes why there is none.
func (p *pool) made(l *Link, err error, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.making--
	if err != nil {
		p.pause = min(max(2*p.pause, minPause), maxPause)
		p.next = now.Add(p.pause/2 + rand.N(p.pause))
		return
	}
	p.pause = 0
	p.links = append(p.links, warmLink{l, now.Add(maxWarm - rand.N(maxWarm/3))})
}

// ready tells whether there is a warm link.
func (p *pool) ready() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.links) > 0
}

// take returns the oldest link that still stands, or nil.
func (p *pool) take() *Link {
	for {
		p.mu.Lock()
		if len(p.links) == 0 {
			p.mu.Unlock()
			return nil
		}
		l := p.links[0].Link
		p.links = p.links[1:]
		p.mu.Unlock()
		if l.Alive() {
			l.taken()
			return l
		}
		l.Close()
	}
}

// old takes out the links whose time is over, that have died or are of no use;
// all of them for the zero Pool.
func (p *pool) old(limits Pool, now time.Time) (gone []warmLink) {
	p.mu.Lock()
	defer p.mu.Unlock()
	useless := !p.worth(limits)
	var stay []warmLink
	for _, l := range p.links {
		if useless || now.After(l.until) || !l.Alive() {
			gone = append(gone, l)
		} else {
			stay = append(stay, l)
		}
	}
	p.links = stay
	return gone
}

// wanted notes that a link to p is wanted now.
func (d *Dialer) wanted(p *proxy) {
	if d.Pool.Max == 0 {
		return
	}
	p.pool.want(time.Now())
	select {
	case d.refill <- struct{}{}:
	default: // somebody has said so
	}
}

// keepWarm fills the pools until ctx ends, and closes what is in them then.
func (d *Dialer) keepWarm(ctx context.Context) {
	if d.Pool.Max == 0 {
		return
	}
	var wg sync.WaitGroup
	ticker := time.NewTicker(tidyEvery)
	defer ticker.Stop()
	for ctx.Err() == nil {
		d.fill(ctx, &wg)
		select {
		case <-d.refill:
		case <-ticker.C:
			d.tidy(d.Pool)
		case <-ctx.Done():
		}
	}
	wg.Wait()
	d.tidy(Pool{})
}

// tidy closes warm links that are too old or too many.
func (d *Dialer) tidy(limits Pool) {
	for _, p := range d.known() {
		for _, l := range p.pool.old(limits, time.Now()) {
			l.Close()
		}
	}
}

// fill makes the links that are missing.
func (d *Dialer) fill(ctx context.Context, wg *sync.WaitGroup) {
	for _, p := range d.known() {
		for range p.pool.missing(d.Pool, time.Now()) {
			wg.Go(func() {
				l, err := d.warm(ctx, p)
				p.pool.made(l, err, time.Now())
			})
		}
	}
}

// warm makes a link and asks the proxy to wait.
func (d *Dialer) warm(ctx context.Context, p *proxy) (*Link, error) {
	if !d.Pool.Descriptors.TryAcquire(1) {
		return nil, errors.New("make a warm link: no descriptors to spare")
	}
	l, err := d.connect(ctx, p)
	if err == nil {
		l.release = func() { d.Pool.Descriptors.Release(1) }
		if err = l.wait(ctx); err != nil {
			l.Close()
		}
	} else {
		d.Pool.Descriptors.Release(1)
	}
	switch {
	case err == nil:
		p.answered(ohrouter.ProxyUp)
	case ohrouter.CodeOf(err) == ohrouter.Draining:
		p.answered(ohrouter.ProxyDraining)
	default:
		err = p.failed(ctx, d.explain(err))
	}
	return l, err
}

// wait sends a WarmCommand and reads the answer.
func (l *Link) wait(ctx context.Context) error {
	b, err := frames.append(nil, typeWarm, warmCommand{})
	if err != nil {
		return err
	}
	var m warmResponse
	err = within(ctx, l.conn, Timeout, Timeout, func() error {
		if _, err := l.conn.Write(b); err != nil {
			return fmt.Errorf("send %v: %w", typeWarm, err)
		}
		return frames.read(l.conn, typeReady, &m)
	})
	if err != nil {
		return err
	}
	l.proxy.learn(m.Patience)
	if m.Code != "" {
		return (&connectResponse{Code: m.Code, Message: m.Message}).refusal()
	}
	l.tracker.move(warm)
	l.acked = socket.Acked(socket.TCP(l.conn))
	return nil
}

// heard tells whether the proxy's kernel has taken anything that was sent since
// the link was put into the pool: if not, nobody has got it.
func (l *Link) heard() bool { return socket.Acked(socket.TCP(l.conn)) != l.acked }
