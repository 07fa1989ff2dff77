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
// the tally of all records; bucket ports has, for each port in two big-endian
// bytes, a checksum and the record as JSON. values.go has the other buckets.
var (
	metaBucket  = []byte("meta")
	portsBucket = []byte("ports")
	formatKey   = []byte("format")
	tallyKey    = []byte("tally")
	castagnoli  = crc32.MakeTable(crc32.Castagnoli)
)

// format is the version of the layout that this package reads and writes.
const format = 1

// prepare makes an empty file one that has the layout.
func prepare(db *bbolt.DB) error {
	return db.Update(func(tx *bbolt.Tx) error {
		meta, err := tx.CreateBucketIfNotExists(metaBucket)
		if err != nil {
			return err
		}
		if _, err := tx.CreateBucketIfNotExists(portsBucket); err != nil {
			return err
		}
		return meta.Put(formatKey, []byte(strconv.Itoa(format)))
	})
}

// readable tells whether the file has the layout.
func readable(db *bbolt.DB, path string) error {
	return db.View(func(tx *bbolt.Tx) error {
		meta, ports := tx.Bucket(metaBucket), tx.Bucket(portsBucket)
		if meta == nil || ports == nil {
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

// encode returns what is stored of a record: a checksum over port and record,
// then the record.
func encode(r registry.Record) ([]byte, error) {
	text, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	value := make([]byte, 4, 4+len(text))
	binary.BigEndian.PutUint32(value, checksum(r.Port, text))
	return append(value, text...), nil
}

// decode reads what encode wrote.
func decode(key, value []byte) (registry.Record, error) {
	var r registry.Record
	if len(key) != 2 || len(value) < 4 {
		return r, fmt.Errorf("the record of port %x is cut", key)
	}
	port := binary.BigEndian.Uint16(key)
	if checksum(port, value[4:]) != binary.BigEndian.Uint32(value) {
		return r, fmt.Errorf("the checksum of port %d is wrong", port)
	}
	if err := json.Unmarshal(value[4:], &r); err != nil {
		return r, fmt.Errorf("the record of port %d: %w", port, err)
	}
	if r.Port != port || r.Target.Port == 0 {
		return r, fmt.Errorf("the record of port %d is that of port %d to %q", port, r.Port, r.Target)
	}
	return r, nil
}

func checksum(port uint16, text []byte) uint32 {
	sum := crc32.Checksum(binary.BigEndian.AppendUint16(nil, port), castagnoli)
	return crc32.Update(sum, castagnoli, text)
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
