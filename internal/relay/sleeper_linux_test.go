package relay

import (
	"testing"

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
	for range 100 { // now before it sleeps, now after; no deadline is left of the first
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
