//go:build linux

package conformance

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"syscall"
	"testing"
	"time"
)

// isReset tells whether an error is a reset.
func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// hello returns the first bytes of a TLS client.
func hello(t testing.TB) []byte {
	t.Helper()
	client, server := net.Pipe()
	defer server.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer client.Close()
	wg.Go(func() {
		_ = tls.Client(client, &tls.Config{ServerName: "router.example", MinVersion: tls.VersionTLS12}).Handshake()
	})
	b := make([]byte, 4096)
	n, err := server.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return b[:n]
}

// connectCommand returns the first bytes that a router sends to a proxy.
func connectCommand(t testing.TB) []byte {
	t.Helper()
	first := make(chan []byte, 64)
	fake := serve(t, func(c *net.TCPConn) {
		b := make([]byte, 64<<10)
		if n, _ := c.Read(b); n > 0 { // a connection without any only tries the address
			first <- b[:n]
		}
	})
	s := start(t, flags{proxies: []string{fake.addr}})
	s.want(t, 503, "proxy_unreachable", http.MethodPost, "/v1/bindings", fields{"target": "127.0.0.1:9"})
	return <-first
}

// rubbish are first bytes that nobody should send.
func rubbish(t testing.TB) map[string][]byte {
	t.Helper()
	random := make([]byte, 32<<10)
	_, _ = noise(11).Read(random)
	command := connectCommand(t)
	return map[string][]byte{
		"random bytes":              random,
		"one byte":                  {0},
		"zeroes":                    make([]byte, 8192),
		"ones":                      bytes.Repeat([]byte{0xff}, 8192),
		"TLS hello":                 hello(t),
		"HTTP":                      []byte("GET / HTTP/1.1\r\nHost: router\r\n\r\n"),
		"SSH":                       []byte("SSH-2.0-OpenSSH_9.2\r\n"),
		"a PROXY header":            []byte("PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n"),
		"half a command":            command[:len(command)/2],
		"a command's first byte":    command[:1],
		"a command with a bad tail": append(bytes.Clone(command[:len(command)-2]), 0xff, 0xff),
		"a command twice":           append(bytes.Clone(command), command...),
		"a command and noise":       append(bytes.Clone(command), random...),
	}
}

// wantClosed fails the test unless a connection that got these bytes and then
// nothing is closed by the other end in the time that a handshake may take.
func wantClosed(t testing.TB, addr, name string, sent []byte, limit time.Duration) {
	c, err := net.DialTimeout("tcp", addr, soon)
	if err != nil {
		t.Errorf("%s: %v", name, err)
		return
	}
	defer c.Close()
	start := time.Now()
	_, _ = c.Write(sent) // may be closed already
	_ = c.SetReadDeadline(start.Add(limit))
	if _, err := io.Copy(io.Discard, struct{ io.Reader }{c}); err != nil && !isReset(err) {
		t.Errorf("%s to %s and then silence: %v after %v, want the connection closed", name, addr, err, time.Since(start).Round(time.Millisecond))
	}
}

func TestGarbageAtLinkPort(t *testing.T) {
	t.Parallel()
	s := start(t, flags{})
	b := s.bind(t, serve(t, echo).addr)
	held := connect(t, b.Address)
	wantEcho(t, held)
	var wg sync.WaitGroup
	for name, sent := range rubbish(t) {
		for range 3 {
			wg.Go(func() { wantClosed(t, s.link, name, sent, 9*time.Second) })
		}
	}
	wg.Go(func() { wantClosed(t, s.link, "nothing", nil, 9*time.Second) })
	wantEcho(t, connect(t, b.Address))
	wg.Wait()
	wantEcho(t, held)
	awaitDescriptors(t, s.proxy, 20)
}

