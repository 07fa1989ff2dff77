package link

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
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
	// maxWarm is how old a warm link gets; a proxy waits ackTimeout. Ages
	// differ by a third, so that links that were made together do not end
	// together.
	maxWarm = 45 * time.Second
	// A pool has links for what is wanted while a few links are made in place
	// of those that were taken, but at least for what a client opens at once.
	turnover = 4
	rush     = 100 * time.Millisecond
	// calm is how long it takes a pool to forget half of a rush.
	calm = 15 * time.Second
	// What comes between attempts to fill the pool of a proxy that fails.
	minPause, maxPause = time.Second, 30 * time.Second
	// tidyEvery is how often links that are too old are replaced.
	tidyEvery = time.Second
)

// pool has the warm links of one proxy.
type pool struct {
	least time.Duration // worthwhile

	mu     sync.Mutex // guards what follows; never held during I/O that waits
	ended  bool       // nothing is put in any more
	links  []warmLink // oldest first
	making int
	proven bool          // links have come about: the proxy knows how
	whole  shortest      // how long connecting took
	first  shortest      // how long first answers took
	setUp  time.Duration // how long making a link takes at least, by what is known of both; 0 not known
	known  time.Time     // when whole was noted last
	level  float64       // links wanted lately
	peak   float64       // the highest level, as far as it is not forgotten
	at     time.Time     // of level and peak
	pause  time.Duration // after failures
	next   time.Time     // no attempt before
	dying  bool          // links have come about, and died before they were of use
}

type warmLink struct {
	*Link
	since, until time.Time
}

// worth tells whether warm links are of use. The caller holds mu.
func (p *pool) worth(limits Pool) bool {
	return !p.ended && limits.Max > 0 && (p.setUp >= p.least || p.setUp == 0 && limits.Min > 0)
}

// want notes that a link is wanted now. It tells whether more are to be made.
func (p *pool) want(limits Pool, now time.Time) (short bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.worth(limits) {
		return false
	}
	p.decay(now)
	p.level++
	p.peak = max(p.peak, p.level)
	return p.lacks(limits, now) > 0
}

// decay brings level and peak up to date. The caller holds mu.
func (p *pool) decay(now time.Time) {
	since := now.Sub(p.at).Seconds()
	p.at = now
	p.level *= math.Exp(-since / max(turnover*p.setUp, rush).Seconds())
	p.peak = max(p.level, p.peak*math.Exp2(-since/calm.Seconds()))
}

// lacks returns how many links are to be made now. The caller holds mu and has
// brought level and peak up to date.
func (p *pool) lacks(limits Pool, now time.Time) int {
	if now.Before(p.next) {
		return 0
	}
	size := min(max(int(math.Ceil(p.peak-0.5)), limits.Min), limits.Max)
	if !p.proven || p.pause > 0 {
		size = min(size, 1) // it is to be seen whether they come about, and are of use
	}
	return max(size-len(p.links)-p.making, 0)
}

// missing returns how many links are to be made now, which the caller will do.
func (p *pool) missing(limits Pool, now time.Time) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.worth(limits) {
		return 0
	}
	p.decay(now)
	n := p.lacks(limits, now)
	p.making += n
	return n
}

// made puts in a link that missing has asked for, or notes why there is none. It
// tells whether it did; if not, the link is the caller's.
func (p *pool) made(limits Pool, l *Link, err error, now time.Time) (taken bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.making--
	if err != nil {
		p.failed(now)
		return false
	}
	if p.proven = true; !p.dying {
		p.pause, p.next = 0, time.Time{}
	}
	if !p.worth(limits) {
		return false
	}
	p.links = append(p.links, warmLink{l, now, now.Add(maxWarm - rand.N(maxWarm/3))})
	return true
}

// failed has the next attempt wait. The caller holds mu.
func (p *pool) failed(now time.Time) {
	if now.Before(p.next) {
		return // another of those that were made at once
	}
	p.pause = min(max(2*p.pause, minPause), maxPause)
	p.next = now.Add(p.pause/2 + rand.N(p.pause))
}

// seen notes whether a warm link stands, or was of use: that a proxy makes
// links does not tell whether it keeps them. The caller holds mu.
func (p *pool) seen(stands bool, now time.Time) {
	if p.dying = !stands; p.dying {
		p.failed(now)
		return
	}
	p.pause, p.next = 0, time.Time{}
}

// used notes that a link that was taken was of use.
func (p *pool) used() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen(true, time.Now())
}

// useless notes why a link that was taken was of no use.
func (p *pool) useless(why error) {
	p.mu.Lock()
	p.seen(false, time.Now())
	p.mu.Unlock()
	if isTimeout(why) {
		p.drop() // the others are on the same way
	}
}

// tells tells what [Link.tells] does of the next link; true without one.
func (p *pool) tells() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.links) == 0 || p.links[0].tells()
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
		p.links[0] = warmLink{}
		p.links = p.links[1:]
		alive := l.Alive()
		if !alive {
			p.seen(false, time.Now())
		}
		p.mu.Unlock()
		if alive {
			l.taken()
			return l
		}
		l.Close()
	}
}

