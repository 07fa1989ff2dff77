package link

import (
	"errors"
	"slices"
	"testing"
	"time"
)

// rate wants n links a second for so long.
func (p *pool) rate(limits Pool, from time.Time, n int, d time.Duration) (until time.Time) {
	gap := time.Second / time.Duration(n)
	for ; d > 0; d -= gap {
		p.want(limits, from)
		from = from.Add(gap)
	}
	return from
}

func TestPoolSize(t *testing.T) {
	const far, near = 50 * time.Millisecond, worthwhile
	begin := time.Unix(1e9, 0)
	burst := func(n int, calm time.Duration) func(*pool, Pool) time.Time {
		return func(p *pool, limits Pool) time.Time {
			for range n {
				p.want(limits, begin)
			}
			return begin.Add(calm)
		}
	}
	rate := func(n int, d, calm time.Duration) func(*pool, Pool) time.Time {
		return func(p *pool, limits Pool) time.Time { return p.rate(limits, begin, n, d).Add(calm) }
	}
	for _, tt := range []struct {
		name     string
		setUp    time.Duration
		min, max int
		wanted   func(*pool, Pool) time.Time // returns when it is asked for the size
		low, top int                         // what the size may be
	}{
		{"nothing wanted", far, 0, 64, burst(0, 0), 0, 0},
		{"nothing wanted, min 3", far, 3, 64, burst(0, 0), 3, 3},
		{"one wanted", far, 0, 64, burst(1, 0), 1, 1},
		{"one wanted, remembered", far, 0, 64, burst(1, calm*9/10), 1, 1},
		{"one wanted, forgotten", far, 0, 64, burst(1, calm*11/10), 0, 0},
		{"ten at once", far, 1, 64, burst(10, 0), 10, 10},
		{"ten at once, half forgotten", far, 1, 64, burst(10, calm), 5, 5},
		{"ten at once, all forgotten", far, 1, 64, burst(10, 5*calm), 1, 1},
		{"more than max at once", far, 1, 8, burst(1000, 0), 8, 8},
		{"1 a second", far, 0, 64, rate(1, 10*time.Second, 0), 1, 1},
		{"100 a second, near", near, 0, 64, rate(100, 5*time.Second, 0), 9, 12},
		{"100 a second, 50 ms away", far, 0, 64, rate(100, 5*time.Second, 0), 19, 22},
		{"100 a second, 200 ms away", 4 * far, 0, 256, rate(100, 5*time.Second, 0), 78, 84},
		{"100 a second, 200 ms away, max 64", 4 * far, 0, 64, rate(100, 5*time.Second, 0), 64, 64},
		{"100 a second, a while ago", far, 0, 64, rate(100, 5*time.Second, 2*calm), 4, 6},
		{"no time worth saving", near - 1, 5, 64, burst(10, 0), 0, 0},
		{"not known, min 0", 0, 0, 64, burst(10, 0), 0, 0},
		{"not known, min 5", 0, 5, 64, burst(10, 0), 1, 1},
		{"none", far, 0, 0, burst(10, 0), 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := &pool{least: worthwhile, setUp: tt.setUp, proven: tt.setUp > 0}
			limits := Pool{Min: tt.min, Max: tt.max}
			now := tt.wanted(p, limits)
			if n := p.missing(limits, now); n < tt.low || n > tt.top {
				t.Errorf("%d links are missing, want %d to %d", n, tt.low, tt.top)
			}
			if n := p.missing(limits, now); n != 0 {
				t.Errorf("%d links are missing while the others are being made, want none", n)
			}
		})
	}
}

func TestPoolTellsWhetherItIsShort(t *testing.T) {
	p := &pool{least: worthwhile, setUp: worthwhile, proven: true}
	limits, now := Pool{Max: 2}, time.Unix(1e9, 0)
	if !p.want(limits, now) {
		t.Error("want = false, and there is no link")
	}
	p.missing(limits, now)
	if p.want(limits, now.Add(time.Minute)) {
		t.Error("want = true, and the one link is being made")
	}
	if !p.want(limits, now.Add(time.Minute)) {
		t.Error("want = false for two at once, and one link is being made")
	}
	p.end()
	if p.want(limits, now.Add(time.Hour)) || p.missing(limits, now.Add(time.Hour)) != 0 {
		t.Error("a pool that has ended wants links")
	}
}

func TestPoolSetUpTime(t *testing.T) {
	const ms = time.Millisecond
	begin := time.Unix(1e9, 0)
	p := &pool{}
	if !p.unknown(begin) {
		t.Error("known before anything took any time")
	}
	for i, tt := range []struct{ after, took, want time.Duration }{
		{0, 9 * ms, 9 * ms},
		{0, 3 * ms, 3 * ms},
		{measureEvery + 1, 50 * ms, 3 * ms}, // a busy machine makes it longer
		{measureEvery, 60 * ms, 3 * ms},
		{1, 70 * ms, 50 * ms},
		{0, 1 * ms, 1 * ms},
	} {
		begin = begin.Add(tt.after)
		if p.tookSetUp(tt.took, begin); p.setUp != tt.want {
			t.Errorf("after %d links one takes %v, want %v", i+1, p.setUp, tt.want)
		}
	}
	if p.unknown(begin.Add(measureEvery)) || !p.unknown(begin.Add(measureEvery+1)) {
		t.Errorf("it is not looked again after %v", measureEvery)
	}
}

