package bolt

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"

	"go.etcd.io/bbolt"

	"github.com/ohrouter/oh-router/internal/registry"
)

// The layout of the file: bucket meta has the format's version in decimal and
// the tallies; bucket ports has the record of each port, which is two big-endian
// bytes there. values.go says how they stand in a bucket.
var (
	metaBucket = []byte("meta")
	formatKey  = []byte("format")
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// ports is the kind of what [registry.Store] keeps. Its tally is older than the
// others.
const ports = "ports"

// format is the version of the layout that this package reads and writes.
const format = 1

// prepare makes an empty file one that has the layout.
func prepare(db *bbolt.DB) error {
	return db.Update(func(tx *bbolt.Tx) error {
		meta, err := tx.CreateBucketIfNotExists(metaBucket)
		if err != nil {
			return err
		}
		if _, err := tx.CreateBucketIfNotExists([]byte(ports)); err != nil {
			return err
		}
		return meta.Put(formatKey, []byte(strconv.Itoa(format)))
	})
}

// readable tells whether the file has the layout.
func readable(db *bbolt.DB, path string) error {
	return db.View(func(tx *bbolt.Tx) error {
		meta := tx.Bucket(metaBucket)
		if meta == nil || tx.Bucket([]byte(ports)) == nil {
			return damaged(path, errors.New("it is a bbolt file, but not one of a router"))
		}
		if v := string(meta.Get(formatKey)); v != strconv.Itoa(format) {
			return fmt.Errorf("%s has format %.20q and this oh-router reads format %d: "+
				"run the version that wrote it, move the file away to start without bindings, or pick another directory with --state",
				path, v, format)
		}
		return nil
	})
}

// portKey is the key of a port's record.
func portKey(port uint16) string { return string(binary.BigEndian.AppendUint16(nil, port)) }

// decode reads the record of a port.
func decode(key string, text []byte) (registry.Record, error) {
	var r registry.Record
	if err := json.Unmarshal(text, &r); err != nil {
		return r, fmt.Errorf("port %x: %w", key, err)
	}
	if portKey(r.Port) != key || r.Target.Port == 0 {
		return r, fmt.Errorf("port %x is that of port %04x to %q", key, r.Port, r.Target)
	}
	return r, nil
}

// tally tells whether the records are all there: a page with a damaged count of
// elements is a good page with fewer of them.
type tally struct {
	count uint64
	mixed uint32 // the checksums of all records, exclusive or
}

// mix adds a value that was not in the tally, or takes one out that was.
func (t *tally) mix(value []byte) {
	if len(value) >= 4 {
		t.mixed ^= binary.BigEndian.Uint32(value)
	}
}

func (t *tally) bytes() []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(nil, t.count), t.mixed)
}

// readTally reads what bytes returned; a new file has none, and no records.
func readTally(b []byte) tally {
	if len(b) != 12 {
		return tally{}
	}
	return tally{count: binary.BigEndian.Uint64(b), mixed: binary.BigEndian.Uint32(b[8:])}
}
