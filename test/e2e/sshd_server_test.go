package e2e

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// sshd is a running OpenSSH server that lets in the account that runs the tests,
// by a key of the tests.
type sshd struct {
	addr    string // where clients that need no router connect
	ssh     string // path of the client program
	scp     string // path of scp
	options []string
}

// startSSHD runs a server with keys of its own.
func startSSHD(t testing.TB) *sshd {
	t.Helper()
	// sshd has to be called by its whole path: it starts itself for each client.
	daemon, keygen := need(t, "sshd"), need(t, "ssh-keygen")
	s := &sshd{ssh: need(t, "ssh"), scp: need(t, "scp")}
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	dir := dataDir(t, "")
	host, client := filepath.Join(dir, "host"), filepath.Join(dir, "client")
	for _, key := range []string{host, client} {
		succeed(t, exec.CommandContext(t.Context(), keygen, "-q", "-t", "ed25519", "-N", "", "-f", key))
	}
	if os.Getuid() == 0 {
		// Where a service manager would have made it for the privileged server.
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			t.Fatal(err)
		}
	}
	known := filepath.Join(dir, "known")
	s.options = []string{
		"-F", "none", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-i", client, "-o", "User=" + me.Username,
		"-o", "UserKnownHostsFile=" + known, "-o", "HostKeyAlias=e2e", "-o", "StrictHostKeyChecking=yes",
	}
	public, err := os.ReadFile(host + ".pub")
	if err == nil {
		err = os.WriteFile(known, append([]byte("e2e "), public...), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}

	_, port := serve(t, program{
		name: "sshd",
		command: func(port int) *exec.Cmd {
			cmd := exec.Command(daemon, "-D", "-e", "-f", "/dev/null", "-p", strconv.Itoa(port), "-h", host,
				"-o", "ListenAddress=127.0.0.1", "-o", "PidFile=none", "-o", "UsePAM=no", "-o", "StrictModes=no",
				"-o", "PermitRootLogin=prohibit-password", "-o", "PasswordAuthentication=no",
				"-o", "KbdInteractiveAuthentication=no", "-o", "AuthorizedKeysFile="+client+".pub",
				"-o", "Subsystem=sftp internal-sftp")
			runAs(t, cmd, "")
			return cmd
		},
		ready: func(ctx context.Context, port int) error {
			out, err := output(s.command(ctx, loopback(port), "echo ready"))
			if err == nil && !strings.HasSuffix(out, "ready\n") {
				err = errors.New("echo ready = " + out)
			}
			return err
		},
		stop: syscall.SIGTERM,
	})
	s.addr = loopback(port)
	return s
}

// command returns a client that runs a command line of the shell through addr.
func (s *sshd) command(ctx context.Context, addr, line string) *exec.Cmd {
	host, port, _ := net.SplitHostPort(addr)
	return exec.CommandContext(ctx, s.ssh, append(append([]string{"-p", port}, s.options...), host, line)...)
}

// copy returns an scp through addr. A path on the server begins with a colon.
func (s *sshd) copy(ctx context.Context, addr, from, to string) *exec.Cmd {
	host, port, _ := net.SplitHostPort(addr)
	remote := func(path string) string {
		if strings.HasPrefix(path, ":") {
			return host + path
		}
		return path
	}
	return exec.CommandContext(ctx, s.scp, append(append([]string{"-q", "-P", port}, s.options...), remote(from), remote(to))...)
}
