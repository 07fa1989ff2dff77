//go:build linux

package load

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// sources is how many addresses of 127.0.0.0/8 the generator connects from. A
// client that closes first keeps its address and port for a minute (TIME_WAIT);
// one address has 28,000 ports, which a fast chain would use up in seconds.
const sources = 16

// dialer connects from the generator's addresses in turn.
type dialer struct{ n atomic.Uint32 }

func (d *dialer) dial(ctx context.Context, addr netip.AddrPort) (*net.TCPConn, error) {
	nd := net.Dialer{
		Timeout: patience,
		// Nothing here is idle long enough for probes: three system calls less.
		KeepAlive: -1,
		LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(1+d.n.Add(1)%sources))},
		Control:   lateBind,
	}
	c, err := nd.DialContext(ctx, "tcp4", addr.String())
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

// lateBind leaves the choice of the port to connect, which knows the other
// end: only then may a port serve several destinations.
func lateBind(_, _ string, c syscall.RawConn) error {
	var err error
	cerr := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
	})
	return errors.Join(cerr, err)
}

// open makes the job's connections, some at a time, and prepares each.
func (w *work) open(ctx context.Context, prepare func(net.Conn) error) (_ []*net.TCPConn, err error) {
	const atOnce = 32
	conns := make([]*net.TCPConn, w.job.Conns)
	errs := make([]error, w.job.Conns)
	defer func() {
		if err != nil {
			closeAll(conns)
		}
	}()
	var d dialer
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(atOnce, w.job.Conns) {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(conns)); i = next.Add(1) - 1 {
				if conns[i], errs[i] = d.dial(ctx, w.job.Addr); errs[i] == nil {
					_ = conns[i].SetDeadline(time.Now().Add(patience)) // a closed one fails next
					errs[i] = prepare(conns[i])
				}
				if errs[i] != nil {
					next.Store(int64(len(conns))) // no use to go on
				}
			}
		})
	}
	wg.Wait()
	for i, e := range errs {
		if e != nil {
			return nil, fmt.Errorf("open connection %d of %d: %w", i+1, len(conns), e)
		}
	}
	return conns, nil // all are open: one that was not tried has an error beside it
}

func closeAll(conns []*net.TCPConn) {
	for _, c := range conns {
		if c != nil {
			c.Close()
		}
	}
}

// exchange sends a message and reads the same back.
func exchange(c net.Conn, buf []byte) error {
	buf[0] = modeEcho
	if _, err := c.Write(buf[:message]); err != nil {
		return err
	}
	_, err := io.ReadFull(c, buf[:message])
	return err
}

// echoOnce is the exchange that shows that a new connection reaches the target.
func echoOnce(c net.Conn) error { return exchange(c, make([]byte, message)) }

// Probe makes one session through addr and tells whether a message comes back.
func Probe(ctx context.Context, addr netip.AddrPort) error {
	c, err := new(dialer).dial(ctx, addr)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(2 * time.Second)) // it is not closed
	return echoOnce(c)
}
