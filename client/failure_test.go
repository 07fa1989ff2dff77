package client_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/client"
)

func TestProblems(t *testing.T) {
	tests := []struct {
		name, body string
		code       ohrouter.Code
		say        string
	}{
		{
			"detail", `{"title":"Bad Gateway","status":502,"code":"target_refused","detail":"db:1 refuses the connection"}`,
			ohrouter.TargetRefused, "db:1 refuses the connection",
		},
		{"title alone", `{"title":"Not Found","code":"not_found"}`, ohrouter.NotFound, "Not Found"},
		{
			"fields", `{"detail":"validation failed","code":"invalid_request","errors":[{"location":"body.port","message":"too big"},{"message":"odd"}]}`,
			ohrouter.InvalidRequest, "validation failed: body.port: too big; odd",
		},
		{
			"field told already", `{"detail":"port: too big","code":"invalid_request","errors":[{"location":"body.port","message":"too big"}]}`,
			ohrouter.InvalidRequest, "port: too big",
		},
		{"code of a newer router", `{"detail":"no","code":"novel"}`, "novel", "no"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, _ := serve(t, answer(http.StatusBadGateway, "application/problem+json", tt.body))
			if e := failing(t, c, t.Context()); e.Code != tt.code || e.Message != tt.say {
				t.Errorf("Bind = %s %q, want %s %q", e.Code, e.Message, tt.code, tt.say)
			}
		})
	}
}

func TestNotAnAPI(t *testing.T) {
	tests := []struct {
		name   string
		answer http.HandlerFunc
		say    string
	}{
		{"page", answer(200, "text/html; charset=utf-8", "<h1>It works!</h1>"), "200 OK and text/html"},
		{"error page", answer(502, "text/html", "<h1>Bad Gateway</h1>"), "502 Bad Gateway and text/html"},
		{"other JSON", answer(200, "application/json", `{"hello":"world"}`), "not a binding"},
		{"JSON of another type", answer(200, "application/json", `[1]`), "POST /v1/bindings"},
		{"cut JSON", answer(200, "application/json", `{"id":`), "POST /v1/bindings"},
		{"problem without code", answer(404, "application/problem+json", `{"detail":"x"}`), "404 Not Found without a code"},
		{"redirect", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://elsewhere.example/v1/bindings", http.StatusMovedPermanently)
		}, "it redirects to https://elsewhere.example/v1/bindings"},
		{"endless", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			for range 33 {
				if _, err := w.Write(make([]byte, 32<<10)); err != nil {
					return
				}
			}
		}, "more than 1 MiB"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, calls := serve(t, tt.answer)
			e := failing(t, c, t.Context())
			if !errors.Is(e, client.ErrNotAPI) || !strings.Contains(e.Message, "does not look like an oh-router API") || !strings.Contains(e.Message, tt.say) {
				t.Errorf("Bind = %q, want ErrNotAPI with %q", e.Message, tt.say)
			}
			if len(*calls) != 1 {
				t.Errorf("made %d calls, want 1", len(*calls))
			}
		})
	}
}

func TestListsOfOthers(t *testing.T) {
	for _, body := range []string{`{}`, `{"bindings":{}}`, `{"bindings":[{"target":"nonsense"}]}`} {
		c, _ := serve(t, answer(200, "application/json", body))
		if got, err := c.Bindings(t.Context(), client.Filter{}); !errors.Is(err, client.ErrNotAPI) {
			t.Errorf("Bindings with answer %s = %v, %v, want ErrNotAPI", body, got, err)
		}
	}
}

func TestDeleteTakesNoPage(t *testing.T) {
	c, _ := serve(t, answer(200, "text/html", "<h1>It works!</h1>"))
	if err := c.Unbind(t.Context(), "b1", 0); !errors.Is(err, client.ErrNotAPI) {
		t.Errorf("Unbind with a page as answer = %v, want ErrNotAPI", err)
	}
}

