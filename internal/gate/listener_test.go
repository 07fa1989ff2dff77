package gate

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// served is an HTTP server behind a Listener. GET /known is of somebody who is,
// GET /wait of somebody who is and whose call ends with release.
type served struct {
	addr    string
	log     *lines
	release func()
}

// lines is a log.
type lines struct {
	mu   sync.Mutex // guards text
	text strings.Builder
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lines) count(s string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), s)
}

func serve(t *testing.T, cfg Config) *served {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &served{addr: ln.Addr().String(), log: &lines{}}
	released := make(chan struct{})
	s.release = sync.OnceFunc(func() { close(released) })
	cfg.Log = slog.New(slog.NewTextHandler(s.log, nil))
	l := Listen(ln, cfg)
	server := &http.Server{ReadHeaderTimeout: time.Minute, IdleTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/" {
			Known(r.Context())
		}
		if r.URL.Path == "/wait" {
			w.Header().Set("Content-Length", "6")
			w.(http.Flusher).Flush()
			<-released
		}
		fmt.Fprint(w, "answer")
	})}
	l.Watch(server)
	var wg sync.WaitGroup
	wg.Go(func() { _ = server.Serve(l) })
	t.Cleanup(func() {
		s.release()
		server.Close()
		wg.Wait()
	})
	return s
}

// dial opens n connections from an address.
func (s *served) dial(t *testing.T, n int, from string) (conns []net.Conn) {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	for range n {
		c, err := d.DialContext(t.Context(), "tcp", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		conns = append(conns, c)
	}
	return conns
}

// call makes a call on a connection and returns its status and body.
func call(c net.Conn, path string) (string, error) {
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path); err != nil {
		return "", err
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return "", err
	}
	if path == "/wait" {
		return resp.Status, nil // the body comes later
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.Status + " " + string(b), err
}

func wantCall(t *testing.T, c net.Conn, path string) {
	t.Helper()
	if got, err := call(c, path); err != nil || !strings.HasPrefix(got, "200 OK") {
		t.Errorf("GET %s = %q, %v, want 200", path, got, err)
	}
}

// dropped tells whether a connection has been reset.
func dropped(c net.Conn) bool {
	c.SetReadDeadline(time.Now().Add(time.Millisecond))
	_, err := c.Read(make([]byte, 1))
	c.SetReadDeadline(time.Time{})
	return err != nil && !errors.Is(err, os.ErrDeadlineExceeded)
}

// until waits for something that is soon to be true.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for begin := time.Now(); !is(); {
		if time.Since(begin) > 10*time.Second {
			t.Fatalf("not in 10s: %s", what)
		}
	}
}

func TestCrowdShutsNobodyOut(t *testing.T) {
	for _, from := range []string{"127.0.0.2", "127.0.0.1"} {
		s := serve(t, Config{Most: 16, MostOfOne: 8})
		early := s.dial(t, 4, "127.0.0.3")
		crowd := s.dial(t, 32, from)
		wantCall(t, s.dial(t, 1, "127.0.0.1")[0], "/")
		for i, c := range early {
			if dropped(c) {
				t.Errorf("connection %d of another source was dropped", i)
			}
		}
		until(t, "the oldest are dropped", func() bool { return dropped(crowd[0]) && dropped(crowd[20]) })
		for _, c := range crowd[len(crowd)-7:] {
			if dropped(c) {
				t.Error("one of the youngest was dropped")
			}
		}
		if n := s.log.count("too many connections"); n != 1 {
			t.Errorf("%d lines in the log, want one", n)
		}
	}
}

func TestCrowdOfManySources(t *testing.T) {
	s := serve(t, Config{Most: 8, MostOfOne: 4})
	first := s.dial(t, 1, "127.0.0.2")[0]
	for i := range 8 {
		s.dial(t, 4, fmt.Sprintf("127.0.0.%d", i+2))
	}
	wantCall(t, s.dial(t, 1, "127.0.0.1")[0], "/")
	until(t, "the oldest is dropped", func() bool { return dropped(first) })
}

// TestCallsAreNotDropped has more connections come while a call is answered.
func TestCallsAreNotDropped(t *testing.T) {
	s := serve(t, Config{Most: 8, MostOfOne: 4})
	c, stranger := s.dial(t, 1, "127.0.0.1")[0], s.dial(t, 1, "127.0.0.1")[0]
	wantCall(t, c, "/known")
	wantCall(t, c, "/wait")
	wantCall(t, stranger, "/")
	s.dial(t, 8, "127.0.0.1")
	until(t, "one that nobody knows is dropped", func() bool { return dropped(stranger) })
	s.release()
	if b, err := io.ReadAll(io.LimitReader(c, 6)); err != nil || len(b) != 6 {
		t.Errorf("the answer is %q, %v, want all of it", b, err)
	}
	until(t, "without a call it is like the others", func() bool {
		s.dial(t, 1, "127.0.0.1")[0].Close()
		s.dial(t, 4, "127.0.0.1")
		return dropped(c)
	})
}

