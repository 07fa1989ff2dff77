package bolt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
)

// bbolt trusts the pages that it maps. One that is not what it wrote makes it
// panic, recurse for ever or fault, in part in goroutines of its own where
// nobody can recover; a wrong free list makes it overwrite what is in use. So
// the file is read once, as bytes, and walked with nothing taken for granted.
//
// The layout, with numbers as the machine has them:
//
//	page      id u64, flags u16, count u16, overflow u32, then its elements
//	meta      magic u32, version u32, page size u32, flags u32, root u64,
//	          sequence u64, free list u64, pages u64, transaction u64, FNV-1a u64
//	branch    position u32, key length u32, page u64
//	leaf      flags u32, position u32, key length u32, value length u32
//	free list page u64
//
// Positions count from the element's first byte. A leaf element with flag 1 is
// a bucket; its value is root u64, sequence u64 and, when the root is 0, the
// bucket's only page.
const (
	headerSize  = 16
	elementSize = 16
	metaSize    = 64
	bucketSize  = 16

	branchPage = 0x01
	leafPage   = 0x02
	freePage   = 0x10

	magic        = 0xED0CDAED
	boltVersion  = 2
	minPage      = 1 << 9
	maxPage      = 1 << 24
	countInFirst = 0xFFFF // the free list has its count in its first element
)

var order = binary.NativeEndian

// verify reads the whole file and returns a damage when it is not what bbolt
// has written.
func verify(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return &damage{errors.New("it is not a file")}
	}
	m, err := findMeta(f)
	if err != nil {
		return &damage{err}
	}
	if m.pages > uint64(info.Size())/m.pageSize {
		return &damage{fmt.Errorf("it is cut: %d bytes are left of %d", info.Size(), m.pages*m.pageSize)}
	}
	data := make([]byte, m.pages*m.pageSize)
	if _, err := io.ReadFull(io.NewSectionReader(f, 0, info.Size()), data); err != nil {
		return fmt.Errorf("read %s: %w", f.Name(), err)
	}
	w := &walk{meta: m, data: data, seen: make([]bool, m.pages)}
	if err := w.all(); err != nil {
		return &damage{err}
	}
	return nil
}

// meta is the page that all others are found from.
type meta struct{ pageSize, root, free, pages, transaction uint64 }

// findMeta returns the newer of the file's two meta pages that is whole. After
// a crash one of them may not be.
func findMeta(r io.ReaderAt) (meta, error) {
	first, ok := readMeta(r, 0)
	if ok {
		if second, also := readMeta(r, int64(first.pageSize)); also && second.transaction > first.transaction {
			return second, nil
		}
		return first, nil
	}
	for size := int64(minPage); size <= maxPage; size *= 2 {
		if m, ok := readMeta(r, size); ok && m.pageSize == uint64(size) {
			return m, nil
		}
	}
	return meta{}, errors.New("it does not begin as a state file does")
}

// readMeta returns the meta page at an offset, if there is a good one.
func readMeta(r io.ReaderAt, offset int64) (meta, bool) {
	var page [headerSize + metaSize]byte
	if _, err := r.ReadAt(page[:], offset); err != nil {
		return meta{}, false
	}
	b := page[headerSize:]
	m := meta{
		pageSize:    uint64(order.Uint32(b[8:])),
		root:        order.Uint64(b[16:]),
		free:        order.Uint64(b[32:]),
		pages:       order.Uint64(b[40:]),
		transaction: order.Uint64(b[48:]),
	}
	sum := fnv.New64a()
	_, _ = sum.Write(b[:56])
	good := order.Uint32(b) == magic && order.Uint32(b[4:]) == boltVersion && order.Uint64(b[56:]) == sum.Sum64() &&
		m.pageSize >= minPage && m.pageSize <= maxPage && m.pageSize&(m.pageSize-1) == 0 && m.pages >= 2
	return m, good
}

// walk visits every page that is in use or free, each once.
type walk struct {
	meta
	data []byte
	seen []bool
}

func (w *walk) all() error {
	w.seen[0], w.seen[1] = true, true
	if err := w.freeList(); err != nil {
		return err
	}
	return w.tree(w.root, nil, nil)
}

// page returns a page that has not been visited yet, with its overflow.
func (w *walk) page(id uint64) ([]byte, error) {
	if id < 2 || id >= w.pages {
		return nil, fmt.Errorf("page %d is not one of its %d", id, w.pages)
	}
	p := w.data[id*w.pageSize:]
	size := uint64(order.Uint32(p[12:])) + 1
	if order.Uint64(p) != id || size > w.pages-id {
		return nil, fmt.Errorf("page %d has a wrong header", id)
	}
	for n := id; n < id+size; n++ {
		if w.seen[n] {
			return nil, fmt.Errorf("page %d is used twice", n)
		}
		w.seen[n] = true
	}
	return p[:size*w.pageSize], nil
}

