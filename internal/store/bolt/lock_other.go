//go:build !(linux || darwin || freebsd || netbsd || openbsd || dragonfly)

package bolt

import (
	"os"
	"time"
)

// lock leaves it to bbolt to find out that another router has the file.
func lock(*os.File, time.Duration) error { return nil }

// release closes a file whose mapping may be left.
func release(f *os.File) error { return f.Close() }
