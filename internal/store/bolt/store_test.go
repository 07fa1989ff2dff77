package bolt_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"go.etcd.io/bbolt"
	"go.uber.org/goleak"

	"github.com/ohrouter/oh-router/internal/store/bolt"
	"github.com/ohrouter/oh-router/internal/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestStore(t *testing.T) {
	storetest.Run(t, func(t testing.TB) func() storetest.Store {
		dir := filepath.Join(t.TempDir(), "not", "there", "yet")
		return func() storetest.Store { return open(t, dir) }
	})
}

func open(t testing.TB, dir string) *bolt.Store {
	t.Helper()
	s, err := bolt.Open(dir)
	if err != nil {
		t.Fatalf("Open() = %v", err)
	}
	return s
}

// filled returns a directory with a store of n records, and the store's file.
func filled(t testing.TB, n uint16) (dir, path string) {
	t.Helper()
	dir = t.TempDir()
	s := open(t, dir)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			r := storetest.Bound(20000 + i)
			if i%3 == 0 {
				r = storetest.Resting(20000 + i)
			}
			if err := s.Put(t.Context(), r); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	// A meta page that is not whole is what a crash leaves, so that damage to
	// the newer one takes the last write back: let that be no loss.
	if err := s.Put(t.Context(), storetest.Resting(20000)); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return dir, filepath.Join(dir, "bindings.db")
}

func TestPermissions(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	if err := open(t, dir).Close(); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]fs.FileMode{dir: 0o700 | fs.ModeDir, filepath.Join(dir, "bindings.db"): 0o600} {
		info, err := os.Stat(path)
		if err != nil || info.Mode() != want {
			t.Errorf("mode of %s is %v (%v), want %v", path, info.Mode(), err, want)
		}
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("%d files in the state directory, want 1: %v", len(left), left)
	}
}

func TestInUse(t *testing.T) {
	dir := t.TempDir()
	if bolt.Exists(dir) {
		t.Error("Exists says that an empty directory has a state")
	}
	s := open(t, dir)
	if !bolt.Exists(dir) {
		t.Error("Exists does not see the state")
	}
	_, err := bolt.Open(dir)
	wantSentence(t, err, "another router uses", dir)
	if _, ok := errors.AsType[*bolt.InUse](err); !ok {
		t.Errorf("Open of a state in use = %T, want InUse", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := open(t, dir).Close(); err != nil {
		t.Fatal(err)
	}
}

func wantSentence(t testing.TB, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("Open() = nil, want an error")
	}
	for _, part := range append(parts, "--state") {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q does not say %q", err, part)
		}
	}
}

func TestUnusableDirectory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := bolt.Open(file)
	wantSentence(t, err, file, "not a directory")
	_, err = bolt.Open(filepath.Join(file, "below"))
	wantSentence(t, err, file, "not a directory")

	if os.Getuid() == 0 {
		return // whom no permission stops
	}
	dir, path := filled(t, 1)
	for name, mode := range map[string]fs.FileMode{path: 0o400, dir: 0o000} {
		if err := os.Chmod(name, mode); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.Chmod(name, 0o700) })
		_, err = bolt.Open(dir)
		wantSentence(t, err, dir, "may not write")
	}
	empty := t.TempDir()
	if err := os.Chmod(empty, 0o500); err != nil {
		t.Fatal(err)
	}
	_, err = bolt.Open(empty)
	wantSentence(t, err, empty, "may not write")
}

func TestDamaged(t *testing.T) {
	dir, path := filled(t, 300)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"empty":          {},
		"text":           []byte("this is no state file\n"),
		"zeros":          make([]byte, len(good)),
		"garbage":        bytes.Repeat([]byte("garbage!"), 8192),
		"one page":       good[:4096],
		"its beginning":  good[:8192], // the meta pages; what comes later may be free, and no loss
		"no meta pages":  append(make([]byte, 8192), good[8192:]...),
		"zeros behind":   append(good[:8192:8192], make([]byte, len(good)-8192)...),
		"records' bytes": bytes.ReplaceAll(good, []byte("db.internal"), []byte("db.internak")),
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
			s, err := bolt.Open(dir)
			if err == nil {
				_, err = s.Load(t.Context())
				defer s.Close()
			}
			wantSentence(t, err, path, "is damaged", "move it away")
		})
	}
}