// A certificate of a CA that is trusted, for other names.
func TestOtherName(t *testing.T) {
	s := httptest.NewTLSServer(answer(200, "application/json", "{}"))
	defer s.Close()
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	c := dial(t, client.Config{
		Server: strings.Replace(s.URL, "127.0.0.1", "localhost", 1),
		TLS:    &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13},
	})
	e := failing(t, c, t.Context())
	if want := "is not for that name"; !strings.Contains(e.Message, "name that with --ca-file: then any of its addresses will do") || !errors.Is(e, client.ErrNoRouter) || !strings.Contains(e.Message, want) || strings.Contains(e.Message, "not trusted") {
		t.Errorf("Bind = %q, want %q", e.Message, want)
	}
}

func TestNoRouter(t *testing.T) {
	tlsServer := httptest.NewTLSServer(answer(200, "application/json", "{}"))
	defer tlsServer.Close()
	plain := httptest.NewServer(answer(200, "application/json", "{}"))
	defer plain.Close()
	tests := []struct{ name, server, say string }{
		{"refused", "http://" + closedPort, "no router answers at http://127.0.0.1:"},
		{"refused, what to do", "http://" + closedPort, "(connection refused): is it running? Start one with 'oh-router up', or name another with --server or OH_ROUTER_SERVER"},
		{"refused, with certificates", "https://" + closedPort, "is it running? Start it, or name another with --server or OH_ROUTER_SERVER"},
		{"certificate", tlsServer.URL, "is not trusted"},
		{"plain", strings.Replace(plain.URL, "http://", "https://", 1), "speaks plain HTTP"},
		{"hangs up", "http://" + hangsUp(t), "no router answers at"},
		{"a proxy", "https://" + linksAlone(t, tlsServer.TLS.Certificates), "a router's and a proxy's are easily exchanged"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := failing(t, dial(t, client.Config{Server: tt.server}), t.Context())
			if !errors.Is(e, client.ErrNoRouter) || e.Code != ohrouter.Internal || !strings.Contains(e.Message, tt.say) {
				t.Errorf("Bind = %s %q, want ErrNoRouter with %q", e.Code, e.Message, tt.say)
			}
		})
	}
}

// TestTLS has settings whose own check fails, and the other way about: plain
// HTTP to a server that wants TLS.
func TestTLS(t *testing.T) {
	srv := httptest.NewUnstartedServer(answer(200, "application/json", `{"proxies":[]}`))
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	srv.StartTLS()
	defer srv.Close()
	check := func(err error) *tls.Config {
		return &tls.Config{InsecureSkipVerify: true, VerifyConnection: func(tls.ConnectionState) error { return err }}
	}
	c, err := client.New(client.Config{Server: srv.URL, TLS: check(ohrouter.Errorf(ohrouter.Unauthorized, "the peer is proxy/east"))})
	if err != nil {
		t.Fatal(err)
	}
	if e := failing(t, c, t.Context()); !errors.Is(e, client.ErrNoRouter) || !strings.Contains(e.Message, "is not trusted: the peer is proxy/east") {
		t.Errorf("Bind = %q, want what the check says", e.Message)
	}
	if c, err = client.New(client.Config{Server: srv.URL, TLS: check(nil)}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Proxies(t.Context()); err != nil {
		t.Errorf("Proxies = %v, want an answer", err)
	}
	srv.CloseClientConnections()
	e := failing(t, dial(t, client.Config{Server: strings.Replace(srv.URL, "https://", "http://", 1)}), t.Context())
	if !errors.Is(e, client.ErrNotAPI) || !strings.Contains(e.Message, "want https:// instead of http://") {
		t.Errorf("Bind = %q, want it to say https://", e.Message)
	}
}

func TestUnknownName(t *testing.T) {
	hc := &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", Name: "router.example", IsNotFound: true}}
	}}}
	e := failing(t, dial(t, client.Config{Server: "http://router.example:8080", HTTP: hc}), t.Context())
	if want := `the name "router.example" in http://router.example:8080 cannot be resolved`; !strings.Contains(e.Message, want) {
		t.Errorf("Bind = %q, want %q", e.Message, want)
	}
}

