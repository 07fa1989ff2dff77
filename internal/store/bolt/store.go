// Package bolt keeps the registry's records, and what else a router remembers,
// in one file of a directory, with bbolt.
//
// The file is trusted with what a port means, and so it is not trusted itself:
// it is verified as a whole before it is used, each record carries a checksum,
// and a file that changes under the store makes calls fail, never the process.
package bolt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"go.etcd.io/bbolt"

	"github.com/ohrouter/oh-router/internal/registry"
)

// maxGroup is how many writes share one transaction at most.
const maxGroup = 1024

var errClosed = errors.New("the state store is closed")

// Store keeps records in a file. Its methods are safe for concurrent use.
type Store struct {
	db     *bbolt.DB
	file   *os.File // the one that db has locked
	path   string
	writes chan write
	jobs   chan job
	quit   chan struct{} // closed by Close
	over   chan struct{} // closed when run has ended
	close  func() error
	broken error                 // why db cannot be used any more; run's alone until over is closed
	last   atomic.Pointer[error] // what the last write of ports returned
}

// write is a record to put, or a port to forget.
type write struct {
	port   uint16
	text   []byte // nil: forget it
	result chan error
}

// newStore returns the running store of an open file.
func newStore(db *bbolt.DB, file *os.File, path string) *Store {
	s := &Store{
		db: db, file: file, path: path,
		writes: make(chan write),
		jobs:   make(chan job),
		quit:   make(chan struct{}),
		over:   make(chan struct{}),
	}
	s.close = sync.OnceValue(s.closeOnce)
	go s.run()
	return s
}

// Put writes a record and returns when it is on the disk. Writes that come
// while another is under way share one transaction.
func (s *Store) Put(ctx context.Context, r registry.Record) error {
	text, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode the record of port %d: %w", r.Port, err)
	}
	return s.write(ctx, write{port: r.Port, text: text})
}

// Delete forgets a port.
func (s *Store) Delete(ctx context.Context, port uint16) error {
	return s.write(ctx, write{port: port})
}

func (s *Store) write(ctx context.Context, w write) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("write port %d to %s: %w", w.port, s.path, err)
	}
	w.result = make(chan error, 1)
	select {
	case s.writes <- w:
	case <-s.over:
		return errClosed
	case <-ctx.Done():
		return fmt.Errorf("write port %d to %s: %w", w.port, s.path, ctx.Err())
	}
	// Whether it is on the disk has to be waited for: ctx cannot take it back.
	if err := <-w.result; err != nil {
		return fmt.Errorf("write port %d to %s: %w", w.port, s.path, err)
	}
	return nil
}

// run does what comes until Close. Nobody else uses db: a fault may leave it
// locked, and whoever waited for it then would wait for ever.
func (s *Store) run() {
	defer close(s.over)
	for {
		select {
		case w := <-s.writes:
			group := append(make([]write, 0, 16), w)
			for more := true; more && len(group) < maxGroup; {
				select {
				case w := <-s.writes:
					group = append(group, w)
				default:
					more = false
				}
			}
			err := s.commit(group)
			for _, w := range group {
				w.result <- err
			}
		case j := <-s.jobs:
			j.result <- s.perform(j)
		case <-s.quit:
			return
		}
	}
}

// Err returns why the last write of ports failed; nil when it did not, or there
// was none yet.
func (s *Store) Err() error {
	if err := s.last.Load(); err != nil {
		return *err
	}
	return nil
}

// commit writes a group in one transaction.
func (s *Store) commit(group []write) (err error) {
	defer func() { s.last.Store(&err) }()
	return s.use(func() error {
		return s.db.Update(func(tx *bbolt.Tx) error {
			for _, w := range group {
				if err := setValue(tx, ports, portKey(w.port), w.text); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

// use calls f, which uses db, unless that has faulted before.
func (s *Store) use(f func() error) error {
	if s.broken != nil {
		return s.broken
	}
	fault, err := guard(f)
	if fault {
		s.broken = err
	}
	return err
}

// Load returns every record. It fails as a whole when one is damaged: a port
// whose meaning is lost must not get another one unnoticed.
func (s *Store) Load(ctx context.Context) ([]registry.Record, error) {
	var records []registry.Record
	err := s.values(ctx, ports, func(key string, text []byte) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		r, err := decode(key, text)
		records = append(records, r)
		return err
	})
	return records, err
}

// Close writes what has been accepted, closes the file and unlocks it.
func (s *Store) Close() error { return s.close() }

func (s *Store) closeOnce() error {
	close(s.quit)
	<-s.over
	if s.broken != nil { // its locks may be lost; the file is all that can be given back
		return release(s.file)
	}
	if _, err := guard(s.db.Close); err != nil {
		return fmt.Errorf("close %s: %w", s.path, err)
	}
	return nil
}

// guard calls f, which uses the mapped file, and turns a panic into an error:
// bbolt panics on pages that are not what it wrote, and the hardware faults
// when the file has become shorter than what is mapped. What bbolt has locked
// at that moment may stay so.
func guard(f func() error) (fault bool, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			fault, err = true, fmt.Errorf("the file has been changed by something else (%v)", p)
		}
	}()
	return false, f()
}
