package socket_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ohrouter/oh-router/internal/socket"
	"github.com/ohrouter/oh-router/internal/sysctl"
)

// another returns a congestion control that is not the system's.
func another(t testing.TB) string {
	t.Helper()
	own := strings.Join(sysctl.Fields("net.ipv4.tcp_congestion_control"), "")
	for _, name := range list(t, "allowed") {
		if name != own {
			return name
		}
	}
	t.Skip("the system allows no congestion control but its own")
	return ""
}

// list returns the congestion controls that are available or allowed.
func list(t testing.TB, what string) []string {
	t.Helper()
	names := sysctl.Fields("net.ipv4.tcp_" + what + "_congestion_control")
	if len(names) == 0 {
		t.Skip("this system does not tell")
	}
	return names
}

// wantOptions checks what a connection of the data path has.
func wantOptions(t testing.TB, name string, fd, idle, gap, probes int, timeout time.Duration) {
	t.Helper()
	for _, o := range []struct {
		name           string
		level, opt, is int
	}{
		{"SO_LINGER", unix.SOL_SOCKET, unix.SO_LINGER, 1}, // reads l_onoff
		{"SO_KEEPALIVE", unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{"TCP_KEEPIDLE", unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, idle},
		{"TCP_KEEPINTVL", unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, gap},
		{"TCP_KEEPCNT", unix.IPPROTO_TCP, unix.TCP_KEEPCNT, probes},
		{"TCP_USER_TIMEOUT", unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(timeout.Milliseconds())},
		{"TCP_NODELAY", unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},               // else small writes wait 40 ms
		{"SO_PROTOCOL", unix.SOL_SOCKET, unix.SO_PROTOCOL, unix.IPPROTO_TCP}, // not MPTCP: splice
	} {
		if got, err := unix.GetsockoptInt(fd, o.level, o.opt); err != nil || got != o.is {
			t.Errorf("%s connection: %s = %d, %v, want %d", name, o.name, got, err, o.is)
		}
	}
}

func congestion(t testing.TB, fd int) string {
	t.Helper()
	is, err := unix.GetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION)
	if err != nil {
		t.Fatal(err)
	}
	return is
}

// descriptor returns a duplicate of the descriptor under c.
func descriptor(t testing.TB, c *net.TCPConn) int {
	t.Helper()
	fd, err := socket.Descriptor(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { socket.Close(fd) })
	return fd
}

// Both ends have the options, wherever they were set, and however they were
// accepted or connected.
func TestOptions(t *testing.T) {
	for _, tt := range []struct {
		after             time.Duration
		idle, gap, probes int
	}{
		{0, 10, 5, 3},
		{25 * time.Second, 10, 5, 3},
		{socket.MinDeadAfter, 2, 1, 3},
		{14 * time.Second, 4, 2, 5},
		{29 * time.Second, 9, 5, 4},
		{socket.MaxDeadAfter, 10, 5, 118},
	} {
		t.Run(tt.after.String(), func(t *testing.T) {
			o := socket.Options{DeadAfter: tt.after}
			want := func(name string, fd int) {
				t.Helper()
				after := tt.after
				if after == 0 {
					after = 25 * time.Second
				}
				wantOptions(t, name, fd, tt.idle, tt.gap, tt.probes, after)
			}
			accepted, dialled := pairOf(t, o)
			want("accepted", descriptor(t, accepted))
			want("dialled", descriptor(t, dialled))
			connected, raw := rawPair(t, o)
			if err := o.Settle(connected); err != nil {
				t.Fatal(err)
			}
			want("connected", connected)
			want("accepted and not of package net", raw)
			c, err := socket.Conn(raw)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			want("accepted and handed to package net", descriptor(t, c))
		})
	}
}

