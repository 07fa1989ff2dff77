package router

import (
	"time"

	ohrouter "github.com/ohrouter/oh-router"
)

// MaxParked is how many links may wait for their first client.
const MaxParked = maxParked

// Addr returns where the port of an open binding is; "" for an unknown id.
func (r *Router) Addr(id string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if b := r.bindings[id]; b != nil {
		return b.listener.Addr.String()
	}
	return ""
}

// Preamble is preamble.
var Preamble = preamble

// Crowd puts sessions into the books of a router that nobody carries: they are
// as good as others to who looks at them.
func (r *Router) Crowd(n int, l Link) (leave func()) {
	b := &binding{router: r, spec: ohrouter.Binding{ID: "b-crowd"}, sessions: make(map[uint64]*session)}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.bindings[b.spec.ID] = b
	for range n {
		s := &session{number: r.ids.next(), binding: b, start: time.Now(), link: l}
		b.sessions[s.number] = s
	}
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.bindings, b.spec.ID)
	}
}
