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
			p.paused(d)
		}
	}
	want := func(polls bool, when string) {
		t.Helper()
		if got := p.worthwhile(now); got != polls {
			t.Errorf("%s: polls %v", when, got)
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
		pauses(time.Second)
	}
	want(false, "when the moment is over")
	p = polling{}
	pauses(0, 0, 0, 0)
	want(false, "without a limit")
}

func TestPollingBesideOthers(t *testing.T) {
	const limit = 100 * time.Microsecond
	now := time.Now()
	p := polling{limit: limit, habit: manyShort}
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
