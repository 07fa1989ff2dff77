package bolt

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"go.etcd.io/bbolt"
)

// What is stored stands in a bucket for each kind, made with its first value but
// for that of ports: under a key, a checksum of both, and a JSON text. The kind's
// tally is in meta. A file that has no such bucket yet is none the worse for it.

// job is a transaction that run makes for somebody; result has one place.
type job struct {
	writes bool
	do     func(tx *bbolt.Tx) error
	result chan error
}

// transact calls do in a transaction of its own. When it returns nil, what do
// has written is on the disk.
func (s *Store) transact(ctx context.Context, writes bool, do func(tx *bbolt.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	j := job{writes: writes, do: do, result: make(chan error, 1)}
	select {
	case s.jobs <- j:
	case <-s.over:
		return errClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	return <-j.result // ctx cannot take it back
}

// perform does a job.
func (s *Store) perform(j job) error {
	return s.use(func() error {
		if j.writes {
			return s.db.Update(j.do)
		}
		return s.db.View(j.do)
	})
}

// putValue stores a text under a key of a kind; nil forgets the key.
func (s *Store) putValue(ctx context.Context, kind, key string, text []byte) error {
	err := s.transact(ctx, true, func(tx *bbolt.Tx) error { return setValue(tx, kind, key, text) })
	if err != nil {
		return fmt.Errorf("write %s %s to %s: %w", kind, key, s.path, err)
	}
	return nil
}

// setValue is putValue within a transaction.
func setValue(tx *bbolt.Tx, kind, key string, text []byte) error {
	bucket, err := tx.CreateBucketIfNotExists([]byte(kind))
	if err != nil {
		return err
	}
	meta := tx.Bucket(metaBucket)
	all := readTally(meta.Get(kindTally(kind)))
	if old := bucket.Get([]byte(key)); old != nil {
		all.count--
		all.mix(old)
	}
	if text == nil {
		err = bucket.Delete([]byte(key))
	} else {
		value := append(binary.BigEndian.AppendUint32(nil, keyed(key, text)), text...)
		all.count++
		all.mix(value)
		err = bucket.Put([]byte(key), value)
	}
	if err != nil {
		return err
	}
	return meta.Put(kindTally(kind), all.bytes())
}

// values calls see with every key and text of a kind. It fails as a whole when
// one of them is damaged or missing: what is lost might have been a refusal.
// The text is see's to keep.
func (s *Store) values(ctx context.Context, kind string, see func(key string, text []byte) error) error {
	err := s.transact(ctx, false, func(tx *bbolt.Tx) error { return eachValue(tx, kind, see) })
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errClosed), ctx.Err() != nil:
		return fmt.Errorf("read %s of %s: %w", kind, s.path, err)
	}
	return damaged(s.path, err)
}

// eachValue is values within a transaction.
func eachValue(tx *bbolt.Tx, kind string, see func(key string, text []byte) error) error {
	var all tally
	if bucket := tx.Bucket([]byte(kind)); bucket != nil {
		err := bucket.ForEach(func(key, value []byte) error {
			if len(value) < 4 || keyed(string(key), value[4:]) != binary.BigEndian.Uint32(value) {
				return fmt.Errorf("the checksum of %s %.60q is wrong", kind, key)
			}
			all.count++
			all.mix(value)
			return see(string(key), append([]byte(nil), value[4:]...))
		})
		if err != nil {
			return err
		}
	}
	if want := readTally(tx.Bucket(metaBucket).Get(kindTally(kind))); all != want {
		return fmt.Errorf("it has %d %s, not the %d that were written", all.count, kind, want.count)
	}
	return nil
}

func kindTally(kind string) []byte {
	if kind == ports {
		return []byte("tally")
	}
	return []byte(kind + " tally")
}

// keyed is the checksum of a text under a key.
func keyed(key string, text []byte) uint32 {
	return crc32.Update(crc32.Checksum([]byte(key), castagnoli), castagnoli, text)
}
