package proxy_test

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/proxy"
	"github.com/ohrouter/oh-router/internal/socket"
)

// The frames of a warm link, and the fields of theirs that are looked at: see
// PROTOCOL.md in package link.
const (
	connectCommand, connectResponse, ackCommand, warmCommand, warmResponse = 1, 2, 3, 4, 5

	responseCode, responseResolved = 1, 2
)

func frame(t testing.TB, kind byte, fields map[int]any) []byte {
	t.Helper()
	body, err := cbor.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	return append(binary.BigEndian.AppendUint16([]byte{1, kind}, uint16(len(body))), body...)
}

func connectTo(t testing.TB, x ohrouter.Target, park bool) []byte {
	t.Helper()
	return frame(t, connectCommand, map[int]any{1: "s-1", 2: x.Host, 3: x.Port, 4: park})
}

// wantFrame reads a frame of a kind and returns its fields.
func wantFrame(t testing.TB, c net.Conn, kind byte) (fields map[int]any) {
	t.Helper()
	header := make([]byte, 4)
	if _, err := io.ReadFull(c, header); err != nil || header[1] != kind {
		t.Fatalf("a frame begins with %x and %v, want one of type %d", header, err, kind)
	}
	body := make([]byte, binary.BigEndian.Uint16(header[2:]))
	if _, err := io.ReadFull(c, body); err != nil {
		t.Fatal(err)
	}
	if err := cbor.Unmarshal(body, &fields); err != nil {
		t.Fatal(err)
	}
	return fields
}

// warm returns the router's end of a link that the proxy keeps warm.
func (f *fixture) warm() net.Conn {
	f.t.Helper()
	c := f.silent(1, "127.0.0.1")[0]
	f.keepWarm(c)
	return c
}

func (f *fixture) keepWarm(c net.Conn) {
	f.t.Helper()
	c.SetDeadline(time.Now().Add(deadline))
	if _, err := c.Write(frame(f.t, warmCommand, map[int]any{})); err != nil {
		f.t.Fatal(err)
	}
	if fields := wantFrame(f.t, c, warmResponse); fields[responseCode] != nil {
		f.t.Fatalf("the proxy keeps no link warm: %v", fields)
	}
}

func TestWarmLink(t *testing.T) {
	x := listen(t, "127.0.0.1", 0)
	gone := ohrouter.Target{Host: "127.0.0.1", Port: 1}
	for _, tt := range []struct {
		what string
		to   ohrouter.Target
		park bool
		code any // nil: connected
	}{
		{"to an address", x.Target, false, nil},
		{"to a name", x.named("db").Target, false, nil},
		{"parked", x.Target, true, nil},
		{"refused", gone, false, string(ohrouter.TargetRefused)},
		{"denied", ohrouter.Target{Host: "127.0.0.2", Port: x.Port}, false, string(ohrouter.TargetDenied)},
	} {
		t.Run(tt.what, func(t *testing.T) {
			f := start(t, patient, "127.0.0.1:*")
			f.names.resolve = is("127.0.0.1")
			c := f.warm()
			ask := connectTo(t, tt.to, tt.park)
			if !tt.park {
				ask = append(ask, append(frame(t, ackCommand, map[int]any{}), "hello"...)...)
			}
			if _, err := c.Write(ask); err != nil {
				t.Fatal(err)
			}
			fields := wantFrame(t, c, connectResponse)
			if fields[responseCode] != tt.code || (fields[responseResolved] != nil) != (tt.code == nil) {
				t.Fatalf("answer %v, want code %v", fields, tt.code)
			}
			if tt.code != nil {
				wantClosed(t, "router", c)
				return
			}
			if tt.park {
				c.Write(append(frame(t, ackCommand, map[int]any{}), "hello"...))
			}
			server := x.next(t)
			got := make([]byte, len("hello"))
			if _, err := io.ReadFull(server, got); err != nil || string(got) != "hello" {
				t.Errorf("the target reads %q, %v", got, err)
			}
			say(t, server, c, "and back")
		})
	}
}

// TestWarmLinksAreDrained has links whose routers have said nothing more, and one
// that has begun to, and is heard out.
func TestWarmLinksAreDrained(t *testing.T) {
	f, x := start(t, patient, "127.0.0.1:*"), listen(t, "127.0.0.1", 0)
	links := []net.Conn{f.warm(), f.warm(), f.warm()}
	command, last := append(connectTo(t, x.Target, false), frame(t, ackCommand, map[int]any{})...), links[2]
	if _, err := last.Write(command[:7]); err != nil {
		t.Fatal(err)
	}
	l, _ := f.link(x, false) // has Shutdown wait
	down := make(chan struct{})
	go func() {
		defer close(down)
		f.Shutdown(context.Background())
	}()
	for _, c := range links {
		if c == last {
			c.Write(command[7:])
		}
		if fields := wantFrame(t, c, connectResponse); fields[responseCode] != string(ohrouter.Draining) {
			t.Errorf("the proxy says %v, want that it drains", fields)
		}
		wantClosed(t, "router", c)
	}
	l.Close()
	<-down
	if lines := f.log.lines("level=WARN"); len(lines) > 0 {
		t.Errorf("the log warns: %v", lines)
	}
}

// TestWarmLinkIsGivenUp has a router that does not need a link any more.
func TestWarmLinkIsGivenUp(t *testing.T) {
	f := start(t, patient, "127.0.0.1:*")
	for _, end := range []func(net.Conn){func(c net.Conn) { c.Close() }, func(c net.Conn) { socket.Abort(c.(*net.TCPConn)) }} {
		end(f.warm())
	}
	until(t, "both are logged", func() bool { return len(f.log.lines("link closed before it began", "level=DEBUG")) == 2 })
	if n := len(f.log.lines()); n != 2 {
		t.Errorf("%d lines, want one for each: %v", n, f.log.lines())
	}
}

// TestWarmLinksAreNoCrowd has more of them than links may say nothing.
func TestWarmLinksAreNoCrowd(t *testing.T) {
	f, x := startWith(t, proxy.Config{Handshakes: 2, HandshakesPerSource: 2}, patient, "127.0.0.1:*"), listen(t, "127.0.0.1", 0)
	var links []net.Conn
	for range 5 {
		c := f.silent(1, "127.0.0.1")[0]
		f.link(x, false) // c was accepted before
		f.keepWarm(c)
		links = append(links, c)
	}
	for _, c := range links {
		c.Write(append(connectTo(t, x.Target, false), frame(t, ackCommand, map[int]any{})...))
		wantFrame(t, c, connectResponse)
	}
}
