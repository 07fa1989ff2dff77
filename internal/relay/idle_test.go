package relay_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ohrouter/oh-router/internal/relay"
	"github.com/ohrouter/oh-router/internal/socket"
)

// peerOf is the variable that makes the test binary the other end of
// BenchmarkIdle, so that what is measured is one hop.
const peerOf = "RELAY_TEST_PEER_OF"

// BenchmarkIdle reports what an idle session costs one hop after it has
// exchanged a message of each size: rss at once, and heap, stacks and
// rss-collected after a garbage collection.
func BenchmarkIdle(b *testing.B) {
	if runtime.GOOS != "linux" {
		b.Skip("reads /proc")
	}
	for _, link := range []string{"tcp", "tls-server", "tls-client"} {
		for _, size := range []int{64, 1 << 20} {
			b.Run(fmt.Sprintf("%s,%d", link, size), func(b *testing.B) {
				for range b.N {
					benchmarkIdle(b, link, size)
				}
			})
		}
	}
}

func benchmarkIdle(b *testing.B, kind string, size int) {
	sessions := min(2000, socket.Limit()/2-100)
	ln, err := socket.Options{}.Listen(b.Context(), "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	cmd := exec.CommandContext(b.Context(), os.Args[0], "-test.run=^TestPeerOfIdle$")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d %d %s", peerOf, ln.Addr(), sessions, size, kind))
	cmd.Stderr = os.Stderr
	stop, _ := cmd.StdinPipe()
	out, _ := cmd.StdoutPipe()
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	engine, err := relay.NewEngine(2, 0)
	if err != nil {
		b.Fatal(err)
	}
	config := idleConfig(b)
	before := usage(b, true)
	var ended sync.WaitGroup
	counters := make([]relay.Counters, sessions)
	for i := range sessions {
		client, err := socket.Accept(ln)
		if err != nil {
			b.Fatal(err)
		}
		accepted, err := socket.Accept(ln)
		if err != nil {
			b.Fatal(err)
		}
		link := net.Conn(accepted)
		switch kind {
		case "tls-server":
			link = tls.Server(socket.NewTransport(accepted), config)
		case "tls-client":
			link = tls.Client(socket.NewTransport(accepted), config)
		}
		if tc, ok := link.(*tls.Conn); ok {
			if err := tc.Handshake(); err != nil {
				b.Fatal(err)
			}
		}
		ended.Add(1)
		engine.Start(client, link, &counters[i], func(relay.End) { ended.Done() })
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "idle\n" {
		b.Fatal(line, err)
	}
	at := usage(b, false)

	after := usage(b, true)
	report := func(name string, bytes int) { b.ReportMetric(float64(bytes)/float64(sessions), name+"/session") }
	report("rss", at.rss-before.rss)
	report("rss-collected", after.rss-before.rss)
	report("stacks-at-once", at.stacks-before.stacks)
	report("heap", after.heap-before.heap)
	report("stacks", after.stacks-before.stacks)
	b.ReportMetric(float64(after.goroutines-before.goroutines)/float64(sessions), "goroutines/session")
	stop.Close()
	if err := cmd.Wait(); err != nil {
		b.Fatal(err)
	}
	ended.Wait()
	engine.Close()
}

func idleConfig(t testing.TB) *tls.Config {
	return &tls.Config{
		Certificates: []tls.Certificate{certificate(t)}, InsecureSkipVerify: true,
		MinVersion: tls.VersionTLS13, DynamicRecordSizingDisabled: true,
	}
}

type used struct{ rss, heap, stacks, goroutines int }

func usage(b *testing.B, collect bool) used {
	if collect {
		debug.FreeOSMemory() // what was collected before is no part of it
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	kb, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		b.Fatal(err)
	}
	return used{kb << 10, int(m.HeapAlloc), int(m.StackInuse), runtime.NumGoroutine()}
}

// TestPeerOfIdle is no test, but both far ends of all sessions of a
// BenchmarkIdle: each client sends a message and the target sends it back.
func TestPeerOfIdle(t *testing.T) {
	order, ok := os.LookupEnv(peerOf)
	if !ok {
		t.Skip("this is BenchmarkIdle's other process")
	}
	var address, kind string
	var sessions, size int
	if _, err := fmt.Sscan(order, &address, &sessions, &size, &kind); err != nil {
		t.Fatal(err)
	}
	config, message := idleConfig(t), randomBytes(size, 1)
	dial := func() net.Conn {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	for range sessions {
		client, target := dial(), dial()
		switch kind {
		case "tls-server":
			target = tls.Client(target, config)
		case "tls-client":
			target = tls.Server(target, config)
		}
		if err := exchange(client, target, message); err != nil {
			t.Fatal(err)
		}
	}
	fmt.Println("idle")
	io.Copy(io.Discard, os.Stdin) // until the benchmark has looked
}

func exchange(client, target net.Conn, message []byte) error {
	for _, c := range []net.Conn{client, target} {
		c.SetDeadline(time.Now().Add(deadline))
	}
	sent := make(chan error, 2)
	go func() { _, err := client.Write(message); sent <- err }()
	got := make([]byte, len(message))
	if _, err := io.ReadFull(target, got); err != nil {
		return err
	}
	go func() { _, err := target.Write(got); sent <- err }()
	back := make([]byte, len(message))
	if _, err := io.ReadFull(client, back); err != nil {
		return err
	}
	if !bytes.Equal(message, back) {
		return fmt.Errorf("other bytes came back")
	}
	for range 2 {
		if err := <-sent; err != nil {
			return err
		}
	}
	return nil
}