// freeList visits the pages that the next transactions will overwrite.
func (w *walk) freeList() error {
	p, err := w.page(w.free)
	if err != nil {
		return err
	}
	flags, count := header(p)
	ids := p[headerSize:]
	if count == countInFirst {
		count, ids = order.Uint64(ids), ids[8:]
	}
	if flags != freePage || count > uint64(len(ids))/8 {
		return fmt.Errorf("page %d is no free list", w.free)
	}
	for i := range count {
		id := order.Uint64(ids[8*i:])
		if id < 2 || id >= w.pages || w.seen[id] {
			return fmt.Errorf("page %d is on the free list wrongly", id)
		}
		w.seen[id] = true
	}
	return nil
}

func header(p []byte) (flags uint16, count uint64) {
	return order.Uint16(p[8:]), uint64(order.Uint16(p[10:]))
}

// tree visits a page of a bucket and all below it. Their keys are at least low
// and less than high; nil is no bound.
func (w *walk) tree(id uint64, low, high []byte) error {
	p, err := w.page(id)
	if err != nil {
		return err
	}
	switch flags, count := header(p); {
	case flags == leafPage:
		return w.leaf(p, low, high)
	case flags == branchPage && count > 0:
		return w.branch(p, low, high)
	}
	return fmt.Errorf("page %d is of an unknown kind", id)
}

func (w *walk) branch(p, low, high []byte) error {
	_, count := header(p)
	keys := make([][]byte, count, count+1)
	for i := range count {
		e, err := element(p, i)
		if err != nil {
			return err
		}
		if keys[i], err = part(e, order.Uint32(e), order.Uint32(e[4:])); err != nil {
			return err
		}
	}
	if err := ordered(keys, low, high); err != nil {
		return err
	}
	keys = append(keys, high)
	for i := range count {
		e, _ := element(p, i)
		if err := w.tree(order.Uint64(e[8:]), keys[i], keys[i+1]); err != nil {
			return err
		}
	}
	return nil
}

func (w *walk) leaf(p, low, high []byte) error {
	_, count := header(p)
	keys := make([][]byte, count)
	for i := range count {
		e, err := element(p, i)
		if err != nil {
			return err
		}
		flags, position, length := order.Uint32(e), order.Uint32(e[4:]), order.Uint32(e[8:])
		if keys[i], err = part(e, position, length); err != nil {
			return err
		}
		value, err := part(e[uint64(position)+uint64(length):], 0, order.Uint32(e[12:]))
		if err != nil {
			return err
		}
		switch flags {
		case 0:
		case 1:
			err = w.bucket(value)
		default:
			err = fmt.Errorf("key %x has unknown flags", keys[i])
		}
		if err != nil {
			return err
		}
	}
	return ordered(keys, low, high)
}

// bucket visits the pages of a bucket, or the one that it has in its value.
func (w *walk) bucket(value []byte) error {
	if len(value) < bucketSize {
		return errors.New("a bucket is cut")
	}
	if root := order.Uint64(value); root != 0 {
		return w.tree(root, nil, nil)
	}
	p := value[bucketSize:]
	if len(p) < headerSize {
		return errors.New("a bucket's page is cut")
	}
	if flags, _ := header(p); flags != leafPage || order.Uint64(p) != 0 {
		return errors.New("a bucket's page is of an unknown kind")
	}
	return w.leaf(p, nil, nil)
}

// element returns the page from its i-th element on.
func element(p []byte, i uint64) ([]byte, error) {
	from := headerSize + i*elementSize
	if from+elementSize > uint64(len(p)) {
		return nil, errors.New("a page has more elements than room")
	}
	return p[from:], nil
}

// part returns length bytes of b at a position.
func part(b []byte, position, length uint32) ([]byte, error) {
	if uint64(position)+uint64(length) > uint64(len(b)) {
		return nil, errors.New("a key or value lies outside its page")
	}
	return b[position:][:length], nil
}

// ordered tells whether keys ascend from low, included, to high, excluded.
func ordered(keys [][]byte, low, high []byte) error {
	for i, k := range keys {
		if len(k) == 0 || i > 0 && bytes.Compare(keys[i-1], k) >= 0 ||
			low != nil && bytes.Compare(k, low) < 0 || high != nil && bytes.Compare(k, high) >= 0 {
			return fmt.Errorf("key %x is out of order", k)
		}
	}
	return nil
}
