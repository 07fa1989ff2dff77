package registry_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/registry"
)

// model is what a client of the registry may rely on, whatever happens.
type model struct {
	*world
	owner map[uint16]string    // whose target a port served last
	until map[uint16]time.Time // nobody else's before then; zero while bound
	ids   []string
	keys  *fakeOwners
}

// step is one thing that happens. A number chooses between what there is.
type step struct {
	What   string
	Choice int
	For    time.Duration
}

// TestModel lets everything happen in any order. No port ever serves another
// target or owner before its rest is over, no target of an owner has two ports,
// no port two targets, and who is revoked has none.
func TestModel(t *testing.T) {
	steps := rapid.SliceOf(rapid.Custom(func(t *rapid.T) step {
		return step{
			What: rapid.SampledFrom([]string{
				"bind", "bind", "bind", "bind at", "bind for", "release", "drain", "patch",
				"connect", "disconnect", "time", "time", "restart", "bind as", "bind as", "revoke",
			}).Draw(t, "what"),
			Choice: rapid.IntRange(0, 6).Draw(t, "choice"),
			For:    time.Duration(rapid.IntRange(1, 400).Draw(t, "seconds")) * time.Second,
		}
	}))
	rapid.Check(t, func(rt *rapid.T) {
		play := steps.Draw(rt, "steps")
		var err error
		synctest.Test(t, func(t *testing.T) {
			keys := &fakeOwners{}
			w := newWorld(t, func(c *registry.Config) { c.PortHigh, c.Owners = c.PortLow+2, keys })
			m := &model{world: w, keys: keys, owner: make(map[uint16]string), until: make(map[uint16]time.Time)}
			for i := 0; i < len(play) && err == nil; i++ {
				if err = m.do(play[i]); err == nil {
					synctest.Wait()
					err = m.observe()
				}
			}
		})
		if err != nil {
			rt.Fatal(err)
		}
	})
}

// do does one step and returns what may not happen.
func (m *model) do(s step) error {
	target := fmt.Sprintf("db:%d", 1+s.Choice)
	var err error
	switch s.What {
	case "bind":
		_, _, err = m.bind(target, nil)
	case "bind at":
		_, _, err = m.bind(target, port(20000+uint16(s.For/time.Second%3)))
	case "bind for":
		_, _, err = m.bind(target, func(spec *ohrouter.BindingSpec) { spec.TTL = ohrouter.Duration(s.For) })
	case "bind as":
		_, _, err = m.bind(target, as(fmt.Sprintf("t-%d", s.For/time.Second%3)))
		if ohrouter.CodeOf(err) == ohrouter.Unauthorized {
			err = nil
		}
	case "revoke":
		err = m.keys.revoke(m.Registry, fmt.Sprintf("t-%d", s.Choice))
	case "time":
		time.Sleep(s.For)
	case "restart":
		m.restart()
	default:
		if len(m.ids) > 0 {
			err = m.change(m.ids[s.Choice%len(m.ids)], s)
		}
	}
	switch ohrouter.CodeOf(err) {
	case ohrouter.Conflict, ohrouter.PortsExhausted:
		return nil
	}
	return err
}

// change does a step with a binding.
func (m *model) change(id string, s step) (err error) {
	ctx := context.Background()
	b, err := m.Binding(id)
	switch {
	case err != nil:
	case s.What == "release":
		err = m.Release(ctx, id, 0)
	case s.What == "drain":
		err = m.Release(ctx, id, s.For)
	case s.What == "patch":
		_, err = m.Patch(ctx, id, ohrouter.BindingPatch{IdleTimeout: new(ohrouter.Duration(s.For))})
	case s.What == "connect" && b.State == ohrouter.BindingActive:
		m.listeners.session(id, 1)
	case s.What == "disconnect" && b.Sessions > 0:
		m.listeners.session(id, -1)
	}
	return err
}

// observe compares what listens with what was promised, and remembers it.
func (m *model) observe() (err error) {
	now := time.Now()
	bound := make(map[uint16]string)
	targets := make(map[string]uint16)
	m.ids = m.ids[:0]
	for _, b := range m.Bindings() {
		m.ids = append(m.ids, b.ID)
		target := string(b.Owner) + " " + b.Target.String()
		if m.keys.gone(string(b.Owner)) {
			return fmt.Errorf("port %d serves %s, whose token is revoked", b.Port, target)
		}
		if other, ok := bound[b.Port]; ok {
			return fmt.Errorf("port %d serves %s and %s", b.Port, other, target)
		}
		bound[b.Port] = target
		if b.State == ohrouter.BindingDraining {
			if m.listeners.listens(b.Port) {
				return fmt.Errorf("port %d listens while its binding drains", b.Port)
			}
			continue
		}
		if p, ok := targets[target]; ok {
			return fmt.Errorf("%s is bound at %d and %d", target, p, b.Port)
		}
		targets[target] = b.Port
		if !m.listeners.listens(b.Port) {
			return fmt.Errorf("%s is bound at port %d, where nothing listens", target, b.Port)
		}
		if m.owner[b.Port] != target && now.Before(m.until[b.Port]) {
			return fmt.Errorf("port %d serves %s, but is %s's until %s; it is %s", b.Port, target, m.owner[b.Port], m.until[b.Port], now)
		}
	}
	m.listeners.set(func() {
		for p := range m.listeners.ports {
			if bound[p] == "" {
				err = fmt.Errorf("port %d listens without a binding", p)
			}
		}
		for p := range m.owner {
			if bound[p] == "" && m.until[p].IsZero() {
				m.until[p] = m.listeners.stopped[p].Add(quarantine)
			}
		}
	})
	for p, target := range bound {
		m.owner[p], m.until[p] = target, time.Time{}
	}
	return err
}
