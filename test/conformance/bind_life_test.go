//go:build linux

package conformance

import (
	"fmt"
	"net/http"
	"testing"
	"time"
)

// release deletes a binding at once.
func (s *stack) release(t testing.TB, id string) {
	t.Helper()
	s.want(t, 204, "", http.MethodDelete, "/v1/bindings/"+id, nil)
}

func TestSameTargetSamePort(t *testing.T) {
	t.Parallel()
	s := start(t, flags{ports: 40})
	tg, other := serve(t, echo), serve(t, echo)
	b := s.bind(t, tg.addr)
	if again := s.bind(t, tg.addr); again.ID != b.ID || again.Port != b.Port {
		t.Errorf("second bind = %+v, want %+v", again, b)
	}
	s.release(t, b.ID)
	s.awaitGone(t, b.ID, soon)
	if o := s.bind(t, other.addr); o.Port == b.Port {
		t.Errorf("another target got port %d, which rests", o.Port)
	}
	again := s.bind(t, tg.addr)
	if again.Port != b.Port {
		t.Errorf("port after a release = %d, want %d", again.Port, b.Port)
	}
	wantEcho(t, connect(t, again.Address))
}

func TestRecycledBindingGetsItsPortBack(t *testing.T) {
	t.Parallel()
	s := start(t, flags{ports: 40, router: []string{"--idle-timeout", "200ms", "--park", "100ms"}})
	tg := serve(t, echo)
	b := s.bind(t, tg.addr)
	s.awaitGone(t, b.ID, soon)
	wantRefused(t, b.Address)
	if again := s.bind(t, tg.addr); again.Port != b.Port {
		t.Errorf("port after recycling = %d, want %d", again.Port, b.Port)
	}
}

func TestRestingPort(t *testing.T) {
	t.Parallel()
	s := start(t, flags{ports: 1})
	tg, other := serve(t, echo), serve(t, echo)
	b := s.bind(t, tg.addr)
	s.release(t, b.ID)
	s.awaitGone(t, b.ID, soon)
	wantRefused(t, b.Address)
	s.want(t, 503, "ports_exhausted", http.MethodPost, "/v1/bindings", fields{"target": other.addr})
	s.want(t, 409, "conflict", http.MethodPost, "/v1/bindings", fields{"target": other.addr, "port": b.Port})
	if again := s.bind(t, tg.addr, fields{"port": b.Port}); again.Port != b.Port {
		t.Errorf("the same target's port = %d, want %d", again.Port, b.Port)
	}
}

func TestQuarantineEnds(t *testing.T) {
	t.Parallel()
	s := start(t, flags{ports: 1, router: []string{"--quarantine", "5s"}})
	tg, other := serve(t, echo), serve(t, echo)
	b := s.bind(t, tg.addr)
	s.release(t, b.ID)
	s.want(t, 503, "ports_exhausted", http.MethodPost, "/v1/bindings", fields{"target": other.addr})
	eventually(t, 2*soon, func() error {
		if a := s.call(t, http.MethodPost, "/v1/bindings", fields{"target": other.addr}); a.status != http.StatusCreated {
			return fmt.Errorf("bind of another target = %v, want the port that has rested", a)
		}
		return nil
	})
	// Now the first target can't have it.
	s.want(t, 503, "ports_exhausted", http.MethodPost, "/v1/bindings", fields{"target": tg.addr})
}

// The idle clock runs from the last session's end, however old the bind is.
func TestIdleClockStartsAtLastEnd(t *testing.T) {
	t.Parallel()
	s := start(t, flags{})
	b := s.bind(t, serve(t, echo).addr)
	c := connect(t, b.Address)
	wantEcho(t, c)
	s.want(t, 200, "", http.MethodPatch, "/v1/bindings/"+b.ID, fields{"idle_timeout": "1s"})
	stays(t, 1500*time.Millisecond, func() error { return wantStatus(s.api+"/v1/bindings/"+b.ID, 200) })
	wantEcho(t, c)
	c.Close()
	ended := time.Now()
	s.awaitGone(t, b.ID, soon)
	if took := time.Since(ended); took < 900*time.Millisecond {
		t.Errorf("binding recycled %v after its last session, want 1s", took)
	}
}

func TestBindCallsKeepBinding(t *testing.T) {
	t.Parallel()
	s := start(t, flags{})
	tg := serve(t, echo)
	b := s.bind(t, tg.addr, fields{"idle_timeout": "4s"})
	stays(t, 6*time.Second, func() error {
		if again := s.bind(t, tg.addr); again.ID != b.ID {
			return fmt.Errorf("bind = %s, want %s", again.ID, b.ID)
		}
		return nil
	})
	s.awaitGone(t, b.ID, soon)
}

func TestIdleTimeoutZeroIsNever(t *testing.T) {
	t.Parallel()
	s := start(t, flags{router: []string{"--idle-timeout", "0", "--park", "0"}})
	b := s.bind(t, serve(t, echo).addr)
	stays(t, 1200*time.Millisecond, func() error { return wantStatus(s.api+"/v1/bindings/"+b.ID, 200) })
}

