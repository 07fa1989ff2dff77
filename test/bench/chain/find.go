//go:build linux

package chain

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Known returns every chain that the benchmark can set up, the ratios' base
// and the product first. binaries are the oh-router programs, by name.
func Known(binaries []Binary) []Chain {
	chains := []Chain{{Name: Direct, Version: "–", Remark: "client to target, no forwarder", start: startDirect}}
	for _, b := range binaries {
		chains = append(chains, ohRouter(b, false))
	}
	chains = append(chains, haproxy(false), nginx(false), socat(), ssh(), frp(), gost(), chisel())
	for _, b := range binaries {
		chains = append(chains, ohRouter(b, true))
	}
	return append(chains, haproxy(true), nginx(true))
}

// Choose splits chains into those that the machine has, their versions filled
// in, and a line for each that it can't run; oh-router it must be able to run.
// names picks by name; without names all are chosen but those over TLS, which
// tls adds.
func Choose(chains []Chain, names []string, tls bool) (found []Chain, missing []string, err error) {
	for _, n := range names {
		if !slices.ContainsFunc(chains, func(c Chain) bool { return c.Name == n }) {
			return nil, nil, fmt.Errorf("no chain is called %q", n)
		}
	}
	for _, c := range chains {
		if len(names) > 0 && !slices.Contains(names, c.Name) || len(names) == 0 && c.TLS && !tls {
			continue
		}
		if err := c.look(); err != nil && c.Ours {
			return nil, nil, fmt.Errorf("%s: %w", c.Name, err)
		} else if err != nil {
			missing = append(missing, c.Name+": "+err.Error())
			continue
		}
		found = append(found, c)
	}
	return found, missing, nil
}

// look finds the chain's programs and their version.
func (c *Chain) look() error {
	for _, program := range c.needs {
		if _, err := lookPath(program); err != nil {
			return err
		}
	}
	if c.usable != nil {
		if err := c.usable(); err != nil {
			return err
		}
	}
	if len(c.version) == 0 {
		return nil
	}
	path, err := lookPath(c.version[0])
	if err != nil {
		return err
	}
	// Some print it to stderr, and exit with an error.
	out, err := exec.Command(path, c.version[1:]...).CombinedOutput()
	read := c.read
	if read == nil {
		read = versionIn
	}
	c.Version = read(string(out))
	if c.Version == "" {
		return fmt.Errorf("%s tells no version: %w", strings.Join(c.version, " "), errors.Join(err, errors.New(string(out))))
	}
	return nil
}

var versionNumber = regexp.MustCompile(`\d+\.\d+[\w.+~-]*`)

// versionIn returns the first version number in what a program has printed.
func versionIn(out string) string { return strings.TrimRight(versionNumber.FindString(out), ".") }

// lookPath finds a program, also where only an administrator's shell looks.
func lookPath(program string) (string, error) {
	path, err := exec.LookPath(program)
	for _, dir := range []string{"/usr/sbin", "/usr/local/sbin"} {
		if err != nil && filepath.Base(program) == program {
			path, err = exec.LookPath(filepath.Join(dir, program))
		}
	}
	if err != nil {
		return "", fmt.Errorf("%s is not installed", program)
	}
	return filepath.Abs(path)
}

// The range that chains listen in: below the ephemeral ports, of which an
// outgoing connection may take any, and beside oh-router's own default range.
const lowPort, highPort = 10000, 19999

// FreePorts returns addresses of loopback at which nothing listens now.
func FreePorts(n int) ([]netip.AddrPort, error) {
	var found []netip.AddrPort
	for port := randomPort(); len(found) < n; port++ {
		if port > highPort {
			return nil, errors.New("find free ports: the range is used up")
		}
		addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(port))
		ln, err := net.Listen("tcp4", addr.String())
		if err != nil {
			continue
		}
		ln.Close()
		found = append(found, addr)
	}
	return found, nil
}
