package bolt

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

// name is the file in the state directory.
const name = "bindings.db"

// patience is how long Open waits for another router to let go of the file.
const patience = time.Second

var errInUse = errors.New("in use")

// InUse is the error of a state that another process has open.
type InUse struct{ Path string }

// Error returns the sentence for whoever started a second router.
func (e *InUse) Error() string {
	return fmt.Sprintf("another router uses %s: stop it, or give this one a directory of its own with --state", e.Path)
}

// Exists tells whether a directory has a state, be it one that this user may not
// look at.
func Exists(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, name))
	return !errors.Is(err, fs.ErrNotExist)
}

// Open opens the store in a directory, which it creates when it is not there,
// for its owner alone. Its errors are sentences for whoever started the router:
// they name the file, what is wrong with it and what to do.
func Open(dir string) (*Store, error) {
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, unusable(dir, err)
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		if err := create(path); err != nil {
			return nil, unusable(dir, err)
		}
	}

	var file *os.File
	options := *bbolt.DefaultOptions
	options.Timeout = patience
	options.NoStatistics = true
	options.OpenFile = func(path string, flag int, mode os.FileMode) (f *os.File, err error) {
		file, err = openVerified(path, flag&^os.O_CREATE, mode)
		return file, err
	}
	var db *bbolt.DB
	fault, err := guard(func() (err error) {
		db, err = bbolt.Open(path, 0o600, &options)
		return err
	})
	if fault && file != nil {
		_ = release(file) // db may be unable to close
	}
	if fault {
		err = &damage{err}
	}
	if err != nil {
		return nil, explain(dir, path, err)
	}
	if _, err := guard(func() error { return readable(db, path) }); err != nil {
		_ = db.Close()
		return nil, err
	}
	return newStore(db, file, path), nil
}

// create makes a new file, whole or not at all: an empty or half-made one is
// damage, not a beginning.
func create(path string) error {
	temp, err := os.CreateTemp(filepath.Dir(path), "."+name+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name())
	if err := temp.Close(); err != nil {
		return err
	}
	db, err := bbolt.Open(temp.Name(), 0o600, &bbolt.Options{Timeout: patience})
	if err != nil {
		return err
	}
	if err := errors.Join(prepare(db), db.Close()); err != nil {
		return err
	}
	// Not Rename, where that can be helped: another router may have been faster,
	// and has locked its file already.
	if err := os.Link(temp.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		if err := os.Rename(temp.Name(), path); err != nil {
			return err
		}
	}
	syncDir(filepath.Dir(path))
	return nil
}

// syncDir makes the entries of a directory durable, on systems that can.
func syncDir(dir string) {
	if d, err := os.Open(dir); err == nil {
		_ = d.Sync()
		_ = d.Close()
	}
}

// openVerified opens and locks the file, and reads it once as a whole before
// bbolt maps it.
func openVerified(path string, flag int, mode os.FileMode) (*os.File, error) {
	f, err := os.OpenFile(path, flag, mode)
	if err != nil {
		return nil, err
	}
	if err = lock(f, patience); err == nil {
		err = verify(f)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// damage is an error about what the file holds.
type damage struct{ err error }

func (d *damage) Error() string { return d.err.Error() }
func (d *damage) Unwrap() error { return d.err }

// explain returns the sentence for an error of opening path.
func explain(dir, path string, err error) error {
	var bad *damage
	switch {
	case errors.Is(err, errInUse), errors.Is(err, berrors.ErrTimeout):
		return &InUse{path}
	case errors.As(err, &bad):
		return damaged(path, bad.err)
	case errors.Is(err, fs.ErrPermission), errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.EROFS):
		return unusable(dir, err)
	}
	return fmt.Errorf("open %s: %w", path, err)
}

func damaged(path string, why error) error {
	return fmt.Errorf("%s is damaged (%w): restore it, move it away to start without bindings, or pick another directory with --state", path, why)
}

// unusable returns the sentence for a directory that cannot keep state.
func unusable(dir string, err error) error {
	why := "it cannot be written"
	switch {
	case errors.Is(err, syscall.ENOTDIR):
		why = "it, or what it lies in, is not a directory"
	case errors.Is(err, fs.ErrPermission):
		why = "this user may not write there"
	case errors.Is(err, syscall.EROFS):
		why = "the file system is read-only"
	}
	return fmt.Errorf("the state directory %s cannot be used: %s (%w); pick another one with --state", dir, why, err)
}
