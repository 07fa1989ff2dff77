package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"
)

// errFileThere is in the chain of an error about a file that is not overwritten.
var errFileThere = errors.New("is there already, and a token goes to a new file only: move it away, or name another one with --out")

// secretRoom is more than a secret takes.
const secretRoom = 512

// toNewFile writes a secret to a new file that only its owner can read. The file
// comes first, and the room in it: a secret that nobody has would be in the way.
func toNewFile(path string, ask func() (secret string, err error)) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s %w", path, errFileThere)
	}
	if err != nil {
		return fmt.Errorf("make the file for the token: %w", err)
	}
	if _, err = file.Write(make([]byte, secretRoom)); err == nil {
		err = file.Sync()
	}
	var secret string
	if err == nil {
		secret, err = ask()
	}
	if err == nil {
		text := printable(secret) + "\n"
		_, err = file.WriteAt([]byte(text), 0)
		err = errors.Join(err, file.Truncate(int64(len(text))), file.Sync())
	}
	if err = errors.Join(err, file.Close()); err != nil {
		_ = os.Remove(path) // it has nothing that anybody could use
	}
	return err
}

// warnOfReaders says on stderr when the stdout that a secret goes to is a file
// that others can read: a shell makes such files, and asks nobody.
func warnOfReaders(cmd *cobra.Command) {
	f, ok := cmd.OutOrStdout().(*os.File)
	if !ok {
		return
	}
	info, err := f.Stat()
	if err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "warning: other users of this machine may read the file that the token goes to (mode %o): chmod 600 it, and use --out FILE next time\n", info.Mode().Perm())
	}
}