// A peer that trickles bytes has no more time than one that sends none.
func TestTrickleAtLinkPort(t *testing.T) {
	t.Parallel()
	s := start(t, flags{})
	start := time.Now() // the time runs from when the proxy accepts
	c := connect(t, s.link)
	command := connectCommand(t)
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for _, b := range command {
		if _, err := c.Write([]byte{b}); err != nil {
			break
		}
		<-tick.C
		if time.Since(start) > 10*time.Second {
			t.Fatalf("a command that comes a byte at a time is still waited for after %v", time.Since(start))
		}
	}
	drain(c)
	if took := time.Since(start); took < 3*time.Second || took > 9*time.Second {
		t.Errorf("connection was closed after %v, want about 5s", took)
	}
}

func TestGarbageAtAPI(t *testing.T) {
	t.Parallel()
	s := start(t, flags{})
	var wg sync.WaitGroup
	for name, sent := range rubbish(t) {
		if name == "HTTP" {
			continue // what belongs here
		}
		wg.Go(func() { wantClosed(t, s.api[len("http://"):], name, sent, 20*time.Second) })
	}
	for range 20 {
		if err := wantStatus(s.api+"/v1/bindings", 200); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
}

// What is garbage here may be the target's protocol: a mapped port passes it on.
func TestGarbageThroughMappedPort(t *testing.T) {
	t.Parallel()
	s := start(t, flags{})
	b := s.bind(t, serve(t, echo).addr)
	for name, sent := range rubbish(t) {
		c := connect(t, b.Address)
		go func() {
			_, _ = c.Write(sent)
			_ = c.CloseWrite()
		}()
		if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, sent) {
			t.Errorf("%s: echo of %d bytes has %d, %v", name, len(sent), len(got), err)
		}
	}
}

// A proxy's address may belong to something else.
func TestProxySpeaksGarbage(t *testing.T) {
	t.Parallel()
	random := make([]byte, 32<<10)
	_, _ = noise(12).Read(random)
	for name, handle := range map[string]func(*net.TCPConn){
		"closes":        func(*net.TCPConn) {},
		"resets":        func(c *net.TCPConn) { reset(c) },
		"random":        func(c *net.TCPConn) { _, _ = c.Write(random); drain(c) },
		"length bomb":   func(c *net.TCPConn) { _, _ = c.Write(bytes.Repeat([]byte{0xff}, 64)); drain(c) },
		"HTTP":          func(c *net.TCPConn) { fmt.Fprint(c, "HTTP/1.1 400 Bad Request\r\n\r\n"); drain(c) },
		"echo":          echo,
		"never answers": drain,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t, flags{proxies: []string{serve(t, handle).addr}})
			start := time.Now()
			s.want(t, 503, "proxy_unreachable", http.MethodPost, "/v1/bindings", fields{"target": "127.0.0.1:9"})
			if took := time.Since(start); took > 15*time.Second {
				t.Errorf("bind answered after %v", took)
			}
			wantResponsive(t, s.api+"/v1/bindings")
		})
	}
}

// Connections that send nothing, from elsewhere, do not keep routers and
// clients from being served.
func TestSilentCrowd(t *testing.T) {
	big(t)
	s := start(t, flags{})
	b := s.bind(t, serve(t, echo).addr)
	for name, addr := range map[string]string{"link port": s.link, "API": s.api[len("http://"):]} {
		t.Run(name, func(t *testing.T) {
			conns := crowd(t, "127.0.0.2", addr, 5000)
			defer leave(conns)
			for i := range 20 {
				start := time.Now()
				if err := shortSession(b.Address); err != nil {
					t.Fatalf("session %d beside %d silent connections: %v", i, len(conns), err)
				}
				s.want(t, 200, "", http.MethodGet, "/v1/bindings", nil)
				if took := time.Since(start); took > soon {
					t.Errorf("session and call took %v beside %d silent connections", took, len(conns))
				}
			}
			s.bind(t, serve(t, echo).addr)
		})
	}
	awaitDescriptors(t, s.proxy, 30)
	awaitDescriptors(t, s.router, 30)
}
