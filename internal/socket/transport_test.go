package socket_test

import (
	"bytes"
	"io"
	"testing"
	"time"

	"github.com/ohrouter/oh-router/internal/socket"
)

func TestTransport(t *testing.T) {
	c, peer := pair(t)
	tr := socket.NewTransport(c)
	if got := socket.TCP(tr); got != c {
		t.Errorf("TCP of a transport = %v, want the connection under it", got)
	}
	exchange := func(when string) {
		t.Helper()
		b := make([]byte, 4)
		if _, err := io.WriteString(tr, "ping"); err != nil {
			t.Fatalf("%s: write: %v", when, err)
		}
		if _, err := io.ReadFull(peer, b); err != nil || string(b) != "ping" {
			t.Fatalf("%s: the peer reads %q, %v", when, b, err)
		}
		io.WriteString(peer, "pong")
		if _, err := io.ReadFull(tr, b); err != nil || string(b) != "pong" {
			t.Fatalf("%s: read %q, %v", when, b, err)
		}
	}
	exchange("as the connection")
	tr.SetWriteDeadline(time.Unix(1, 0))
	if _, err := tr.Write([]byte("x")); err == nil {
		t.Error("write after the deadline = nil, want an error")
	}
	tr.SetWriteDeadline(time.Time{})

	over := struct {
		io.Reader
		bytes.Buffer
	}{Reader: bytes.NewReader([]byte("in"))}
	tr.TakeOver(struct {
		io.Reader
		io.Writer
	}{over.Reader, &over.Buffer})
	io.WriteString(tr, "out")
	if got, err := io.ReadAll(tr); string(got) != "in" || over.String() != "out" || err != nil {
		t.Errorf("taken over: read %q, %v and wrote %q", got, err, over.String())
	}
	tr.SetWriteDeadline(time.Unix(1, 0))
	if _, err := c.Write([]byte("x")); err != nil {
		t.Errorf("taken over: a write deadline made it through: %v", err)
	}
}
