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
			p.pause(now, 0)
			now = now.Add(d)
			p.paused(now)
		}
	}
	want := func(polls bool, when string) {
		t.Helper()
		if p.pause(now, 0); p.worthwhile() != polls {
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
	pauses(longPause)
	want(false, "after it slept")
	p = polling{}
	pauses(0, 0, 0, 0)
	want(false, "without a limit")
}

// TestPollingAtEnds has sessions one after the other, with pauses that are short
// where they begin alone, and then between them as well.
func TestPollingAtEnds(t *testing.T) {
	const limit = 100 * time.Microsecond
	now := time.Now()
	p := polling{limit: limit}
	want := func(polls bool, short time.Duration, when string) {
		t.Helper()
		if p.pause(now, 0); p.worthwhile() != polls || p.short() != short {
			t.Errorf("%s: polls %v for %v", when, !polls, p.short())
		}
	}
	sessions := func(every time.Duration) {
		for range manyShort {
			p.session(afterBegin)
			for _, d := range []time.Duration{2 * limit, every} {
				p.pause(now, 0)
				now = now.Add(d)
				p.paused(now)
				p.session(afterEnd)
			}
		}
	}
	sessions(shortAtEnds * limit)
	want(false, shortAtEnds*limit, "between sessions")
	p.session(afterBegin)
	want(true, shortAtEnds*limit, "in a session that begins")
	now = now.Add(shortAtEnds * limit)
	want(false, limit, "some time after it began")
	sessions(2 * limit)
	want(true, shortAtEnds*limit, "between sessions that follow each other")
	sessions(longPause)
	p.session(afterBegin)
	want(false, shortAtEnds*limit, "after it slept")
}

// TestRare has a loop that works for a part of its time.
func TestRare(t *testing.T) {
	now := time.Now()
	var p polling
	work := func(worked, rested time.Duration) {
		now = now.Add(worked)
		p.pause(now, worked)
		now = now.Add(rested)
		p.paused(now)
	}
	want := func(rare bool, when string) {
		t.Helper()
		if p.rare() != rare {
			t.Errorf("%s: rare %v", when, !rare)
		}
	}
	want(true, "at first")
	work(much/2, 0)
	want(true, "after some work")
	for range 1000 {
		work(100*time.Microsecond, 1200*time.Microsecond)
	}
	want(true, "with less than a tenth of the time")
	for range 1000 {
		work(100*time.Microsecond, 700*time.Microsecond)
	}
	want(false, "with more")
	work(10*time.Microsecond, 3*time.Millisecond)
	work(10*time.Microsecond, 0)
	want(false, "after a pause of three milliseconds, of which there are others")
	work(10*time.Microsecond, lately)
	work(10*time.Microsecond, 0)
	want(true, "after a rest")
	work(time.Hour, 0)
	want(false, "after long work")
	work(0, lately)
	work(0, 0)
	want(true, "after a rest from long work")
}

func TestPollingBesideOthers(t *testing.T) {
	const limit = 100 * time.Microsecond
	now := time.Now()
	p := polling{limit: limit, habit: [kinds]int{ordinary: manyShort}}
	letGo := func(d time.Duration, goOn bool) {
		t.Helper()
		if got := p.letGo(now, d); got != goOn {
			t.Errorf("after it let the processor go for %v it goes on: %v", d, got)
		}
	}
	letGo(limit, true)
	letGo(slice, false)
	if p.pause(now, 0); !p.worthwhile() {
		t.Error("it does not poll again after one slice")
	}
	for range crowded {
		letGo(0, true)
	}
	letGo(slice, false)
	if p.pause(now, 0); !p.worthwhile() {
		t.Error("it does not poll again although slices are rare")
	}
	letGo(2*slice, false)
	if p.pause(now.Add(leaveFor-1), 0); p.worthwhile() {
		t.Error("it polls although others work on its processor")
	}
	if p.pause(now.Add(leaveFor), 0); !p.worthwhile() {
		t.Error("it never polls again")
	}
}
