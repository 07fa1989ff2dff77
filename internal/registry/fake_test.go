package registry_test

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/registry"
	"github.com/ohrouter/oh-router/internal/store/storetest"
)

// fakeListeners stands for the router: ports are entries of a map, sessions are
// counted by the test.
type fakeListeners struct {
	mu      sync.Mutex
	ports   map[uint16]string // who listens
	open    map[string]ohrouter.Binding
	usage   map[string]ohrouter.Usage
	ended   map[string]chan struct{} // closed at the end of the last session
	links   map[string]bool          // kept by a check
	foreign map[uint16]bool          // taken by other programs
	stopped map[uint16]time.Time     // when a port last stopped listening
	checks  int
	checked ohrouter.Binding // by the last check

	check   func(ctx context.Context, b ohrouter.Binding) error // nil: it works
	openErr error
	serves  string        // the proxy that a check finds; "" the one it asks for
	slow    time.Duration // what Open takes
}

func newFakeListeners() *fakeListeners {
	return &fakeListeners{
		ports:   make(map[uint16]string),
		open:    make(map[string]ohrouter.Binding),
		usage:   make(map[string]ohrouter.Usage),
		ended:   make(map[string]chan struct{}),
		links:   make(map[string]bool),
		foreign: make(map[uint16]bool),
		stopped: make(map[uint16]time.Time),
	}
}

func (l *fakeListeners) Check(ctx context.Context, b ohrouter.Binding) (string, ohrouter.Check, error) {
	l.mu.Lock()
	l.checks++
	l.checked = b
	check := l.check
	l.mu.Unlock()
	c := ohrouter.Check{At: time.Now()}
	if check != nil {
		if err := check(ctx, b); err != nil {
			return "", c, err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.links[b.ID] = true
	c.Resolved = "192.0.2.1:1"
	return cmp.Or(l.serves, string(b.Proxy), "east"), c, nil
}

func (l *fakeListeners) Open(b ohrouter.Binding) error {
	l.mu.Lock()
	slow := l.slow
	l.mu.Unlock()
	time.Sleep(slow)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.openErr != nil {
		return l.openErr
	}
	if _, ok := l.open[b.ID]; !ok {
		if l.foreign[b.Port] || l.ports[b.Port] != "" {
			return &wrapped{syscall.EADDRINUSE}
		}
		l.ports[b.Port] = b.ID
		l.ended[b.ID] = make(chan struct{}, 1)
	}
	l.open[b.ID] = b
	return nil
}

func (l *fakeListeners) Usage(id string) ohrouter.Usage {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.usage[id]
}

func (l *fakeListeners) CloseIdle(id string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.usage[id].Sessions > 0 {
		return false
	}
	l.stop(id)
	l.forget(id)
	return true
}

func (l *fakeListeners) Stop(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stop(id)
}

func (l *fakeListeners) Close(ctx context.Context, id string) {
	l.mu.Lock()
	l.stop(id)
	ended, busy := l.ended[id], l.usage[id].Sessions > 0
	l.mu.Unlock()
	if busy {
		select {
		case <-ended:
		case <-ctx.Done():
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.forget(id)
}

func (l *fakeListeners) stop(id string) {
	delete(l.links, id)
	if b, ok := l.open[id]; ok && l.ports[b.Port] == id {
		delete(l.ports, b.Port)
		l.stopped[b.Port] = time.Now()
	}
}

func (l *fakeListeners) forget(id string) {
	delete(l.open, id)
	delete(l.usage, id)
	delete(l.ended, id)
}

// session begins (1) or ends (-1) a session of a binding.
func (l *fakeListeners) session(id string, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	u := l.usage[id]
	u.Sessions += n
	u.Standing += n
	if n > 0 {
		u.SessionsTotal++
		u.LastOK = time.Now()
	} else {
		u.LastEnd = time.Now()
		if u.Sessions == 0 {
			l.ended[id] <- struct{}{}
		}
	}
	l.usage[id] = u
}

func (l *fakeListeners) listens(port uint16) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ports[port] != ""
}

// listening counts the ports that listen.
func (l *fakeListeners) listening() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.ports)
}

func (l *fakeListeners) set(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
}

func (l *fakeListeners) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.checks
}

type wrapped struct{ err error }

func (w *wrapped) Error() string { return "listen: " + w.err.Error() }
func (w *wrapped) Unwrap() error { return w.err }

// memory is a store that forgets everything with the process.
type memory struct {
	mu      sync.Mutex
	records map[uint16]registry.Record
	closed  bool
	fail    bool
	slow    time.Duration // what Put takes
	gate    chan struct{} // if set, Put takes one of it when it begins, and one before it ends
}

