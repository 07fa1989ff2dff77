//go:build linux

package conformance

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"
)

// large returns the first bytes of a handshake whose client goes on for long:
// records of 16 KiB that begin a message of 64 KiB.
func large() []byte {
	record := append([]byte{22, 3, 1, 0x40, 0}, make([]byte, 16<<10)...)
	copy(record[5:], []byte{1, 0, 0xff, 0xff})
	return bytes.Repeat(record, 3)
}

// several returns how many connections a test opens that would open so many:
// fewer where this process may have few descriptors.
func several(t testing.TB, n int) int {
	t.Helper()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	return min(n, int(limit.Cur)/3)
}

// TestFloods has strangers stand at both listeners of a stack with certificates,
// each in a way of their own: sessions and calls get on, and memory is bounded.
func TestFloods(t *testing.T) {
	big(t)
	s := start(t, flags{secured: true, router: []string{"--pool", "0-0"}})
	b := s.bind(t, serve(t, echo).addr)
	begun := hello(t)
	s.wantUsable(t, b, "nobody else")
	for _, flood := range []struct {
		name string
		n    int
		sent []byte
	}{
		{"silence", several(t, 5000), nil},
		{"a ClientHello and silence", several(t, 1000), begun},
		{"half a ClientHello", several(t, 1000), begun[:len(begun)/2]},
		{"an endless ClientHello", several(t, 1000), large()},
	} {
		for _, at := range []struct {
			name, addr string
			who        *process
		}{
			{"link port", s.link, s.proxy},
			{"API", hostOf(t, s.api), s.router},
		} {
			t.Run(at.name+"/"+flood.name, func(t *testing.T) {
				before := at.who.rss(t)
				conns := crowd(t, "127.0.0.2", at.addr, flood.n)
				defer leave(conns)
				for _, c := range conns {
					_, _ = c.Write(flood.sent) // to some that are dropped already
				}
				s.wantUsable(t, b, fmt.Sprintf("%d connections with %s at the %s", len(conns), flood.name, at.name))
				if !raceEnabled {
					wantGrowth(t, at.who.name, before, at.who.rss(t), 1024*64<<10) // so many of one source stand
				}
			})
		}
	}
	awaitDescriptors(t, s.proxy, 30)
	awaitDescriptors(t, s.router, 30)
}

// hostOf returns the host and port of a URL.
func hostOf(t testing.TB, text string) string {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return u.Host
}

// wantUsable fails the test unless sessions and calls succeed beside a crowd. It
// logs how long they take.
func (s *stack) wantUsable(t testing.TB, b binding, beside string) {
	t.Helper()
	var sessions, calls []time.Duration
	for range 20 {
		begin := time.Now()
		if err := shortSession(b.Address); err != nil {
			t.Errorf("a session beside %s: %v", beside, err)
		}
		middle := time.Now()
		if err := wantStatus(s.api+"/v1/bindings", http.StatusOK); err != nil {
			t.Errorf("a call beside %s: %v", beside, err)
		}
		sessions, calls = append(sessions, middle.Sub(begin)), append(calls, time.Since(middle))
	}
	first := sessions[0] // while the crowd is still being let in
	slices.Sort(sessions[1:])
	slices.Sort(calls)
	t.Logf("beside %s: the first session takes %v, the others %v, %v at most, and a call %v, %v at most", beside, first, sessions[10], sessions[19], calls[10], calls[19])
}

// endless is a body that does not end.
type endless struct{}

func (endless) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

// TestLargeCallsOfStrangers has bodies sent that nobody may send. They cost what
// their connections cost.
func TestLargeCallsOfStrangers(t *testing.T) {
	s := start(t, flags{secured: true})
	b := s.bind(t, serve(t, echo).addr)
	s.wantUsable(t, b, "nobody else")
	const callers = 200
	s.strangers(t, callers, 0) // what the first allocate is not counted
	before := s.router.rss(t)
	for _, size := range []int64{60_000, 10_000_000, -1} { // the last does not say how large it is
		if n := s.strangers(t, callers, size); n < callers/2 {
			t.Errorf("%d of %d callers with %d bytes have learnt that they are refused", n, callers, size)
		}
		awaitDescriptors(t, s.router, 30)
	}
	if !raceEnabled {
		wantGrowth(t, "router", before, s.router.rss(t), callers*64<<10)
	}
	s.wantUsable(t, b, "what was refused")
}

// strangers makes so many calls at once without a token, each with so many
// bytes, and returns how many got an answer. It has to be a refusal.
func (s *stack) strangers(t testing.TB, callers int, size int64) (answered int) {
	t.Helper()
	unknown := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}
	var wg sync.WaitGroup
	statuses := make(chan int, callers)
	for i := range callers {
		wg.Go(func() {
			path := []string{"/v1/bindings", "/route/bind/127.0.0.1/9", "/v1/sessions"}[i%3]
			most := size
			if most < 0 {
				most = 10_000_000
			}
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.api+path, io.NopCloser(io.LimitReader(endless{}, most)))
			if err != nil {
				t.Error(err)
				return
			}
			if req.ContentLength = size; size == 0 {
				req.Body = nil
			}
			resp, err := unknown.RoundTrip(req)
			if err != nil {
				return // its end came first
			}
			resp.Body.Close()
			statuses <- resp.StatusCode
		})
	}
	wg.Wait()
	close(statuses)
	for status := range statuses {
		if answered++; status/100 != 4 {
			t.Errorf("a stranger's call has status %d, want a refusal", status)
		}
	}
	return answered
}
