//go:build linux

package chain

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
)

// ssh carries all sessions in one connection to an sshd with keys of its own.
func ssh() Chain {
	return Chain{
		Name: "ssh-L", needs: []string{"ssh", "sshd", "ssh-keygen"}, version: []string{"ssh", "-V"},
		Remark: "one SSH connection for all sessions; always encrypted",
		start:  startSSH,
	}
}

func startSSH(s *site) error {
	addrs, err := s.ports(1)
	if err != nil {
		return err
	}
	at, err := s.link(addrs[0])
	if err != nil {
		return err
	}
	host, client := filepath.Join(s.dir, "host"), filepath.Join(s.dir, "client")
	for _, key := range []string{host, client} {
		out, err := exec.CommandContext(s.ctx, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).CombinedOutput()
		if err != nil {
			return fmt.Errorf("ssh-keygen: %w: %s", err, out)
		}
	}
	if err := s.sshd(addrs[0], host, client); err != nil {
		return err
	}
	args, err := s.sshArgs(at, host, client)
	if err != nil {
		return err
	}
	return s.run("first", "ssh", args...)
}

func (s *site) sshd(links netip.AddrPort, host, client string) error {
	if os.Getuid() == 0 {
		// Where a service manager would have made it for the privileged server.
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			return err
		}
	}
	err := s.run("second", "sshd", "-D", "-e", "-f", "/dev/null", "-p", strconv.Itoa(int(links.Port())), "-h", host,
		"-o", "ListenAddress=127.0.0.1", "-o", "PidFile=none", "-o", "UsePAM=no", "-o", "StrictModes=no",
		"-o", "PermitRootLogin=prohibit-password", "-o", "PasswordAuthentication=no",
		"-o", "KbdInteractiveAuthentication=no", "-o", "AuthorizedKeysFile="+client+".pub")
	if err != nil {
		return err
	}
	return s.await(links)
}

func (s *site) sshArgs(at netip.AddrPort, host, client string) ([]string, error) {
	me, err := user.Current()
	if err != nil {
		return nil, err
	}
	public, err := os.ReadFile(host + ".pub")
	if err != nil {
		return nil, err
	}
	known, err := s.file("known", "bench "+string(public))
	if err != nil {
		return nil, err
	}
	args := []string{
		"-F", "none", "-N", "-T", "-p", strconv.Itoa(int(at.Port())), "-i", client,
		"-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "User=" + me.Username,
		"-o", "UserKnownHostsFile=" + known, "-o", "HostKeyAlias=bench", "-o", "StrictHostKeyChecking=yes",
		"-o", "ExitOnForwardFailure=yes", "-o", "Compression=no",
	}
	for i, t := range s.Targets {
		args = append(args, "-L", fmt.Sprintf("%v:%v", s.entries[i], t))
	}
	return append(args, at.Addr().String()), nil
}
