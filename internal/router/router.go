// Package router is the role that clients connect to: it listens on the mapped
// ports, gets a link for each connection, and hands both to the relay.
package router

import (
	"cmp"
	"context"
	"iter"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/audit"
	"github.com/ohrouter/oh-router/internal/relay"
	"github.com/ohrouter/oh-router/internal/socket"
)

// Config is what a router is made of.
type Config struct {
	BindAddress netip.Addr     // where mapped ports listen
	Clients     socket.Options // of mapped ports and their connections
	Linker      Linker         // how targets are reached
	Relay       *relay.Engine  // carries the sessions; closed after Shutdown
	Park        time.Duration  // how long a check's link waits for the first client; 0 not at all
	Descriptors socket.Budget  // a session takes two, a mapped port and a parked link one
	Audit       *audit.Log     // nil: none
	Log         *slog.Logger
	Metrics     prometheus.Registerer
}

// Router listens on mapped ports and carries sessions. It is made by [New].
type Router struct {
	cfg     Config
	metrics *metrics
	ids     idSource

	// stop ends link set-ups; sessions end by being cut.
	ctx  context.Context
	stop context.CancelFunc

	wg       sync.WaitGroup // sessions until they have finished, what they have run meanwhile, parked links that expire
	mu       sync.Mutex     // guards what follows and the state of listeners and sessions; never held during I/O that waits
	closing  bool
	park     time.Duration
	bindings map[string]*binding       // each until its last session has ended
	ports    map[uint16]netip.AddrPort // that are open, and where
	owned    map[string]int            // open sessions of each owner that has some
	parked   parkingLot
}

// New returns a router without ports.
func New(cfg Config) *Router {
	r := &Router{
		cfg:      cfg,
		ids:      newIDSource(),
		park:     cfg.Park,
		bindings: make(map[string]*binding),
		ports:    make(map[uint16]netip.AddrPort),
		owned:    make(map[string]int),
	}
	r.ctx, r.stop = context.WithCancel(context.Background())
	r.metrics = newMetrics(cfg.Metrics, r)
	return r
}

// SetPark changes how long the links of checks wait from now on.
func (r *Router) SetPark(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.park = d
}

// Mapped returns where a mapped port listens, the zero AddrPort if the port is
// none.
func (r *Router) Mapped(port uint16) netip.AddrPort {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ports[port]
}

// Sessions returns the open sessions of a binding, oldest first; none if there is
// no such binding.
func (r *Router) Sessions(bindingID string) []ohrouter.Session {
	var open []*session
	r.mu.Lock()
	if b := r.bindings[bindingID]; b != nil {
		open = slices.AppendSeq(make([]*session, 0, len(b.sessions)), maps.Values(b.sessions))
	}
	r.mu.Unlock()
	list := make([]ohrouter.Session, 0, len(open))
	for _, s := range open { // each locks for itself: clients that connect do not wait for all
		list = append(list, s.snapshot())
	}
	slices.SortFunc(list, func(a, b ohrouter.Session) int {
		return cmp.Or(a.StartedAt.Compare(b.StartedAt), cmp.Compare(a.ID, b.ID))
	})
	return list
}

// all returns the open sessions, each of which is in its binding's book alone: one
// of all would be there for the rare call that names a session, and cost every
// session memory. The caller holds mu.
func (r *Router) all() iter.Seq[*session] {
	return func(yield func(*session) bool) {
		for _, b := range r.bindings {
			for _, s := range b.sessions {
				if !yield(s) {
					return
				}
			}
		}
	}
}

// count counts the open sessions. The caller holds mu.
func (r *Router) count() (n int) {
	for _, b := range r.bindings {
		n += len(b.sessions)
	}
	return n
}

// find returns an open session; its error has code [ohrouter.NotFound].
func (r *Router) find(id string) (*session, error) {
	if number, ok := r.ids.number(id); ok {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, b := range r.bindings {
			if s := b.sessions[number]; s != nil {
				return s, nil
			}
		}
	}
	return nil, ohrouter.Errorf(ohrouter.NotFound, "there is no open session %.64q", id)
}

// Session returns an open session. Its error has code [ohrouter.NotFound].
func (r *Router) Session(id string) (ohrouter.Session, error) {
	s, err := r.find(id)
	if err != nil {
		return ohrouter.Session{}, err
	}
	return s.snapshot(), nil
}

// disown counts a session of an owner that has ended. The caller holds mu.
func (r *Router) disown(owner string) {
	if owner == "" {
		return
	}
	if r.owned[owner]--; r.owned[owner] == 0 {
		delete(r.owned, owner)
	}
}

// Kill resets a session. Its error has code [ohrouter.NotFound].
func (r *Router) Kill(id string) error {
	s, err := r.find(id)
	if err != nil {
		return err
	}
	s.cut(ohrouter.Killed)
	return nil
}

// Shutdown stops listening, waits for the sessions until ctx is done, and
// resets the rest. It is idempotent.
func (r *Router) Shutdown(ctx context.Context) {
	r.mu.Lock()
	r.closing = true
	bindings := make([]*binding, 0, len(r.bindings))
	for _, b := range r.bindings {
		b.stopListening()
		bindings = append(bindings, b)
	}
	parked := r.parked.takeAll()
	r.mu.Unlock()
	r.discard(parked...)
	for _, b := range bindings {
		r.end(ctx, b, ohrouter.Drained)
	}
	r.stop()
	r.wg.Wait()
}
