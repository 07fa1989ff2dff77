package router

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
