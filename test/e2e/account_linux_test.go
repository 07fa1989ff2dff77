package e2e

import (
	"errors"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"syscall"
	"testing"
)

// runAs makes cmd run as the named account when the tests run as root: several
// servers refuse to be root, and none needs it. An empty name leaves the
// account as it is.
func runAs(t testing.TB, cmd *exec.Cmd, account string) {
	t.Helper()
	// A test that is cut off (a timeout, ^C) must not leave its servers running.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if uid, gid, ok := ids(t, account); ok {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uid, Gid: gid}
	}
}

// giveTo makes the account that runAs would use the owner of path.
func giveTo(t testing.TB, path, account string) {
	t.Helper()
	uid, gid, ok := ids(t, account)
	if !ok {
		return
	}
	if err := os.Chown(path, int(uid), int(gid)); err != nil {
		t.Fatal(err)
	}
}

// ids returns the numbers of an account, or of nobody where the machine lacks
// it; ok is false when no change of account is wanted or possible.
func ids(t testing.TB, account string) (uid, gid uint32, ok bool) {
	t.Helper()
	if account == "" || os.Getuid() != 0 {
		return 0, 0, false
	}
	u, err := user.Lookup(account)
	if err != nil {
		if u, err = user.Lookup("nobody"); err != nil {
			t.Fatalf("neither account %s nor nobody: %v", account, err)
		}
	}
	n, errUID := strconv.ParseUint(u.Uid, 10, 32)
	g, errGID := strconv.ParseUint(u.Gid, 10, 32)
	if err := errors.Join(errUID, errGID); err != nil {
		t.Fatalf("account %s: %v", account, err)
	}
	return uint32(n), uint32(g), true
}