// A ttl is absolute: it cuts what is open.
func TestTTLCutsSessions(t *testing.T) {
	t.Parallel()
	s := start(t, flags{})
	tg := manual(t)
	b := s.bind(t, tg.addr, fields{"ttl": "5s"})
	if b.ExpiresAt == nil || b.ExpiresAt.Sub(b.CreatedAt).Round(100*time.Millisecond) != 5*time.Second {
		t.Errorf("expires_at = %v, want 5s after %v", b.ExpiresAt, b.CreatedAt)
	}
	client := connect(t, b.Address)
	server := tg.accept(t)
	if err := send(client, 1, 10); err != nil {
		t.Fatal(err)
	}
	wantReset(t, client, "client", 0)
	if early := time.Until(*b.ExpiresAt); early > 50*time.Millisecond {
		t.Errorf("session was cut %v before expires_at", early)
	}
	wantReset(t, server, "target", 10)
	s.awaitGone(t, b.ID, soon)
	wantRefused(t, b.Address)
	awaitMetric(t, s.api, outcome("binding_closed"), "1")
}

func TestDeleteCutsSessions(t *testing.T) {
	t.Parallel()
	s := start(t, flags{})
	tg := manual(t)
	b := s.bind(t, tg.addr)
	client := connect(t, b.Address)
	server := tg.accept(t)
	s.awaitEstablished(t, b.ID)
	s.release(t, b.ID)
	wantRefused(t, b.Address)
	wantReset(t, client, "client", 0)
	wantReset(t, server, "target", 0)
	s.awaitGone(t, b.ID, soon)
	s.want(t, 404, "not_found", http.MethodDelete, "/v1/bindings/"+b.ID, nil)
	awaitMetric(t, s.api, outcome("binding_closed"), "1")
}

// An unused checked link goes with its binding.
func TestDeleteDropsParkedCheck(t *testing.T) {
	t.Parallel()
	s := start(t, flags{router: []string{"--park", "30s"}})
	tg := manual(t)
	b := s.bind(t, tg.addr)
	parked := tg.accept(t)
	s.release(t, b.ID)
	start := time.Now()
	drain(parked)
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("checked link was dropped %v after the release, want at once", took)
	}
}

func TestDeleteWithDrain(t *testing.T) {
	t.Parallel()
	s := start(t, flags{})
	tg := serve(t, echo)
	b := s.bind(t, tg.addr)
	c := connect(t, b.Address)
	wantEcho(t, c)
	s.want(t, 204, "", http.MethodDelete, "/v1/bindings/"+b.ID+"?drain=30s", nil)
	wantRefused(t, b.Address)
	wantEcho(t, c)
	if got := s.binding(t, b.ID); got.State != "draining" || got.Sessions != 1 {
		t.Errorf("binding = %+v, want it draining with a session", got)
	}
	// The target can be bound anew, elsewhere.
	a := s.want(t, 201, "", http.MethodPost, "/v1/bindings", fields{"target": tg.addr})
	anew := decode[binding](t, a)
	if anew.ID == b.ID || anew.Port == b.Port || anew.State != "active" {
		t.Errorf("bind while draining = %+v, want another binding than %+v", anew, b)
	}
	wantEcho(t, connect(t, anew.Address))
	if got := s.bindings(t, "?target="+tg.addr); len(got) != 2 {
		t.Errorf("bindings of the target = %+v, want the draining one and the new", got)
	}
	// A draining binding ends with its last session.
	wantEcho(t, c)
	c.Close()
	s.awaitGone(t, b.ID, soon)
	wantRefused(t, b.Address)
}

func TestDrainsEndResets(t *testing.T) {
	t.Parallel()
	s := start(t, flags{})
	tg := manual(t)
	b := s.bind(t, tg.addr)
	client := connect(t, b.Address)
	server := tg.accept(t)
	s.awaitEstablished(t, b.ID)
	start := time.Now()
	s.want(t, 204, "", http.MethodDelete, "/v1/bindings/"+b.ID+"?drain=8s", nil)
	if took := time.Since(start); took > 7*time.Second {
		t.Errorf("DELETE answered after %v, want before the drain ends", took)
	}
	wantReset(t, client, "client", 0)
	wantReset(t, server, "target", 0)
	if took := time.Since(start); took < 7900*time.Millisecond {
		t.Errorf("sessions were cut after %v, want 8s", took)
	}
	s.awaitGone(t, b.ID, soon)
}

// Draining without sessions is over at once.
func TestDrainOfUnusedBinding(t *testing.T) {
	t.Parallel()
	s := start(t, flags{})
	b := s.bind(t, serve(t, echo).addr)
	s.want(t, 204, "", http.MethodDelete, "/v1/bindings/"+b.ID+"?drain=60s", nil)
	s.awaitGone(t, b.ID, soon)
}

// A second DELETE of a draining binding cuts the wait short.
func TestDeleteDrainingBinding(t *testing.T) {
	t.Parallel()
	s := start(t, flags{})
	b := s.bind(t, serve(t, echo).addr)
	c := connect(t, b.Address)
	wantEcho(t, c)
	s.want(t, 204, "", http.MethodDelete, "/v1/bindings/"+b.ID+"?drain=60s", nil)
	s.release(t, b.ID)
	wantReset(t, c, "client", 0)
	s.awaitGone(t, b.ID, soon)
}
