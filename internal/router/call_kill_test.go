package router_test

import (
	"context"
	"testing"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/router"
	"github.com/ohrouter/oh-router/internal/socket"
)

// slowLinker has a linker's dialling wait until it is given up.
type slowLinker struct {
	*direct
	dialing chan struct{}
}

type slowHandshake struct {
	router.Handshake
	l *slowLinker
}

func (l *slowLinker) Begin(w router.Want) router.Handshake {
	return &slowHandshake{l.direct.Begin(w), l}
}

func (h *slowHandshake) Dial(ctx context.Context) (router.Link, error) {
	close(h.l.dialing)
	select {
	case <-ctx.Done():
	case <-time.After(deadline): // a proxy that does not answer
	}
	return nil, &ohrouter.Error{Code: ohrouter.ProxyUnreachable, Message: "silent"}
}

func TestKillWhileDiallingAfterAFailedCall(t *testing.T) {
	d := &direct{}
	l := &slowLinker{d, make(chan struct{})}
	f, x := start(t, 64, l), newTarget(t)
	at, calls := silent(t)
	d.gate = at
	client := connect(t, f.open(ohrouter.Binding{ID: "b-1", Target: x.Target, Proxy: elsewhere}))
	gate := called(t, calls, x.String()+"\n")
	socket.Abort(gate) // the call fails
	<-l.dialing
	begin := time.Now()
	if err := f.Kill(f.Sessions("b-1")[0].ID); err != nil {
		t.Fatal(err)
	}
	wantReset(t, "client", client)
	if took := time.Since(begin); took > deadline/2 {
		t.Errorf("the client of a killed session is reset after %v", took)
	}
}