// How soon a dead peer is noticed does not say how long connecting may take:
// nothing bounds that but its context.
func TestDialTakesItsTime(t *testing.T) {
	ln := listen(t, socket.Options{Backlog: 1})
	connecting := func(fd int) bool {
		info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		return err == nil && info.State == 2 // TCP_SYN_SENT, linux/tcp_states.h
	}
	full := -1
	for full < 0 || !connecting(full) {
		fd, err := socket.Options{}.Connect(ln.Addr().(*net.TCPAddr).AddrPort(), socket.Either)
		if err != nil {
			t.Fatal(err)
		}
		defer socket.Close(fd)
		full = fd
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	dialled := make(chan error)
	go func() {
		_, err := socket.Options{DeadAfter: socket.MinDeadAfter}.Dial(ctx, ln.Addr().String())
		dialled <- err
	}()
	found := false
	for fd := 0; !found && ctx.Err() == nil; fd = (fd + 1) % 1024 {
		if fd == full || !connecting(fd) {
			continue
		}
		found = true
		if ms, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT); err != nil || ms != 0 {
			t.Errorf("TCP_USER_TIMEOUT while connecting = %d ms, %v; want none", ms, err)
		}
	}
	cancel()
	if err := <-dialled; !found || !errors.Is(err, context.Canceled) {
		t.Errorf("Dial = %v, found connecting: %v", err, found)
	}
}

// rawPair returns both ends of a connection that Go's poller does not know.
// Closing raw is left to the caller.
func rawPair(t testing.TB, o socket.Options) (connected, raw int) {
	t.Helper()
	ln := listen(t, o)
	connected, err := o.Connect(ln.Addr().(*net.TCPAddr).AddrPort(), socket.Either)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { socket.Close(connected) })
	fd, err := socket.Descriptor(ln)
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close(fd)
	for {
		raw, _, err = socket.AcceptAt(fd)
		if !errors.Is(err, unix.EAGAIN) {
			break
		}
		_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1) // EINTR: once more
	}
	if err != nil {
		t.Fatal(err)
	}
	return connected, raw
}

func TestCongestion(t *testing.T) {
	name := another(t)
	if err := socket.CheckCongestion(name); err != nil {
		t.Errorf("CheckCongestion(%q) = %v, want nil", name, err)
	}
	for _, o := range []socket.Options{{}, {Congestion: name}} {
		accepted, dialled := pairOf(t, o)
		connected, raw := rawPair(t, o)
		defer socket.Close(raw)
		for which, fd := range map[string]int{
			"accepted": descriptor(t, accepted), "dialled": descriptor(t, dialled),
			"connected": connected, "accepted and not of package net": raw,
		} {
			if got := congestion(t, fd); (got == name) != (o.Congestion == name) {
				t.Errorf("options %+v, %s connection: TCP_CONGESTION = %q", o, which, got)
			}
		}
	}
}

func TestCongestionRefused(t *testing.T) {
	for _, name := range []string{"nonsense", strings.Repeat("nonsense", 9), "reno\x00nonsense", "Reno", ""} {
		err := socket.CheckCongestion(name)
		if err == nil {
			t.Errorf("CheckCongestion(%q) = nil, want an error", name)
			continue
		}
		for _, known := range list(t, "available") {
			if !strings.Contains(err.Error(), known) {
				t.Errorf("CheckCongestion(%q) = %q, want %s among those that there are", name, err, known)
			}
		}
	}
	for _, known := range list(t, "available") {
		name := strings.ToUpper(known)
		if err := socket.CheckCongestion(name); err == nil || !strings.HasSuffix(err.Error(), "; write "+known) {
			t.Errorf("CheckCongestion(%q) = %v, want an error that ends with %s", name, err, known)
		}
	}
	err := socket.CheckCongestion("nonsense")
	if got, want := strings.Contains(err.Error(), "modprobe tcp_bbr"), !slices.Contains(list(t, "available"), "bbr"); got != want {
		t.Errorf("CheckCongestion of nonsense = %q, want how to load bbr in it: %v", err, want)
	}
	bad := socket.Options{Congestion: "nonsense"}
	if ln, err := bad.Listen(t.Context(), "127.0.0.1:0"); err == nil {
		ln.Close()
		t.Error("Listen with a congestion control that there is not = nil, want an error")
	}
	ln := listen(t, socket.Options{})
	if fd, err := bad.Connect(ln.Addr().(*net.TCPAddr).AddrPort(), socket.Either); err == nil {
		socket.Close(fd)
		t.Error("Connect with a congestion control that there is not = nil, want an error")
	}
}

