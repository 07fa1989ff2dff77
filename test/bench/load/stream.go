//go:build linux

package load

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// chunk is how much the ends of a stream write and read at once.
const chunk = 128 << 10

// stream moves bytes as fast as the chain takes them.
func (w *work) stream(ctx context.Context) (Result, error) {
	mode, run := byte(modeSource), w.pull
	if w.job.Kind == Up {
		mode, run = modeSink, w.push
	}
	conns, err := w.open(ctx, func(c net.Conn) error {
		_, err := c.Write([]byte{mode})
		return err
	})
	if err != nil {
		return Result{}, err
	}
	defer closeAll(conns)
	var received atomic.Uint64
	var wg sync.WaitGroup
	for _, c := range conns {
		_ = c.SetDeadline(time.Now().Add(w.job.Warmup + w.job.Window + patience)) // it is not closed
		// What is on the way when the window ends is of no use: the next window
		// shall not wait for it.
		c.SetLinger(0)
		wg.Go(func() { run(c, &received) })
	}
	var marks []uint64
	mark := w.mark
	w.mark = func() { marks = append(marks, received.Load()); mark() }
	elapsed, err := w.window(ctx)
	closeAll(conns)
	wg.Wait()
	r := w.result(elapsed)
	if len(marks) == 2 {
		r.Bytes = marks[1] - marks[0]
	}
	return r, err
}

func (w *work) push(c net.Conn, _ *atomic.Uint64) {
	buf := make([]byte, chunk)
	for {
		if _, err := c.Write(buf); err != nil {
			w.fail(err)
			return
		}
	}
}

func (w *work) pull(c net.Conn, received *atomic.Uint64) {
	buf := make([]byte, chunk)
	for {
		n, err := c.Read(buf)
		received.Add(uint64(n))
		if err != nil {
			w.fail(err)
			return
		}
	}
}