func TestPoolBacksOff(t *testing.T) {
	p := &pool{least: worthwhile, setUp: worthwhile, proven: true}
	limits, now := Pool{Min: 5, Max: 9}, time.Unix(1e9, 0)
	failed := errors.New("nobody there")
	if n := p.missing(limits, now); n != 5 {
		t.Fatalf("%d links are missing, want 5", n)
	}
	for range 5 { // at once: that is one failure
		p.made(limits, nil, failed, now)
	}
	for _, pause := range []time.Duration{1, 2, 4, 8, 16, 30, 30} {
		pause *= time.Second
		if wait := p.next.Sub(now); wait < pause/2 || wait > pause*3/2 {
			t.Errorf("pause of %v, want %v give or take half of it", wait, pause)
		}
		if p.want(limits, now) || p.missing(limits, p.next.Add(-1)) != 0 {
			t.Error("an attempt in a pause")
		}
		now = p.next
		if n := p.missing(limits, now); n != 1 {
			t.Errorf("%d links are missing after a pause, want one, to see", n)
		}
		if n := p.missing(limits, now); n != 0 {
			t.Errorf("%d links are missing while one is tried, want none", n)
		}
		p.made(limits, nil, failed, now)
	}
	now = p.next
	p.missing(limits, now)
	p.made(limits, &Link{}, nil, now)
	if n := p.missing(limits, now); n != 4 {
		t.Errorf("%d links are missing after a success, want the other 4", n)
	}
}

// TestPoolOfLinksThatDie has a proxy that makes all links, and keeps none.
func TestPoolOfLinksThatDie(t *testing.T) {
	p := &pool{least: worthwhile, setUp: worthwhile, proven: true}
	limits, now := Pool{Min: 5, Max: 9}, time.Unix(1e9, 0)
	makes := func(want int) {
		t.Helper()
		if n := p.missing(limits, now); n != want {
			t.Fatalf("%d links are missing, want %d", n, want)
		}
		for range want {
			p.made(limits, &Link{}, nil, now)
		}
	}
	die := func() {
		for range p.links {
			p.seen(false, now)
		}
		p.links = nil
	}
	makes(5)
	for _, pause := range []time.Duration{1, 2, 4, 8, 16, 30, 30} {
		pause *= time.Second
		die()
		if wait := p.next.Sub(now); wait < pause/2 || wait > pause*3/2 {
			t.Errorf("pause of %v, want %v give or take half of it", wait, pause)
		}
		makes(0)
		now = p.next
		makes(1)
		makes(0) // it has come about, as all do: that is not enough
	}
	p.seen(true, now)
	makes(4)
	die()
	if wait := p.next.Sub(now); wait > minPause*3/2 {
		t.Errorf("pause of %v after a link that was of use, want about %v", wait, minPause)
	}
}

// TestPoolTriesOne has a proxy of which it is not known whether it gives warm
// links: how long a connect takes does not tell.
func TestPoolTriesOne(t *testing.T) {
	p := &pool{least: worthwhile, setUp: worthwhile}
	limits, now := Pool{Min: 5, Max: 9}, time.Unix(1e9, 0)
	for _, want := range []int{1, 0} {
		if n := p.missing(limits, now); n != want {
			t.Errorf("%d links are missing of a proxy that has given none, want %d", n, want)
		}
	}
	p.made(limits, &Link{}, nil, now)
	if n := p.missing(limits, now); n != 4 {
		t.Errorf("%d links are missing after the first, want the other 4", n)
	}
}

func TestPoolAges(t *testing.T) {
	p := &pool{least: worthwhile, setUp: worthwhile, proven: true}
	limits, now := Pool{Min: 64, Max: 64}, time.Unix(1e9, 0)
	var ages []time.Duration
	for range p.missing(limits, now) {
		if !p.made(limits, &Link{}, nil, now) {
			t.Fatal("a link was not taken")
		}
	}
	for _, l := range p.links {
		ages = append(ages, l.until.Sub(now))
	}
	if low, top := slices.Min(ages), slices.Max(ages); low < maxWarm*2/3 || top > maxWarm || top-low < maxWarm/6 {
		t.Errorf("links get from %v to %v old, want %v to %v, and not all the same", low, top, maxWarm*2/3, maxWarm)
	}
	if maxWarm+tidyEvery+Timeout >= ackTimeout {
		t.Errorf("links get %v old, and a proxy waits no longer than %v", maxWarm, ackTimeout)
	}
}