// TestFlippedBits opens files that differ from a good one in a few bits. Either
// that is noticed, or it was nothing that matters.
func TestFlippedBits(t *testing.T) {
	dir, path := filled(t, 200)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const rounds = 200
	noticed := 0
	random := rand.New(rand.NewPCG(rand.Uint64(), 0))
	for range rounds {
		data := bytes.Clone(good)
		for range 1 + random.IntN(3) {
			at := random.IntN(len(data))
			if random.IntN(2) == 0 { // where the structure is
				at = at&^4095 + random.IntN(256)
			}
			data[at] ^= 1 << random.IntN(8)
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if survives(t, dir, 200) {
			noticed++
		}
	}
	t.Logf("%d of %d damages noticed", noticed, rounds)
}

// survives uses a store that may be damaged in every way, and tells whether
// that was noticed; if not, all records have to be there.
func survives(t testing.TB, dir string, n int) (noticed bool) {
	t.Helper()
	s, err := bolt.Open(dir)
	if err != nil {
		return true
	}
	defer s.Close()
	records, err := s.Load(t.Context())
	if err != nil {
		return true
	}
	if len(records) != n {
		t.Errorf("%d records of a damaged file, want %d or an error", len(records), n)
	}
	if err := s.Put(t.Context(), storetest.Bound(1)); err != nil {
		return true
	}
	return false
}

func FuzzOpen(f *testing.F) {
	_, path := filled(f, 100)
	good, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uint32(0), []byte{})
	f.Add(uint32(4096), []byte{1, 0, 0, 0})
	f.Add(uint32(8192+16), bytes.Repeat([]byte{0xff}, 64))
	f.Fuzz(func(t *testing.T, at uint32, change []byte) {
		data := bytes.Clone(good)
		copy(data[at%uint32(len(data)):], change)
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "bindings.db"), data, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := bolt.Open(dir)
		if err != nil {
			return
		}
		_, _ = s.Load(t.Context())
		_ = s.Put(t.Context(), storetest.Bound(1))
		_ = s.Close()
	})
}

func TestChangedWhileOpen(t *testing.T) {
	dir, path := filled(t, 2000)
	s := open(t, dir)
	if err := s.Put(t.Context(), storetest.Bound(20000)); err != nil || s.Err() != nil {
		t.Fatalf("Put() = %v, and then Err() = %v", err, s.Err())
	}
	if err := os.Truncate(path, 4096); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Load(t.Context()); err == nil {
		t.Error("Load() of a truncated file = nil, want an error")
	}
	for range 2 {
		if err := s.Put(t.Context(), storetest.Bound(20000)); err == nil {
			t.Error("Put() to a truncated file = nil, want an error")
		}
		if err := s.Err(); err == nil {
			t.Error("Err() after that = nil, want what Put returned")
		}
	}
	if err := s.Close(); err != nil {
		t.Errorf("Close() = %v", err)
	}
	_, err := bolt.Open(dir)
	wantSentence(t, err, path, "is damaged", "cut")
}

func TestFormats(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(tx *bbolt.Tx) error
		want   string
	}{
		{"newer", func(tx *bbolt.Tx) error { return tx.Bucket([]byte("meta")).Put([]byte("format"), []byte("2")) }, `has format "2"`},
		{"none", func(tx *bbolt.Tx) error { return tx.Bucket([]byte("meta")).Delete([]byte("format")) }, `has format ""`},
		{"not ours", func(tx *bbolt.Tx) error { return tx.DeleteBucket([]byte("ports")) }, "not one of a router"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir, path := filled(t, 1)
			db, err := bbolt.Open(path, 0o600, nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(db.Update(test.change), db.Close()); err != nil {
				t.Fatal(err)
			}
			_, err = bolt.Open(dir)
			wantSentence(t, err, path, test.want)
		})
	}
}

// TestVerifyAcceptsWhatBoltWrites opens the file at many stages of a life.
func TestVerifyAcceptsWhatBoltWrites(t *testing.T) {
	dir := t.TempDir()
	random := rand.New(rand.NewPCG(3, 4))
	for range 20 {
		s := open(t, dir)
		for range 20 {
			r := storetest.Bound(uint16(1 + random.IntN(200)))
			r.Binding.Labels["x"] = strings.Repeat("x", random.IntN(20000)*random.IntN(2))
			var err error
			if random.IntN(3) == 0 {
				err = s.Delete(t.Context(), r.Port)
			} else {
				err = s.Put(t.Context(), r)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func BenchmarkPut(b *testing.B) {
	s := open(b, b.TempDir())
	defer s.Close()
	for i := 0; b.Loop(); i++ {
		if err := s.Put(b.Context(), storetest.Bound(uint16(20000+i%10000))); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPutParallel(b *testing.B) {
	s := open(b, b.TempDir())
	defer s.Close()
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			if err := s.Put(b.Context(), storetest.Bound(uint16(20000+i%10000))); err != nil {
				b.Error(err)
			}
		}
	})
}

func BenchmarkOpenAndLoad(b *testing.B) {
	for _, n := range []uint16{100, 10000} {
		dir, _ := filled(b, n)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				s := open(b, dir)
				if _, err := s.Load(b.Context()); err != nil {
					b.Fatal(err)
				}
				if err := s.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
