package socket

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The calls below are those of a session on an event loop. They are for
// non-blocking descriptors and so, but for [Happened], return at once. Therefore
// they do not tell Go's scheduler that the thread may be away for a while: for a
// call of a microsecond that costs more than the call, and a processor that is taken
// away meanwhile has to be won back.
//
// Each pointer to memory of ours is converted in the call itself, as package
// unsafe demands (its rule 4): the memory stays where it is until the call
// returns.

// Read is recv(2), which is shorter on its way to a socket than read(2). It is
// not interrupted, and so is none of the others that do not wait: no signal arrives
// there.
func Read(fd int, b []byte) (n int, err error) { return receive(fd, b, 0) }

// Write is send(2), for the same reason.
func Write(fd int, b []byte) (n int, err error) { return send(fd, b, 0) }

// WriteMore is Write of what more is to follow, with which the kernel fills its
// segments (MSG_MORE); Push ends that.
func WriteMore(fd int, b []byte) (n int, err error) { return send(fd, b, unix.MSG_MORE) }

// Push has the kernel send what it keeps after WriteMore.
func Push(fd int) error { return noDelay(fd) }

func send(fd int, b []byte, flags uintptr) (n int, err error) {
	return count(syscall.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), unix.MSG_NOSIGNAL|flags, 0, 0))
}

// PeekAt is recv(2) with MSG_PEEK: it leaves what it reads.
func PeekAt(fd int, b []byte) (n int, err error) { return receive(fd, b, unix.MSG_PEEK) }

func receive(fd int, b []byte, flags uintptr) (n int, err error) {
	return count(syscall.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), flags, 0, 0))
}

// AcceptAt is accept4(2). The connection is non-blocking; its peer's address is
// returned, an IPv4-mapped one as IPv4.
func AcceptAt(fd int) (conn int, from netip.AddrPort, err error) {
	var sa unix.RawSockaddrInet6 // the larger one
	size := uint32(unix.SizeofSockaddrInet6)
	conn, err = count(syscall.RawSyscall6(unix.SYS_ACCEPT4, uintptr(fd), uintptr(unsafe.Pointer(&sa)), uintptr(unsafe.Pointer(&size)),
		unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0))
	if err != nil {
		return -1, netip.AddrPort{}, err
	}
	return conn, address(&sa), nil
}

// LocalAt is getsockname(2): the address of this end of a connection, an
// IPv4-mapped one as IPv4; the zero AddrPort when the call fails.
func LocalAt(fd int) netip.AddrPort {
	var sa unix.RawSockaddrInet6 // the larger one
	size := uint32(unix.SizeofSockaddrInet6)
	_, err := count(syscall.RawSyscall(unix.SYS_GETSOCKNAME, uintptr(fd), uintptr(unsafe.Pointer(&sa)), uintptr(unsafe.Pointer(&size))))
	if err != nil {
		return netip.AddrPort{}
	}
	return address(&sa)
}

// address returns what stands in the kernel's form. Both forms begin with the
// family and the port, the latter in network order.
func address(sa *unix.RawSockaddrInet6) netip.AddrPort {
	n := binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&sa.Port))[:])
	if sa.Family == unix.AF_INET {
		v4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(sa))
		return netip.AddrPortFrom(netip.AddrFrom4(v4.Addr), n)
	}
	a := netip.AddrFrom16(sa.Addr).Unmap()
	if sa.Scope_id != 0 && a.Is6() {
		if i, err := net.InterfaceByIndex(int(sa.Scope_id)); err == nil {
			a = a.WithZone(i.Name)
		}
	}
	return netip.AddrPortFrom(a, n)
}

// create is socket(2) for a non-blocking TCP socket.
func create(v4 bool) (fd int, err error) {
	family := uintptr(unix.AF_INET6)
	if v4 {
		family = unix.AF_INET
	}
	return count(syscall.RawSyscall(unix.SYS_SOCKET, family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP))
}

// connect is connect(2) of a socket that create has made for the kind of
// address that to has. It is EINPROGRESS where the peer has to be waited for.
func connect(fd int, to netip.AddrPort) error {
	var sa unix.RawSockaddrInet6 // the larger one; both begin with the family and the port
	sa.Family = unix.AF_INET6
	sa.Addr = to.Addr().As16()
	size := uintptr(unix.SizeofSockaddrInet6)
	if a := to.Addr().Unmap(); a.Is4() {
		v4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(&sa))
		*v4 = unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: a.As4()}
		size = unix.SizeofSockaddrInet4
	}
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&sa.Port))[:], to.Port())
	_, err := count(syscall.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&sa)), size))
	return err
}

// Splice moves up to n bytes from one descriptor to the other, one of which is
// a pipe, as splice(2) does.
func Splice(from, to, n int) (int, error) {
	const flags = unix.SPLICE_F_MOVE | unix.SPLICE_F_NONBLOCK
	return count(syscall.RawSyscall6(unix.SYS_SPLICE, uintptr(from), 0, uintptr(to), 0, uintptr(n), flags))
}

// CloseWrite sends a FIN, as shutdown(2) does.
func CloseWrite(fd int) error {
	_, err := count(syscall.RawSyscall(unix.SYS_SHUTDOWN, uintptr(fd), unix.SHUT_WR, 0))
	return err
}

// Close is close(2). Whatever it returns, the descriptor is closed.
func Close(fd int) { _, _, _ = syscall.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0) }

// Watch is epoll_ctl(2).
func Watch(epoll, op, fd int, events uint32, pad int32) error {
	event := unix.EpollEvent{Events: events, Fd: int32(fd), Pad: pad}
	_, err := count(syscall.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(epoll), uintptr(op), uintptr(fd), uintptr(unsafe.Pointer(&event)), 0, 0))
	return os.NewSyscallError("epoll_ctl", err)
}

// Happened is epoll_pwait(2) for a time, in ms, in which the scheduler can do
// without the thread. It is to be a short one. The garbage collector asks
// for the thread by a signal, with which this ends early (EINTR).
func Happened(epoll int, events []unix.EpollEvent, ms int) (n int, err error) {
	return count(syscall.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(epoll), uintptr(unsafe.Pointer(unsafe.SliceData(events))), uintptr(len(events)), uintptr(ms), 0, 0))
}

// Yield is sched_yield(2): who waits for the thread's processor goes first.
func Yield() { _, _, _ = syscall.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0) }

// count makes a result of package unix of what a call returned. EAGAIN, the
// usual error, takes no memory.
func count(r, _ uintptr, errno syscall.Errno) (int, error) {
	switch errno {
	case 0:
		return int(r), nil
	case syscall.EAGAIN:
		return -1, errAgain
	}
	return -1, errno
}

var errAgain error = syscall.EAGAIN

func setOption(fd, level, name int, value int32) error {
	return setOptionBytes(fd, level, name, unsafe.Pointer(&value), unsafe.Sizeof(value))
}

func setOptionBytes(fd, level, name int, value unsafe.Pointer, size uintptr) error {
	_, err := count(syscall.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name), uintptr(value), size, 0))
	return os.NewSyscallError("setsockopt", err)
}