// tidy closes the links whose time is over, that have died or are of no use.
func (p *pool) tidy(limits Pool, now time.Time) {
	p.remove(func(l warmLink) bool {
		alive := l.Alive()
		if !alive || now.Sub(l.since) > tidyEvery {
			p.seen(alive, now)
		}
		return !alive || !p.worth(limits) || now.After(l.until)
	})
}

// drop closes all links.
func (p *pool) drop() { p.remove(func(warmLink) bool { return true }) }

// end closes all links, and those that are being made later.
func (p *pool) end() {
	p.mu.Lock()
	p.ended = true
	p.mu.Unlock()
	p.drop()
}

// remove closes the links that are to go: goes is asked with mu held.
func (p *pool) remove(goes func(warmLink) bool) {
	var gone, stay []warmLink
	p.mu.Lock()
	for _, l := range p.links {
		if goes(l) {
			gone = append(gone, l)
		} else {
			stay = append(stay, l)
		}
	}
	p.links = stay
	p.mu.Unlock()
	for _, l := range gone {
		l.Close()
	}
}

// wanted notes that a link to p is wanted now.
func (d *Dialer) wanted(p *proxy) {
	if d.Pool.Max > 0 && p.pool.want(d.Pool, time.Now()) {
		d.fillAgain()
	}
}

// fillAgain has keepWarm look what is missing.
func (d *Dialer) fillAgain() {
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
		case now := <-ticker.C:
			for _, p := range d.known() {
				p.pool.tidy(d.Pool, now)
			}
		case <-ctx.Done():
		}
	}
	wg.Wait()
	for _, p := range d.known() {
		p.pool.drop()
	}
}

// fill makes the links that are missing.
func (d *Dialer) fill(ctx context.Context, wg *sync.WaitGroup) {
	for _, p := range d.known() {
		for range p.pool.missing(d.Pool, time.Now()) {
			wg.Go(func() {
				l, err := d.warm(ctx, p)
				switch {
				case p.pool.made(d.Pool, l, err, time.Now()):
					d.fillAgain() // it may have been the one by which to see
				case l != nil:
					l.Close()
				}
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
	if err != nil {
		d.Pool.Descriptors.Release(1)
		return nil, p.failed(ctx, err)
	}
	l.release = func() { d.Pool.Descriptors.Release(1) }
	answered, err := l.wait(ctx)
	if err == nil {
		p.answered(ohrouter.ProxyUp)
		return l, nil
	}
	l.Close()
	err = d.explain(p, err)
	switch {
	case answered && ohrouter.CodeOf(err) == ohrouter.Draining:
		p.answered(ohrouter.ProxyDraining)
	case answered:
		p.answered(ohrouter.ProxyUp)
	case hangsUp(err) && ohrouter.CodeOf(err) == ohrouter.Internal:
		p.connected() // it may not know the command: sessions will tell
	default:
		err = p.failed(ctx, err)
	}
	return nil, err
}

// wait sends a WarmCommand and reads the answer. It tells whether there was one;
// if so, the error is what that says.
func (l *Link) wait(ctx context.Context) (answered bool, err error) {
	b, err := frames.append(nil, typeWarm, &warmCommand{})
	if err != nil {
		return false, err
	}
	var m warmResponse
	err = within(ctx, l.conn, Timeout, func() error {
		return l.exchange(b, typeWarm, typeReady, &m)
	})
	if err != nil {
		return false, err
	}
	l.proxy.learn(m.Patience)
	l.answeredIn(0)
	if m.Code != "" {
		return true, (&connectResponse{Code: m.Code, Message: m.Message}).refusal()
	}
	l.move(warm)
	l.acked = l.acknowledged()
	return true, nil
}

// taken gives back what a link costs while it is warm.
func (l *Link) taken() {
	if l.release != nil {
		l.release()
		l.release = nil
	}
}

// tells tells whether it can be known later that a proxy has got nothing of
// what was said on a warm link.
func (l *Link) tells() bool { return l.acked != 0 }

// heard tells whether the proxy's kernel has taken anything that was said since
// the link was warm, when it has taken so much in all, or whether that is not
// known. A proxy passes nothing on before it has answered, and each answer
// acknowledges what it answers.
func (l *Link) heard(acked uint64) bool { return acked == 0 || acked != l.acked }

// acknowledged returns how many bytes the proxy's kernel has taken; 0 if that is
// not known.
func (l *Link) acknowledged() uint64 {
	if tcp := socket.TCP(l.conn); tcp != nil {
		return socket.Acked(tcp)
	}
	return 0
}

// lost tells whether a handshake on a warm link has failed because that had
// died, so that a fresh one may say the same: when the proxy was draining, or
// its end came before anything that was said, or at least before payload. A
// proxy that is silent may yet have got it. acked is as [Handshake.Failed] has it.
func (l *Link) lost(said, gave bool, acked uint64, err error) bool {
	switch {
	case said:
		return ohrouter.CodeOf(err) == ohrouter.Draining
	case hangsUp(err):
		return !gave || !l.heard(acked)
	}
	return l.silent(acked, err) && !gave
}

// silent tells whether nothing at all has come of a warm link since.
func (l *Link) silent(acked uint64, err error) bool { return isTimeout(err) && !l.heard(acked) }
