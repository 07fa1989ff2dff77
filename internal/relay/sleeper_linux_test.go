package relay

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestSleeper(t *testing.T) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(epoll)
	bell, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(bell)
	if err := unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, bell, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: int32(bell)}); err != nil {
		t.Fatal(err)
	}
	s, err := newSleeper(epoll)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	ring := func() {
		if _, err := unix.Write(bell, []byte{1, 0, 0, 0, 0, 0, 0, 0}); err != nil {
			t.Error(err)
		}
	}
	events := make([]unix.EpollEvent, 4)
	sleep := func(timeout, want int, when string) {
		t.Helper()
		n, err := s.sleep(events, timeout)
		if n != want || err != nil {
			t.Errorf("%s: %d events, %v, want %d", when, n, err, want)
		}
		if n == 1 && events[0].Fd != int32(bell) {
			t.Errorf("%s: event of %d, want %d", when, events[0].Fd, bell)
		}
	}
	sleep(1, 0, "a millisecond in which nothing happens")
	ring()
	sleep(-1, 1, "what happened before")
	var left unix.ItimerSpec
	if err := unix.TimerfdGettime(s.clock, &left); err != nil || left != (unix.ItimerSpec{}) {
		t.Errorf("in a sleep without end the clock goes on: %v, %v", left, err)
	}
	for range 100 { // now before it sleeps, now after
		go ring()
		sleep(-1, 1, "what happens meanwhile")
		go ring()
		sleep(60_000, 1, "what happens within a minute")
	}
	ring()
	if n, err := unix.EpollWait(s.gate, make([]unix.EpollEvent, 1), 0); n != 0 || err != nil {
		t.Errorf("while it is awake an event passes the gate: %d, %v", n, err)
	}
	sleep(60_000, 1, "what happened while it was awake")
	sleep(1, 0, "a millisecond once more")
}

// TestWaiting tells who waits for the others that sleep, after a loop was woken.
func TestWaiting(t *testing.T) {
	poll := func(l *loop) { l.polling.limit, l.polling.habit[ordinary] = longPause, manyShort }
	ring := func(l *loop) { _, _ = unix.Write(l.wakeup, []byte{1, 0, 0, 0, 0, 0, 0, 0}) }
	for name, tt := range map[string]struct {
		busy    func(*loop)
		timeout int
		alone   bool
	}{
		"little to do":   {func(*loop) {}, 20, true},
		"much to do":     {func(l *loop) { l.polling.began, l.polling.worked = time.Now(), lately }, 1, false},
		"bulk":           {func(l *loop) { l.busy = []*pair{nil} }, 0, false},
		"short pause":    {func(l *loop) { poll(l); ring(l) }, 1, false},
		"no short pause": {poll, 5, true},
		"a thing or two": {func(*loop) {}, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := newLoop(&loops{})
			if err != nil {
				t.Fatal(err)
			}
			defer l.free()
			events := make([]unix.EpollEvent, 4)
			wait := func(timeout int) { // in ms, instead of without end
				l.polling.pause(time.Now(), 0)
				if _, err := l.wait(events, timeout); err != nil {
					t.Fatal(err)
				}
			}
			wait(20)
			if !l.sleeper.alone {
				t.Fatal("after its first pause it is not alone")
			}
			tt.busy(l)
			if wait(tt.timeout); l.sleeper.alone != tt.alone {
				t.Errorf("alone: %v", l.sleeper.alone)
			}
		})
	}
}