func (m *memory) Load(ctx context.Context) ([]registry.Record, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Values(m.records)), m.usable(ctx)
}

func (m *memory) Put(ctx context.Context, r registry.Record) error {
	m.mu.Lock()
	slow, gate := m.slow, m.gate
	m.mu.Unlock()
	if gate != nil {
		<-gate
		<-gate
	}
	time.Sleep(slow)
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.usable(ctx); err != nil {
		return err
	}
	m.records[r.Port] = r
	return nil
}

func (m *memory) Delete(ctx context.Context, port uint16) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.usable(ctx); err != nil {
		return err
	}
	delete(m.records, port)
	return nil
}

func (m *memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	return nil
}

func (m *memory) usable(ctx context.Context) error {
	if m.closed || m.fail {
		return errors.New("the disk is gone")
	}
	return ctx.Err()
}

func (m *memory) failing(yes bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = yes
}

// slowdown has Put take so long.
func (m *memory) slowdown(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.slow = d
}

// copied is what a crash leaves.
func (m *memory) copied() *memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	return &memory{records: maps.Clone(m.records)}
}

func (m *memory) record(port uint16) registry.Record {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.records[port]
}

func TestMemory(t *testing.T) {
	storetest.Run(t, func(testing.TB) func() storetest.Store {
		records := make(map[uint16]registry.Record)
		return func() storetest.Store { return &memory{records: records} }
	})
}

// world is a registry with all that it works with.
type world struct {
	*registry.Registry
	t         testing.TB
	listeners *fakeListeners
	store     *memory
	config    registry.Config
	stop      func() // ends Run and waits for it
}

const (
	idle       = 5 * time.Minute
	quarantine = 10 * time.Minute
)

// newWorld starts a registry with ten ports.
func newWorld(t testing.TB, change func(*registry.Config)) *world {
	t.Helper()
	w := &world{t: t, listeners: newFakeListeners(), store: &memory{records: make(map[uint16]registry.Record)}}
	w.config = registry.Config{
		PortLow: 20000, PortHigh: 20009,
		IdleTimeout: idle, Quarantine: quarantine,
		Store:      w.store,
		KnowsProxy: func(name string) bool { return name == "east" || name == "west" },
	}
	if change != nil {
		change(&w.config)
	}
	w.start()
	return w
}

func (w *world) start() {
	w.t.Helper()
	w.config.Listeners = w.listeners
	w.Registry = registry.New(w.config)
	if err := w.Restore(w.t.Context()); err != nil {
		w.t.Fatalf("Restore() = %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan error, 1)
	go func() { over <- w.Run(ctx) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-over; err != nil {
			w.t.Errorf("Run() = %v", err)
		}
	})
	w.t.Cleanup(w.stop)
}

// restart is what a new process finds after the old one was killed.
func (w *world) restart() {
	w.t.Helper()
	w.stop()
	w.listeners = newFakeListeners()
	w.start()
}

func (w *world) bind(target string, change func(*ohrouter.BindingSpec)) (ohrouter.Binding, bool, error) {
	w.t.Helper()
	to, err := ohrouter.ParseTarget(target)
	if err != nil {
		w.t.Fatal(err)
	}
	spec := ohrouter.BindingSpec{Target: to}
	if change != nil {
		change(&spec)
	}
	return w.Bind(context.Background(), spec)
}

// mustBind binds a target and fails the test if that fails.
func (w *world) mustBind(target string, change func(*ohrouter.BindingSpec)) ohrouter.Binding {
	w.t.Helper()
	b, _, err := w.bind(target, change)
	if err != nil {
		w.t.Fatalf("Bind(%s) = %v", target, err)
	}
	return b
}

func (w *world) wantCode(err error, code ohrouter.Code) {
	w.t.Helper()
	if got := ohrouter.CodeOf(err); got != code {
		w.t.Errorf("error %v has code %q, want %q", err, got, code)
	}
}

func (w *world) wantState(id string, want ohrouter.BindingState) {
	w.t.Helper()
	b, err := w.Binding(id)
	if err != nil && want != "" || b.State != want {
		w.t.Errorf("Binding(%s) has state %q (%v), want %q", id, b.State, err, want)
	}
}

// inBubble runs a test with a clock of its own.
func inBubble(t *testing.T, change func(*registry.Config), test func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, change)
		synctest.Wait()
		test(t, w)
	})
}

// wait lets the bubble's clock go on and everything that is due happen.
func wait(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func port(p uint16) func(*ohrouter.BindingSpec) {
	return func(s *ohrouter.BindingSpec) { s.Port = p }
}

func unchecked(s *ohrouter.BindingSpec) { s.Check = new(false) }