func TestCongestionNotPermitted(t *testing.T) {
	allowed := list(t, "allowed")
	var forbidden string
	for _, name := range list(t, "available") {
		if !slices.Contains(allowed, name) {
			forbidden = name
		}
	}
	if forbidden == "" {
		t.Skip("the system allows every congestion control that it has")
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and the thread ends with the goroutine: its rights do not come back
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData // version 3 has two
		if err := unix.Capset(&header, &none[0]); err != nil {
			done <- fmt.Errorf("capset: %w", err)
			return
		}
		done <- socket.CheckCongestion(forbidden)
	}()
	err := <-done
	if want := "it may use " + strings.Join(allowed, ", "); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("CheckCongestion(%q) without rights = %v, want an error with %q", forbidden, err, want)
	}
}

func TestBacklog(t *testing.T) {
	numbers := sysctl.Numbers("net.core.somaxconn")
	if len(numbers) != 1 {
		t.Skip("this system does not tell")
	}
	most := uint32(numbers[0])
	for backlog, want := range map[int]uint32{0: most, 3: min(3, most), 1 << 30: most} {
		rc, err := listen(t, socket.Options{Backlog: backlog}).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		err = rc.Control(func(fd uintptr) {
			// Of a listener, tcpi_sacked is the backlog.
			if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err != nil || info.Sacked != want {
				t.Errorf("backlog %d: the kernel's is %d, %v, want %d", backlog, info.Sacked, err, want)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestBoundUnread(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fd, err := socket.Descriptor(c.(*net.TCPConn))
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close(fd)
	buffer := func() int {
		n, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := buffer()
	if err := socket.BoundUnread(fd, 1<<31-1); err != nil || buffer() != before {
		t.Errorf("more than the system allows: %v, and %d bytes in place of %d", err, buffer(), before)
	}
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		t.Fatal(err)
	}
	if most := sysctl.Numbers("net.core.rmem_max"); len(most) == 0 || info.Min_rtt > 250 {
		t.Skipf("%v bytes are allowed, and a round trip takes %d us", most, info.Min_rtt)
	}
	const n = 48 << 10
	if err := socket.BoundUnread(fd, n); err != nil || buffer() != 2*n { // socket(7): twice of it
		t.Errorf("48 KiB: %v, and %d bytes", err, buffer())
	}
	if clamp, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_WINDOW_CLAMP); err != nil || clamp != 2*n {
		t.Errorf("a window of %d at most, %v", clamp, err)
	}
}

// TestNobodyMeetsItself connects to a port where nobody listens until the kernel
// has given out that very port for it.
func TestNobodyMeetsItself(t *testing.T) {
	ports := sysctl.Numbers("net.ipv4.ip_local_port_range")
	if len(ports) != 2 {
		t.Skip("the system does not say which ports it gives out")
	}
	for _, ip := range []string{"127.0.0.1", "::1"} {
		t.Run(ip, func(t *testing.T) {
			to := netip.AddrPortFrom(netip.MustParseAddr(ip), uint16(free(t, ip, ports[0], ports[1])))
			for range 4 * (ports[1] - ports[0]) {
				fd, err := socket.Options{}.Connect(to, socket.Either)
				if err != nil {
					if !errors.Is(err, syscall.ECONNREFUSED) {
						t.Errorf("Connect() = %v, want that it is refused", err)
					}
					return
				}
				met := socket.LocalAt(fd)
				socket.Close(fd)
				if met == to {
					t.Fatalf("connected to %s from %s", to, met)
				}
			}
			t.Skip("the kernel never gave out the port")
		})
	}
}

// free returns a port between two where nobody listens. It is an even one when
// the first is, as are those that the kernel takes first to connect.
func free(t testing.TB, ip string, first, last int) int {
	t.Helper()
	for port := first; port <= last; port += 2 {
		ln, err := net.Listen("tcp", net.JoinHostPort(ip, strconv.Itoa(port)))
		if errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT) {
			t.Skipf("this machine has no %s", ip)
		}
		if err == nil {
			ln.Close()
			return port
		}
	}
	t.Skip("no port is free")
	return 0
}
