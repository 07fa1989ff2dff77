package link

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/ohrouter/oh-router/internal/socket"
)

// connected returns both ends of a TCP connection.
func connected(t *testing.T) (near, far *net.TCPConn) {
	t.Helper()
	accepted := make(chan *net.TCPConn)
	address := listen(t, func(ctx context.Context, c *net.TCPConn) {
		accepted <- c
		<-ctx.Done()
	})
	near, err := socket.Options{}.Dial(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close() })
	return near, <-accepted
}

// TestSettled has something happen behind the AckCommand, at once or while Ack
// waits for it: no time that has passed may hide that the link has ended.
func TestSettled(t *testing.T) {
	const never = time.Hour
	orderly := func(c *net.TCPConn) { socket.Orderly(c); c.Close() }
	says := func(c *net.TCPConn) { c.Write([]byte("x")) }
	for _, tt := range []struct {
		name            string
		proxy           func(*net.TCPConn) // nil nothing
		client          func(*net.TCPConn)
		atLeast, atMost time.Duration
		gone            bool // the link
	}{
		{"reset", func(c *net.TCPConn) { c.Close() }, nil, 0, never, true},
		{"reset, in the last moment", func(c *net.TCPConn) { c.Close() }, nil, never, never, true},
		{"end", orderly, nil, 0, never, true},
		{"the target speaks", says, nil, 0, never, false},
		{"the target speaks, and that was it", func(c *net.TCPConn) { says(c); orderly(c) }, nil, 0, never, false},
		{"the client speaks", nil, says, 0, never, false},
		{"the client ends", nil, orderly, 0, never, false},
		{"nobody speaks", nil, nil, 0, tick, false},
	} {
		for _, early := range []bool{true, false} {
			t.Run(tt.name, func(t *testing.T) {
				link, proxy := connected(t)
				client, peer := connected(t)
				l := newLink(link, newStates().States)
				defer l.Close()
				var wg sync.WaitGroup
				defer wg.Wait()
				happens := func() {
					if tt.proxy != nil {
						tt.proxy(proxy)
					}
					if tt.client != nil {
						tt.client(peer)
					}
				}
				if early {
					happens()
					eventually(t, "it has happened", func() bool {
						return (tt.proxy == nil || socket.Pending(link)) && (tt.client == nil || socket.Pending(client))
					})
				} else {
					wg.Go(happens)
				}
				begin := time.Now()
				if err := l.settled(t.Context(), client, tt.atLeast, tt.atMost); (err != nil) != tt.gone {
					t.Errorf("settled = %v, want an error: %v", err, tt.gone)
				}
				if took := time.Since(begin); took > never/2 {
					t.Errorf("it took %v", took)
				}
			})
		}
	}
}

// TestSettledWithoutAClient does not wait, and sees an end that has come all
// the same.
func TestSettledWithoutAClient(t *testing.T) {
	link, proxy := connected(t)
	l := newLink(link, newStates().States)
	defer l.Close()
	if err := l.settled(t.Context(), nil, 0, time.Hour); err != nil {
		t.Errorf("settled = %v, and nothing has happened", err)
	}
	proxy.Close()
	eventually(t, "the reset is there", func() bool { return socket.Ended(link) })
	if err := l.settled(t.Context(), nil, -1, time.Hour); err == nil {
		t.Error("the reset came with the deadline, and was not seen")
	}
}

func TestAckIsCut(t *testing.T) {
	link, _ := connected(t)
	client, _ := connected(t)
	l := newLink(link, newStates().States)
	defer l.Close()
	l.proxy.pool.setUp = time.Hour // it would wait that long
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.Ack(ctx, client); !errors.Is(err, context.Canceled) {
		t.Errorf("Ack = %v, want %v", err, context.Canceled)
	}
}
