package identity

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// The files of a state directory, below folder. A key lies in one file with
// its certificate, so that both change at once.
const (
	folder        = "identity"
	authorityFile = "ca.key"     // the CA's key, and its certificate
	caFile        = "ca.pem"     // the CA's certificate alone, to be given to others
	routerFile    = "router.pem" // the router's key, its certificate, the CA's
	proxyFile     = "proxy.pem"  // the proxy's
	addressFile   = "router.url" // where the proxy has been enrolled
)

// Files are where an identity is kept, in PEM form. They may be one file, or
// several.
type Files struct {
	Cert string // the leaf first, then the CAs between it and the trusted ones
	Key  string
	CA   string // the trusted CAs
}

// In returns the files that [Init] or [Join] keep in a state directory.
func In(state string, role Role) Files {
	name := routerFile
	if role == Proxy {
		name = proxyFile
	}
	path := filepath.Join(state, folder, name)
	return Files{Cert: path, Key: path, CA: path}
}

// CAFile returns where [Init] keeps the CA's certificate, for those who are to
// trust it.
func CAFile(state string) string { return filepath.Join(state, folder, caFile) }

// exists tells whether there is a file of a state directory. One that this user
// may not look for counts as there: who opens it says why it cannot.
func exists(state, name string) bool {
	_, err := os.Stat(filepath.Join(state, folder, name))
	return err == nil || errors.Is(err, fs.ErrPermission)
}

// HasAuthority tells whether a state directory has a CA.
func HasAuthority(state string) bool { return exists(state, authorityFile) }

// HasRouter tells whether a state directory has the identity of a router.
func HasRouter(state string) bool { return exists(state, routerFile) }

// HasProxy tells whether a state directory has the identity of a proxy.
func HasProxy(state string) bool { return exists(state, proxyFile) }

// makeFolder makes the folder for keys, for its owner alone.
func makeFolder(state string) (string, error) {
	dir := filepath.Join(state, folder)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make the folder for keys: %w", err)
	}
	// It may have been made by somebody with other ideas.
	if err := os.Chmod(dir, 0o700); err != nil {
		return "", fmt.Errorf("close the folder for keys to others: %w", err)
	}
	return dir, nil
}

// writeFile writes a file for its owner alone: whole and durable, or not at
// all.
func writeFile(path string, text []byte) error {
	temp, err := writeTemp(path, text)
	if err != nil {
		return err
	}
	if err := os.Rename(temp, path); err != nil {
		_ = os.Remove(temp)
		return err
	}
	syncFolder(filepath.Dir(path))
	return nil
}

// createFile is writeFile for a file that must not be there: else the error is
// [fs.ErrExist].
func createFile(path string, text []byte) error {
	temp, err := writeTemp(path, text)
	if err != nil {
		return err
	}
	defer os.Remove(temp)
	if err := os.Link(temp, path); errors.Is(err, fs.ErrExist) {
		return err
	} else if err != nil { // not every file system has hard links
		if err := os.Rename(temp, path); err != nil {
			return err
		}
	}
	syncFolder(filepath.Dir(path))
	return nil
}

// writeTemp writes a file beside path and returns its name.
func writeTemp(path string, text []byte) (string, error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*") // mode 0600
	if err != nil {
		return "", err
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		_ = os.Remove(f.Name())
		return "", err
	}
	return f.Name(), nil
}

// syncFolder makes the entries of a folder durable, on systems that can.
func syncFolder(dir string) {
	if d, err := os.Open(dir); err == nil {
		_ = d.Sync()
		_ = d.Close()
	}
}

// readFile reads a file of bounded size.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxPEM+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxPEM {
		return nil, fmt.Errorf("read %s: it has more than %d KiB", path, maxPEM>>10)
	}
	return text, nil
}
