package link_test

import (
	"io"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ohrouter/oh-router/internal/link"
	"github.com/ohrouter/oh-router/internal/socket"
)

func TestUp(t *testing.T) {
	ln, err := socket.Options{}.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var looks atomic.Int32
	var serving, asking sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := socket.Accept(ln)
			if err != nil {
				return
			}
			looks.Add(1)
			_, _ = io.Copy(io.Discard, c) // a close at once would be a reset
			c.Close()
		}
	})
	d := link.NewDialer([]link.Proxy{{Name: "p", Address: ln.Addr().String()}}, link.NewStates(prometheus.NewRegistry()))
	for range 50 { // as when many sessions are reset at once
		asking.Go(func() {
			if !d.Up(t.Context(), "p") {
				t.Error("Up of a proxy that listens = false")
			}
		})
	}
	asking.Wait()
	if d.Up(t.Context(), "q") {
		t.Error("Up of an unknown proxy = true")
	}
	ln.Close()
	serving.Wait()
	if n := looks.Load(); n > 25 {
		t.Errorf("%d connects for 50 questions, want them shared", n)
	}
	for d.Up(t.Context(), "p") { // what was seen is soon forgotten
	}
}
