package api

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// pipes is a listener for connections in memory, whose deadlines run by the
// clock of a synctest bubble.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { close(p.done); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipes"} }

// dial starts a server for h and returns a connection to it. Both end with the
// test's bubble.
func dial(t *testing.T, h http.Handler) net.Conn {
	t.Helper()
	return dialServer(t, Server(h), (*http.Server).Serve)
}

func dialServer(t *testing.T, s *http.Server, serve func(*http.Server, net.Listener) error) net.Conn {
	t.Helper()
	p := &pipes{make(chan net.Conn), make(chan struct{})}
	served := make(chan error)
	go func() { served <- serve(s, p) }()
	client, server := net.Pipe()
	p.conns <- server
	t.Cleanup(func() {
		client.Close()
		s.Close()
		<-served
	})
	return client
}

// send writes a request and returns what the server answers until it hangs up,
// and after how long.
func send(t *testing.T, h http.Handler, request string) (string, time.Duration) {
	t.Helper()
	c := dial(t, h)
	start := time.Now()
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(c)
	if err != nil {
		t.Errorf("%q: %v", request, err)
	}
	return string(b), time.Since(start)
}

func TestSlowRequests(t *testing.T) {
	for request, want := range map[string]struct {
		answer string
		after  time.Duration
	}{
		"GET /livez HTTP/1.1\r\nHost:": {"", headerTimeout},
		"POST /v1/bindings HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{":          {"HTTP/1.1 400 Bad Request\r\n", bodyTimeout},
		"POST /v1/bindings HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n{":       {"HTTP/1.1 413 Request Entity Too Large\r\n", discardTimeout},
		"POST /v1/bindings HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1\r": {"HTTP/1.1 400 Bad Request\r\n", bodyTimeout},
		"GET /livez HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\n":                    {"HTTP/1.1 400 Bad Request\r\n", bodyTimeout},
		"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n":                                         {"HTTP/1.1 200 OK\r\n", idleTimeout},
	} {
		synctest.Test(t, func(t *testing.T) {
			got, after := send(t, handler(t, oneBinding()), request)
			if !strings.HasPrefix(got, want.answer) || after < want.after || after > want.after+time.Second {
				t.Errorf("%q = %.60q after %v, want %q after %v", request, got, after, want.answer, want.after)
			}
		})
	}
}

// TestRefusedAtOnce is a body that is known to be too long before it comes.
func TestRefusedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := dial(t, handler(t, oneBinding()))
		start := time.Now()
		if _, err := io.WriteString(c, "POST /v1/bindings HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 4<<10)
		n, err := c.Read(b)
		if took := time.Since(start); err != nil || took > 0 || !strings.HasPrefix(string(b[:n]), "HTTP/1.1 413 ") {
			t.Errorf("answer %.40q, %v after %v, want 413 at once", b[:n], err, took)
		}
	})
}

// TestSlowHandshakes are callers that begin with TLS, and do not go on.
func TestSlowHandshakes(t *testing.T) {
	certificate := selfSigned(t, 1)
	for _, sent := range []string{"", "\x16", "\x16\x03\x01\x02\x00\x01", "\x16\x03\x01\x40\x00\x01\x00\xff\xff" + strings.Repeat("\x00", 1000)} {
		synctest.Test(t, func(t *testing.T) {
			s := Server(handler(t, oneBinding()))
			s.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
			s.TLSConfig = &tls.Config{Certificates: []tls.Certificate{certificate}}
			c := dialServer(t, s, func(s *http.Server, l net.Listener) error { return s.ServeTLS(l, "", "") })
			start := time.Now()
			if _, err := io.WriteString(c, sent); err != nil {
				t.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, c)
			if took := time.Since(start); took != headerTimeout {
				t.Errorf("who sends %.8q has the connection for %v, want %v", sent, took, headerTimeout)
			}
		})
	}
}

// TestOneCallOnAConnection offers HTTP/2.
func TestOneCallOnAConnection(t *testing.T) {
	s := httptest.NewUnstartedServer(nil)
	s.Config = Server(handler(t, oneBinding()))
	s.TLS = &tls.Config{}
	s.StartTLS()
	defer s.Close()
	cfg := s.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	cfg.NextProtos = []string{"h2", "http/1.1"}
	c, err := tls.Dial("tcp", s.Listener.Addr().String(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := c.ConnectionState().NegotiatedProtocol; got != "http/1.1" {
		t.Errorf("the server speaks %q, want http/1.1", got)
	}
}

// TestSlowBind is a bind that takes longer than any limit for requests.
func TestSlowBind(t *testing.T) {
	for _, path := range []string{"/v1/bindings", "/route/bind/a/1"} {
		synctest.Test(t, func(t *testing.T) { slowBind(t, path) })
	}
}

func slowBind(t *testing.T, path string) {
	fake := oneBinding()
	fake.bound = func(ctx context.Context) {
		select {
		case <-ctx.Done():
			t.Error("the call's context ended while its client was waiting")
		case <-time.After(10 * time.Minute):
		}
	}
	const body = `{"target":"a:1"}`
	got, _ := send(t, handler(t, fake), fmt.Sprintf(
		"POST %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", path, len(body), body))
	if !strings.HasPrefix(got, "HTTP/1.1 200 OK\r\n") {
		t.Errorf("slow bind at %s = %q, want 200", path, got)
	}
}

// TestClientGone is a client that does not wait for its bind.
func TestClientGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := oneBinding()
		ended := make(chan struct{})
		fake.bound = func(ctx context.Context) {
			<-ctx.Done()
			close(ended)
		}
		c := dial(t, handler(t, fake))
		if _, err := io.WriteString(c, "GET /route/bind/a/1 HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		c.Close()
		<-ended // or the bubble is deadlocked, which fails the test
	})
}

// TestClientTakesNothing is a client that asks and does not read.
func TestClientTakesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		done := make(chan struct{})
		h := handler(t, oneBinding())
		c := dial(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			h.ServeHTTP(w, r)
			close(done)
		}))
		start := time.Now()
		if _, err := io.WriteString(c, "GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		<-done
		if took := time.Since(start); took != answerTimeout {
			t.Errorf("an answer that nobody takes is given up after %v, want %v", took, answerTimeout)
		}
	})
}

// TestKeptConnection answers twice with more time between than an answer has.
func TestKeptConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := dial(t, handler(t, oneBinding()))
		const body = `{"target":"a:1"}`
		for range 2 {
			if _, err := fmt.Fprintf(c, "POST /v1/bindings HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n", len(body)); err != nil {
				t.Fatal(err)
			}
			b := make([]byte, 4<<10)
			n, err := c.Read(b)
			if got := string(b[:n]); err != nil || got != "HTTP/1.1 100 Continue\r\n\r\n" {
				t.Fatalf("the server expects no body: %q, %v", got, err)
			}
			if _, err := io.WriteString(c, body); err != nil {
				t.Fatal(err)
			}
			if n, err = c.Read(b); err != nil || !strings.HasPrefix(string(b[:n]), "HTTP/1.1 200 OK\r\n") {
				t.Fatalf("bind = %q, %v, want 200", b[:n], err)
			}
			time.Sleep(answerTimeout + time.Second) // the bubble's clock
		}
	})
}