// hangsUp returns the address of a server that closes every connection.
func hangsUp(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return closes(t, l)
}

// linksAlone returns the address of a server that does not speak HTTP over TLS.
func linksAlone(t testing.TB, certificates []tls.Certificate) string {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: certificates, NextProtos: []string{"oh-router/1"}, MinVersion: tls.VersionTLS13})
	if err != nil {
		t.Fatal(err)
	}
	return closes(t, l)
}

// closes accepts connections, of TLS when their handshake is over, and closes them.
func closes(t testing.TB, l net.Listener) string {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			if secure, ok := conn.(*tls.Conn); ok {
				secure.Handshake()
			}
			conn.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l.Addr().String()
}

// A path in the server's URL may be that of an HTTP proxy, or a slip.
func TestPathOfServer(t *testing.T) {
	srv := httptest.NewServer(answer(http.StatusNotFound, "application/problem+json", `{"detail":"no such path","code":"not_found"}`))
	defer srv.Close()
	for path, say := range map[string]string{"": "no such path", "/foo": "no such path; " + srv.URL + "/foo has a path, which a router's own URL has not: is it right?"} {
		if e := failing(t, dial(t, client.Config{Server: srv.URL + path}), t.Context()); e.Message != say {
			t.Errorf("Bind at %s = %q, want %q", path, e.Message, say)
		}
		if err := dial(t, client.Config{Server: srv.URL + path}).Kill(t.Context(), "s1"); ohrouter.Message(err) != "no such path" {
			t.Errorf("Kill at %s = %v, want no word of a path: the session may be absent", path, err)
		}
	}
}

// silent returns a client of a server that never answers; called is closed at
// the first call.
func silent(t testing.TB) (c *client.Client, called chan struct{}) {
	called = make(chan struct{})
	c, _ = serve(t, func(_ http.ResponseWriter, r *http.Request) {
		close(called)
		<-r.Context().Done()
	})
	return c, called
}

func TestTimeout(t *testing.T) {
	c, called := silent(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	ctx = deadlined{ctx}
	go func() { <-called; cancel(context.DeadlineExceeded) }()
	e := failing(t, c, ctx)
	if !errors.Is(e, client.ErrNoRouter) || !strings.Contains(e.Message, "does not answer in time") {
		t.Errorf("Bind after the deadline = %q, want ErrNoRouter", e.Message)
	}
}

// deadlined is a context whose deadline passes when its parent is cancelled:
// it makes the moment exact.
type deadlined struct{ context.Context }

func (d deadlined) Err() error {
	if d.Context.Err() == nil {
		return nil
	}
	return context.DeadlineExceeded
}

func TestCancelled(t *testing.T) {
	c, called := silent(t)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-called; cancel() }()
	_, err := c.Proxies(ctx)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Proxies after cancel = %v, want context.Canceled", err)
	}
}

// TestCutAnswer has a router that dies in the middle of its answer.
func TestCutAnswer(t *testing.T) {
	c, _ := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", "1000")
		io.WriteString(w, `{"id":"b1"`)
	})
	if e := failing(t, c, t.Context()); !errors.Is(e, client.ErrNoRouter) {
		t.Errorf("Bind = %v, want ErrNoRouter", e)
	}
}

func Example() {
	srv := httptest.NewServer(answer(http.StatusCreated, "application/json",
		`{"id":"b1","target":"db.internal:3306","address":"127.0.0.1:20000"}`))
	defer srv.Close()

	c, err := client.New(client.Config{Server: srv.URL, HTTP: srv.Client()})
	if err != nil {
		fmt.Println(err)
		return
	}
	b, _, err := c.Bind(context.Background(), ohrouter.BindingSpec{
		Target: ohrouter.Target{Host: "db.internal", Port: 3306},
	})
	switch ohrouter.CodeOf(err) {
	case "":
		fmt.Println("connect to", b.Address)
	case ohrouter.TargetRefused:
		fmt.Println("the database is down")
	default:
		fmt.Println(ohrouter.Message(err))
	}
	// Output: connect to 127.0.0.1:20000
}