// TestBusyCrowd has a source with a call on each of its connections.
func TestBusyCrowd(t *testing.T) {
	s := serve(t, Config{Most: 8, MostOfOne: 4})
	conns := s.dial(t, 4, "127.0.0.1")
	for _, c := range conns {
		wantCall(t, c, "/wait")
	}
	one, err := net.Dial("tcp", s.addr)
	if err == nil { // else it was reset at once
		defer one.Close()
		until(t, "one more is dropped", func() bool { return dropped(one) })
	}
	wantCall(t, s.dial(t, 1, "127.0.0.2")[0], "/")
	conns[0].Close()
	s.release()
	until(t, "there is room again", func() bool {
		c, err := net.Dial("tcp", s.addr)
		if err != nil {
			return false // it was reset at once
		}
		defer c.Close()
		_, err = call(c, "/")
		return err == nil
	})
}

// secured returns settings of TLS, of a server and a client.
func secured(t *testing.T) (server, client *tls.Config) {
	t.Helper()
	return &tls.Config{Certificates: []tls.Certificate{chain(t, 0)}, MinVersion: tls.VersionTLS13}, &tls.Config{InsecureSkipVerify: true}
}

func TestSecureListener(t *testing.T) {
	server, client := secured(t)
	s := serve(t, Config{Most: 64, MostOfOne: 64, TLS: server, Handshake: 16 << 10, Within: time.Minute, Request: 2000})
	hello := &wire{Reader: strings.NewReader("")}
	_ = tls.Client(gated{h: NewHandshake(hello, 1)}, &tls.Config{ServerName: "x"}).Handshake()
	for i, c := range s.dial(t, 30, "127.0.0.1") {
		_, _ = c.Write(hello.written.Bytes()[:hello.written.Len()/(1+i%2)]) // some send it all
	}
	for _, path := range []string{"/", "/known"} {
		c := tls.Client(s.dial(t, 1, "127.0.0.1")[0], client)
		wantCall(t, c, path)
		_, err := fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: x\r\nLong: %s\r\n\r\n", strings.Repeat("x", 3000))
		if err == nil {
			_, err = http.ReadResponse(bufio.NewReader(c), nil)
		}
		if (err == nil) != (path == "/known") {
			t.Errorf("more than an unknown caller may send, behind GET %s: %v", path, err)
		}
	}
}

// TestHandshakesEnd has them fail, each in its way.
func TestHandshakesEnd(t *testing.T) {
	server, _ := secured(t)
	s := serve(t, Config{Most: 64, MostOfOne: 64, TLS: server, Handshake: 16 << 10, Within: time.Second, Request: 2000})
	for sent, want := range map[string]string{
		"":                                     "",
		"\x16\x03\x01\x02\x00\x01":             "",
		"\x16\x03\x01\x40\x00\x01\x00\xff\xff": "",
		"GET / HTTP/1.1\r\nHost: x\r\n\r\n":    "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n",
	} {
		c := s.dial(t, 1, "127.0.0.1")[0]
		if _, err := io.WriteString(c, sent); err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(c); err != nil || string(b) != want {
			t.Errorf("who sends %.9q reads %q, %v, want %q", sent, b, err, want)
		}
	}
	if s.log.count("TLS handshake failed") != 2 {
		t.Errorf("the log is\n%s\nwant a line for what was wrong, and none for silence", s.log.text.String())
	}
}

// TestCloseEndsHandshakes leaves none behind.
func TestCloseEndsHandshakes(t *testing.T) {
	server, _ := secured(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := Listen(ln, Config{Most: 8, MostOfOne: 8, TLS: server, Handshake: 16 << 10, Within: time.Hour, Log: slog.New(slog.DiscardHandler)})
	s := &served{addr: ln.Addr().String()}
	conns := s.dial(t, 4, "127.0.0.1")
	until(t, "they have begun", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.crowd.Len() == len(conns)
	})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for _, c := range conns {
		if !dropped(c) {
			t.Error("a connection stands")
		}
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept = %v, want %v", err, net.ErrClosed)
	}
	if l.crowd.Len() != 0 {
		t.Errorf("%d connections in the books", l.crowd.Len())
	}
}
