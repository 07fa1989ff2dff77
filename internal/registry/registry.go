// Package registry decides which bindings exist: one for each owner and target,
// each at a port of its own, until nobody has used it for its idle timeout, its
// ttl ends, it is released, or its owner's token is not valid any more.
//
// It guards what a binding promises. Concurrent and repeated binds of one
// target by one owner are one binding. A new binding is checked, then its port
// is opened, then it is stored, and only then can anybody see it. A port whose
// binding has ended rests, and while it does, only its former target gets it
// back, for its former owner; that holds across restarts, because the store
// keeps a record of each port.
//
// The registry neither listens nor connects: it tells [Listeners] what to do,
// and asks it how a port is used. Nothing here runs for a single connection.
package registry

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/audit"
)

// Listeners opens the ports of bindings and carries what connects to them. Its
// methods are safe for concurrent use and never call the registry.
type Listeners interface {
	// Check connects to b's target through a proxy (b.Proxy if set; only that
	// one if b.Pinned; any if "") and keeps the connection for the first client
	// of b.ID. It returns the name of the proxy that served it. On error the
	// returned Check still has At and Duration.
	Check(ctx context.Context, b ohrouter.Binding) (proxy string, check ohrouter.Check, err error)
	// Open listens on b.Port, or, when b.ID is open already, applies b's Allow,
	// MaxSessions, Proxy and Pinned. An error that wraps
	// syscall.EADDRINUSE means that another program has the port.
	Open(b ohrouter.Binding) error
	// Usage returns how an open or draining binding is used; zero for an
	// unknown id.
	Usage(id string) ohrouter.Usage
	// CloseIdle does what Close does if no session is open, and tells whether
	// it did. A connection that comes at the same time is either a session, and
	// prevents it, or refused.
	CloseIdle(id string) bool
	// Stop closes the listener of a binding before it returns; sessions go on. A
	// connection that Check keeps is dropped, also when the port was never opened.
	// Unknown ids are no error.
	Stop(id string)
	// Close does what Stop does, waits for the sessions until ctx is done,
	// resets the rest, and returns when all have ended. Unknown ids are no error.
	Close(ctx context.Context, id string)
}

// Owners is what the registry asks about the tokens that bindings belong to.
// Its methods answer from memory, and are called with locks held.
type Owners interface {
	// Token returns the token with an id, and whether it is valid still. Once
	// it is not, it never is again.
	Token(id string) (t ohrouter.Token, valid bool)
	// NewTarget counts a target that the owner has no binding of, or returns
	// an error with code quota_exceeded.
	NewTarget(id string, target ohrouter.Target) error
}

// Config is what a registry works with.
type Config struct {
	PortLow, PortHigh uint16                 // the range of mapped ports, both included
	IdleTimeout       time.Duration          // of bindings that ask for none; 0 never
	Quarantine        time.Duration          // how long a port rests after its binding; 0 not at all
	Store             Store                  // nil: nothing survives a restart
	Listeners         Listeners              // who opens the ports
	Owners            Owners                 // whose bindings may be; nil: anybody's, without limits
	KnowsProxy        func(name string) bool // is it a configured proxy's name? nil: any is
	// NeedAllow drops stored bindings without an allow list: they are of a time
	// when only this machine reached their ports.
	NeedAllow bool
	Audit     *audit.Log            // nil: none
	Log       *slog.Logger          // nil: no log
	Metrics   prometheus.Registerer // nil: no metrics
}

// Registry is the set of bindings. Its methods are safe for concurrent use.
type Registry struct {
	cfg  Config
	log  *slog.Logger
	wake chan struct{} // tells Run that something is due earlier
	dirt chan struct{} // tells Run that a record is stale
	work sync.WaitGroup

	// mu guards all below and the fields of binding, slot and flight that say
	// so. It is not held while Listeners or the Store are called.
	mu          sync.Mutex
	idleTimeout time.Duration
	quarantine  time.Duration
	draining    bool // no new binds
	closed      bool // no new goroutines either
	byClaim     map[claim]*binding
	byID        map[string]*binding // also those that drain
	flights     map[claim]*flight
	ports       *ports // its range never changes and is read without mu
	clock       clock
	stale       map[*slot]struct{} // slots whose record is not in the store yet
}

// New returns a registry without bindings. It registers its metrics, and
// panics when they are registered there already.
func New(cfg Config) *Registry {
	r := &Registry{
		cfg:         cfg,
		log:         cfg.Log,
		wake:        make(chan struct{}, 1),
		dirt:        make(chan struct{}, 1),
		idleTimeout: cfg.IdleTimeout,
		quarantine:  cfg.Quarantine,
		byClaim:     make(map[claim]*binding),
		byID:        make(map[string]*binding),
		flights:     make(map[claim]*flight),
		ports:       newPorts(cfg.PortLow, cfg.PortHigh),
		stale:       make(map[*slot]struct{}),
	}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	if cfg.Metrics != nil {
		cfg.Metrics.MustRegister(
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{
				Name: "ohrouter_bindings", Help: "Bindings, draining ones included.",
			}, func() float64 { return float64(r.count()) }),
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{
				Name: "ohrouter_ports_free", Help: "Ports that are neither bound nor resting.",
			}, func() float64 { return float64(r.portsFree()) }),
		)
	}
	return r
}

func (r *Registry) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.byID)
}

func (r *Registry) portsFree() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ports.free(time.Now())
}

// Drain makes Bind answer [ohrouter.Draining] from now on. Bindings stay.
func (r *Registry) Drain() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.draining = true
}

// Draining tells whether Drain has been called, or Run has returned.
func (r *Registry) Draining() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.draining
}

// Reconfigure changes the idle timeout of bindings to come and the quarantine
// of ports whose binding ends from now on.
func (r *Registry) Reconfigure(idleTimeout, quarantine time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.idleTimeout, r.quarantine = idleTimeout, quarantine
}

// Run ends bindings that are idle for too long or whose ttl ends, and writes
// what the store could not take at once, until ctx ends. Then it refuses new
// binds, cuts drains that still go on, waits for everything that the registry
// started and returns nil. Bindings stay open, and in the store: a restart
// finds them. Run may be called once.
func (r *Registry) Run(ctx context.Context) error {
	var saver sync.WaitGroup
	saver.Go(func() { r.saveStale(ctx) })
	r.expire(ctx)

	r.mu.Lock()
	r.draining, r.closed = true, true
	for _, f := range r.flights {
		f.abandon()
	}
	for _, b := range r.byID {
		if b.cut != nil {
			b.cut()
		}
	}
	r.mu.Unlock()

	r.work.Wait()
	saver.Wait()
	r.flush(context.WithoutCancel(ctx))
	return nil
}

// start runs f in a goroutine that Run waits for, and tells whether it did:
// not once Run is about to return. It is called with mu held.
func (r *Registry) start(f func()) bool {
	if r.closed {
		return false
	}
	r.work.Go(f)
	return true
}

// signal makes the receiver of a channel with one place look again.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
