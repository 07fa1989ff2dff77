package audit

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// How much waits to be written, and how.
const (
	queueSize = 8192     // events
	batchSize = 64 << 10 // bytes that one write has at most, and an event more
	// closeWithin is how long Close waits for a stream that takes nothing.
	closeWithin = 2 * time.Second
	// tellEvery is how often the log says that events are lost.
	tellEvery = 10 * time.Second
)

// Config says where events are written. Log and Metrics are required.
type Config struct {
	File    string    // its name; "-" is Stdout, "" nowhere
	Stdout  io.Writer // required for "-"
	Log     *slog.Logger
	Metrics prometheus.Registerer
}

// Log is the stream of events. It is made by [Open]. A nil Log takes none.
type Log struct {
	cfg   Config
	queue chan *record
	sums  sums[record] // of what is refused

	reopen  chan struct{} // the file is to be opened anew
	losing  chan struct{} // events are being lost
	closing chan struct{} // closed by Close
	done    sync.WaitGroup
	once    sync.Once // for closing

	missed  atomic.Uint64 // lost, and not in the stream yet
	untold  atomic.Uint64 // lost, and not in the log yet
	lost    prometheus.Counter
	trouble atomic.Pointer[error] // why the last write failed; nil when it did not

	// What follows belongs to the goroutine that writes.
	out  io.Writer
	file *os.File // nil for Stdout
	torn bool     // the last write ended within a line
	buf  []byte
}

type record struct {
	Entry
	at time.Time
}

// Open opens the stream, a file for its owner alone unless it is there already,
// and starts to write. Without a File it returns nil.
func Open(cfg Config) (*Log, error) {
	if cfg.File == "" {
		return nil, nil
	}
	l := &Log{
		cfg: cfg, out: cfg.Stdout,
		queue: make(chan *record, queueSize), reopen: make(chan struct{}, 1), losing: make(chan struct{}, 1), closing: make(chan struct{}),
		lost: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "ohrouter_audit_lost_total",
			Help: "Events that the audit log does not have, as it was too slow or could not be written.",
		}),
	}
	if cfg.File != "-" {
		if err := l.open(); err != nil {
			return nil, fmt.Errorf("open the audit log: %w", err)
		}
	}
	l.sums.emit = l.summed
	cfg.Metrics.MustRegister(l.lost)
	l.done.Go(l.write)
	l.done.Go(l.tell)
	return l, nil
}

// Record takes an event. It waits for nothing. One that refuses something, and
// is the same as one before it but for what does not matter, is only counted for
// a moment.
func (l *Log) Record(e Entry) {
	if l == nil {
		return
	}
	now := time.Now()
	if k, refuses := e.kind(); refuses && !l.sums.add(k, record{e, now}) {
		return
	}
	l.put(record{e, now})
}

// summed takes the last of n events that were only counted.
func (l *Log) summed(last record, n uint64, others bool) {
	if others { // the rest says nothing of them
		by := Caller{Token: last.By.Token, Name: last.By.Name}
		last.Entry = Entry{Event: last.Event, By: by, Code: last.Code, Outcome: last.Outcome, Reason: tooMany}
	}
	last.Count = n
	l.put(last)
}

func (l *Log) put(r record) {
	select {
	case l.queue <- &r:
	default:
		l.lose(r.events())
	}
}

// events returns how many events a record tells of.
func (r *record) events() uint64 { return max(r.Count, 1) }

// Reopen has the file closed and opened anew by its name, as those who move a
// log away want it. It waits for nothing: lines that are in the queue may still
// go to the former file.
func (l *Log) Reopen() {
	if l == nil {
		return
	}
	select {
	case l.reopen <- struct{}{}:
	default: // it is going to be
	}
}

// Close writes what was recorded before it and closes the stream. It waits a
// moment for one that takes nothing, and no longer. It is idempotent.
func (l *Log) Close() error {
	if l == nil {
		return nil
	}
	l.once.Do(func() {
		l.sums.end()
		close(l.closing)
	})
	done := make(chan struct{})
	go func() {
		l.done.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-time.After(closeWithin):
		return fmt.Errorf("close the audit log: it takes nothing; %d events are not written", len(l.queue))
	}
}

// open opens the file, and closes the one that was open before.
func (l *Log) open() error {
	f, err := os.OpenFile(l.cfg.File, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	if l.file != nil {
		err = l.file.Close()
	}
	l.out, l.file, l.torn = f, f, false
	return err
}

// write is the goroutine that writes.
func (l *Log) write() {
	for {
		select {
		case r := <-l.queue:
			l.batch(r)
		case <-l.reopen:
			if l.file == nil {
				continue
			}
			if err := l.open(); err != nil {
				l.cfg.Log.Error("audit log not reopened: the former file stays in use", "err", err)
			}
		case <-l.closing:
			l.rest()
			if l.file != nil {
				_ = l.file.Close() // every write has had its error
			}
			return
		}
	}
}

// rest writes what is in the queue.
func (l *Log) rest() {
	for {
		select {
		case r := <-l.queue:
			l.batch(r)
		default:
			return
		}
	}
}

// batch writes an event, and those that wait behind it.
func (l *Log) batch(r *record) {
	l.buf = l.buf[:0]
	if l.torn {
		l.buf = append(l.buf, '\n')
	}
	missed := l.missed.Swap(0)
	if missed > 0 {
		e := Entry{Event: EventsLost, Lost: missed}
		l.buf = e.appendLine(l.buf, time.Now())
	}
	events := uint64(0)
	for r != nil {
		l.buf = r.appendLine(l.buf, r.at)
		events += r.events()
		r = nil
		if len(l.buf) < batchSize {
			select {
			case r = <-l.queue:
			default:
			}
		}
	}
	n, err := l.out.Write(l.buf)
	l.torn = n > 0 && n < len(l.buf) && l.buf[n-1] != '\n' || n == 0 && l.torn
	if err != nil {
		l.trouble.Store(&err)
		l.missed.Add(missed)
		l.lose(events) // those that were written in part, too: better some too many
	} else if l.trouble.Swap(nil) != nil {
		l.cfg.Log.Info("audit log is written again")
	}
}

// lose counts events that are lost.
func (l *Log) lose(n uint64) {
	l.missed.Add(n)
	l.untold.Add(n)
	l.lost.Add(float64(n))
	select {
	case l.losing <- struct{}{}:
	default:
	}
}

// tell is the goroutine that logs that events are lost, which the other one
// cannot while it waits for the stream.
func (l *Log) tell() {
	for {
		select {
		case <-l.losing:
			l.tellNow()
		case <-l.closing:
			return
		}
		select {
		case <-time.After(tellEvery):
		case <-l.closing:
			l.tellNow()
			return
		}
	}
}

func (l *Log) tellNow() {
	n := l.untold.Swap(0)
	if n == 0 {
		return
	}
	err := errSlow
	if p := l.trouble.Load(); p != nil {
		err = *p
	}
	l.cfg.Log.Error("audit events lost", "events", n, "file", l.cfg.File, "err", err)
}

var errSlow = errors.New("the stream does not take them as fast as they come")
