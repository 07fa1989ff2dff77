package socket

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ohrouter/oh-router/internal/sysctl"
)

// CheckCongestion tells why this process may not use a congestion control, nil
// when it may. It may load the kernel's module for it, if it has the right.
func CheckCongestion(name string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return fmt.Errorf("try the congestion control %.60q: %w", name, os.NewSyscallError("socket", err))
	}
	defer Close(fd)
	err = Options{Congestion: name}.setCongestion(fd)
	is, gerr := unix.GetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION)
	switch {
	case err == nil && gerr == nil && is == name: // a long name is cut without an error
		return nil
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%.60q is a congestion control that this process may not use: it may use %s; the sysctl net.ipv4.tcp_allowed_congestion_control permits more",
			name, congestions("allowed"))
	case err == nil, errors.Is(err, unix.ENOENT):
		known, advice := congestions("available"), "one that is a module has to be loaded first"
		switch there := strings.Split(known, ", "); {
		case slices.Contains(there, strings.ToLower(name)):
			advice = "write " + strings.ToLower(name)
		case !slices.Contains(there, "bbr"):
			advice += ", as with modprobe tcp_bbr"
		}
		return fmt.Errorf("%.60q is not a congestion control of this kernel: it has %s; %s", name, known, advice)
	}
	return fmt.Errorf("try the congestion control %.60q: %w", name, err)
}

// congestions lists the congestion controls that are available or allowed.
func congestions(what string) string {
	names := sysctl.Fields("net.ipv4.tcp_" + what + "_congestion_control")
	if len(names) == 0 {
		return "the system's"
	}
	return strings.Join(names, ", ")
}
