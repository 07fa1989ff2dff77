package socket

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ohrouter/oh-router/internal/sysctl"
)

// Talk says who begins to talk on a connection.
type Talk int

// Either side may begin; this one does, at once.
const (
	Either Talk = iota
	Here
)

// Connect begins to connect a socket of the data path that Go's poller does
// not know, and returns its non-blocking descriptor. An error that comes later
// is the socket's (SO_ERROR). Of what [Options.Dial] promises, dead peers are
// left to [Options.Settle]: most connections end before they could be missed.
// Who talks Here spares the kernel a packet: what is said first acknowledges the
// connection.
func (o Options) Connect(to netip.AddrPort, talk Talk) (fd int, err error) {
	fd, err = create(to.Addr().Unmap().Is4())
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	err = errors.Join(reset(fd), noDelay(fd), o.setCongestion(fd))
	if err == nil && talk == Here {
		err = AckLate(fd)
	}
	if err == nil {
		err = connect(fd, to)
		if err == nil || errors.Is(err, unix.EINPROGRESS) {
			if !meetsItself(fd, to) {
				return fd, nil
			}
			err = unix.ECONNREFUSED
		}
		err = os.NewSyscallError("connect", err)
	}
	if err != nil {
		Close(fd)
		return -1, err
	}
	return fd, nil
}

// meetsItself tells whether a socket was given the very address that it was told
// to connect to. Where the kernel gives out such ports and nobody listens, one in
// some ten thousand is, and is then connected with itself: it hears what it says,
// and keeps the port from whoever is to listen there.
func meetsItself(fd int, to netip.AddrPort) bool {
	if r := given(); len(r) == 2 && (int(to.Port()) < r[0] || int(to.Port()) > r[1]) {
		return false
	}
	is := LocalAt(fd)
	return is.Port() == to.Port() && is.Addr().WithZone("") == to.Addr().Unmap().WithZone("")
}

// given is the first and the last port that the kernel gives out (ip(7)).
var given = sync.OnceValue(func() []int { return sysctl.Numbers("net.ipv4.ip_local_port_range") })

// AckLate has what is heard acknowledged by what is said next, which spares the
// kernel a packet, or after 40 ms. The peer is not to wait for it before it says
// all: Nagle's algorithm would. Connections that a listener accepts inherit it.
func AckLate(fd int) error { return setOption(fd, unix.IPPROTO_TCP, unix.TCP_QUICKACK, 0) }

// reset makes the kernel reset the connection when the process dies.
func reset(fd int) error {
	return setOptionBytes(fd, unix.SOL_SOCKET, unix.SO_LINGER, unsafe.Pointer(&unix.Linger{Onoff: 1}), unix.SizeofLinger)
}

// noDelay makes small writes go out at once, as package net does.
func noDelay(fd int) error { return setOption(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1) }

// Deliver takes back that the connection is reset when it is closed: the kernel
// delivers what it holds, then a FIN.
func Deliver(fd int) {
	_ = setOptionBytes(fd, unix.SOL_SOCKET, unix.SO_LINGER, unsafe.Pointer(&unix.Linger{}), unix.SizeofLinger) // fails on no socket
}

// InlineUrgent makes urgent bytes travel in line, as plain ones.
func InlineUrgent(fd int) error { return setOption(fd, unix.SOL_SOCKET, unix.SO_OOBINLINE, 1) }

// BoundUnsent has writes block, and writing be possible again, by what was not
// sent yet, in bytes; unacknowledged bytes do not count.
func BoundUnsent(fd, n int) error {
	return setOption(fd, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, int32(n))
}

// BoundUnread has a connection take some n to 2n bytes that are not read yet, in
// place of as many as the system thinks fit, if its peer is near. It does nothing
// where the system does not allow that (net.core.rmem_max), or does not think fit
// as many (tcp_rmem).
func BoundUnread(fd, n int) error {
	if rmemMax() < n || tcpRmem() <= 2*n { // the kernel doubles it, socket(7)
		return nil
	}
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil || info.Min_rtt > uint32(near.Microseconds()) {
		return err
	}
	if err := setOption(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, int32(n)); err != nil {
		return err
	}
	// It does not grow any more by itself, and was that of a small buffer.
	return setOption(fd, unix.IPPROTO_TCP, unix.TCP_WINDOW_CLAMP, int32(2*n))
}

// near is a round trip in which two megabytes are more than a network carries: 67
// Gbit/s.
const near = 250 * time.Microsecond

// The largest receive buffers: the one that a program may ask for (socket(7)), and
// the one that the kernel gives by itself (tcp(7)). 0 where they are not known, as in
// a container of an old kernel.
var (
	rmemMax = sync.OnceValue(func() int { return last("net.core.rmem_max") })
	tcpRmem = sync.OnceValue(func() int { return last("net.ipv4.tcp_rmem") })
)

// last returns the last number of a setting, which is the most where it has several.
func last(name string) int {
	numbers := sysctl.Numbers(name)
	if len(numbers) == 0 {
		return 0
	}
	return numbers[len(numbers)-1]
}

// setCongestion chooses the congestion control, if the system's will not do.
func (o Options) setCongestion(fd int) error {
	if o.Congestion == "" {
		return nil
	}
	return setOptionBytes(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, unsafe.Pointer(unsafe.StringData(o.Congestion)), uintptr(len(o.Congestion)))
}

// AckedAt is [Acked] of a descriptor.
func AckedAt(fd int) uint64 {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return 0
	}
	return info.Bytes_acked
}

// Settle lets a dead peer be noticed as [Options.DeadAfter] says.
func (o Options) Settle(fd int) error {
	k := o.keepAlive()
	return errors.Join(
		setOption(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1),
		setOption(fd, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, int32(k.Idle.Seconds())),
		setOption(fd, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, int32(k.Interval.Seconds())),
		setOption(fd, unix.IPPROTO_TCP, unix.TCP_KEEPCNT, int32(k.Count)),
		setOption(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int32(o.deadAfter().Milliseconds())),
	)
}

// Descriptor returns a duplicate of the descriptor under c, a connection or a
// listener, that Go's poller does not know. Closing c leaves it open.
func Descriptor(c syscall.Conn) (fd int, err error) {
	rc, err := c.SyscallConn()
	if err != nil {
		return -1, err
	}
	cerr := rc.Control(func(n uintptr) { fd, err = unix.FcntlInt(n, unix.F_DUPFD_CLOEXEC, 0) })
	if err = errors.Join(cerr, err); err != nil {
		return -1, err
	}
	return fd, nil
}

// Conn makes a connection of package net of a descriptor, which it takes. Its
// options stay.
func Conn(fd int) (*net.TCPConn, error) {
	idle, ierr := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE)
	gap, gerr := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL)
	probes, perr := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPCNT)
	f := os.NewFile(uintptr(fd), "")
	c, err := net.FileConn(f)
	_ = f.Close() // FileConn has duplicated it
	if err := errors.Join(ierr, gerr, perr, err); err != nil {
		return nil, err
	}
	tc := c.(*net.TCPConn)
	// FileConn has put Go's own in the place of what was there.
	err = tc.SetKeepAliveConfig(net.KeepAliveConfig{
		Enable: true, Idle: time.Duration(idle) * time.Second, Interval: time.Duration(gap) * time.Second, Count: probes,
	})
	if err != nil {
		_ = tc.Close() // it is gone already
		return nil, err
	}
	return tc, nil
}
