package relay

import (
	"testing"
	"time"
)

func TestPolling(t *testing.T) {
	const limit = 100 * time.Microsecond
	now := time.Now()
	p := polling{limit: limit}
	pauses := func(ds ...time.Duration) {
		for _, d := range ds {
			p.pause(now)
			now = now.Add(d)
			p.paused(now)
		}
	}
	want := func(polls bool, when string) {
		t.Helper()
		if p.pause(now); p.worthwhile(now) != polls {
			t.Errorf("%s: polls %v", when, !polls)
		}
	}
	want(false, "at first")
	pauses(limit/2, limit)
	want(false, "after a short pause and a long one")
	pauses(limit/2, limit, limit/2, limit)
	want(false, "after these by turns")
	pauses(limit/2, limit/2)
	want(true, "after two short ones")
	pauses(limit)
	want(false, "after a long one again")
	for range 100 {
		pauses(limit / 2)
	}
	pauses(limit, limit/2, limit, limit/2, limit)
	want(true, "after a few long ones in a busy moment")
	for range manyShort {
		pauses(limit)
	}
	want(false, "when the moment is over")
	for range 100 {
		pauses(limit / 2)
	}
	pauses(patience)
	want(false, "after it slept")
	p = polling{}
	pauses(0, 0, 0, 0)
	want(false, "without a limit")
}

// TestPollingInSetUp has sessions one after the other, with pauses that are short
// in their set-up alone.
func TestPollingInSetUp(t *testing.T) {
	const limit = 100 * time.Microsecond
	now := time.Now()
	p := polling{limit: limit}
	want := func(polls bool, short time.Duration, when string) {
		t.Helper()
		if p.pause(now); p.worthwhile(now) != polls || p.short() != short {
			t.Errorf("%s: polls %v for %v", when, !polls, p.short())
		}
	}
	pause := func(d time.Duration) {
		p.pause(now)
		now = now.Add(d)
		p.paused(now)
	}
	for range 3 {
		pause(2 * limit) // until the session begins
		p.setUp = now
		pause(2 * limit)
	}
	want(true, shortInSetUp*limit, "in a set-up")
	now = p.setUp.Add(shortInSetUp * limit)
	want(false, limit, "some time after it began")
	p.setUp = now
	want(true, shortInSetUp*limit, "in the next one")
	pause(patience) // the other hop is far away
	p.setUp = now
	want(false, shortInSetUp*limit, "after it slept")
}

func TestPollingBesideOthers(t *testing.T) {
	const limit = 100 * time.Microsecond
	now := time.Now()
	p := polling{limit: limit, habit: [kinds]int{manyShort, manyShort}}
	letGo := func(d time.Duration, goOn bool) {
		t.Helper()
		if got := p.letGo(now, d); got != goOn {
			t.Errorf("after it let the processor go for %v it goes on: %v", d, got)
		}
	}
	letGo(limit, true)
	letGo(slice, false)
	if !p.worthwhile(now) {
		t.Error("it does not poll again after one slice")
	}
	for range crowded {
		letGo(0, true)
	}
	letGo(slice, false)
	if !p.worthwhile(now) {
		t.Error("it does not poll again although slices are rare")
	}
	letGo(2*slice, false)
	if p.worthwhile(now.Add(leaveFor - 1)) {
		t.Error("it polls although others work on its processor")
	}
	if !p.worthwhile(now.Add(leaveFor)) {
		t.Error("it never polls again")
	}
}
