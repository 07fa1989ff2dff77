package relay_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	mrand "math/rand/v2"
	"net"
	"os"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/ohrouter/oh-router/internal/relay"
	"github.com/ohrouter/oh-router/internal/socket"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// deadline is when a test that hangs gives up; no test waits for it.
const deadline = 30 * time.Second

// kind makes a connection: near is relayed, far is the peer.
type kind struct {
	name   string
	resets bool // the connection can tell a reset from an end
	make   func(t testing.TB) (near, far net.Conn)
}

func kinds(t testing.TB) []kind {
	cert := certificate(t)
	return []kind{
		tcp,
		{"tls-server", true, func(t testing.TB) (net.Conn, net.Conn) { return tlsPair(t, cert, true) }},
		{"tls-client", true, func(t testing.TB) (net.Conn, net.Conn) { return tlsPair(t, cert, false) }},
	}
}

var tcp = kind{"tcp", true, tcpPair}

func tcpPair(t testing.TB) (near, far net.Conn) {
	t.Helper()
	ln, err := socket.Options{}.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	dialled := make(chan net.Conn, 1)
	go func() {
		c, _ := net.Dial("tcp", ln.Addr().String())
		dialled <- c
	}()
	near, err = socket.Accept(ln)
	if err != nil {
		t.Fatal(err)
	}
	far = <-dialled
	if far == nil {
		t.Fatal("dial failed")
	}
	t.Cleanup(func() { near.Close(); far.Close() })
	far.SetDeadline(time.Now().Add(deadline))
	return near, far
}

func tlsPair(t testing.TB, cert tls.Certificate, nearServes bool) (near, far net.Conn) {
	t.Helper()
	near, far = tcpPair(t)
	return tlsOver(t, cert, nearServes, socket.NewTransport(near.(*net.TCPConn)), far)
}

// tlsLink is a link with both ends as the router and the proxy have them.
func tlsLink(t testing.TB, cert tls.Certificate) (client, server net.Conn) {
	t.Helper()
	c, s := tcpPair(t)
	return tlsOver(t, cert, false, socket.NewTransport(c.(*net.TCPConn)), socket.NewTransport(s.(*net.TCPConn)))
}

func serverSettings(cert tls.Certificate) *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13}
}

func clientSettings() *tls.Config {
	return &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}
}

func tlsOver(t testing.TB, cert tls.Certificate, nearServes bool, n, f net.Conn) (near, far net.Conn) {
	t.Helper()
	nc, fc := tls.Server(n, serverSettings(cert)), tls.Client(f, clientSettings())
	if !nearServes {
		nc, fc = tls.Client(n, clientSettings()), tls.Server(f, serverSettings(cert))
	}
	var wg sync.WaitGroup
	wg.Go(func() { fc.Handshake() })
	if err := nc.Handshake(); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	return nc, fc
}

func certificate(t testing.TB) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// fixture is a running session: near ends relayed, far ends in the test's
// hands. far[0] is side A's peer, unless turned.
type fixture struct {
	far  [2]net.Conn
	near [2]net.Conn
	live relay.Counters
	end  chan relay.End
	t    testing.TB
	side [2]relay.Side
	cut  func()

	session relay.Session // of an engine
}

func (f *fixture) wait() relay.End {
	f.t.Helper()
	select {
	case e := <-f.end:
		return e
	case <-time.After(deadline):
		buf := make([]byte, 1<<20)
		f.t.Fatalf("the session did not end:\n%s", buf[:runtime.Stack(buf, true)])
		return relay.End{}
	}
}

// each runs a test over every pair of connections, both ways round, carried by
// goroutines and by an engine.
func each(t *testing.T, test func(t *testing.T, f *fixture)) {
	bare := kind{"tls-without-transport", true, func(t testing.TB) (net.Conn, net.Conn) {
		near, far := tcpPair(t)
		return tlsOver(t, certificate(t), true, near, far)
	}}
	pairs := [][2]kind{{tcp, bare}}
	for _, x := range kinds(t) {
		for _, y := range kinds(t) {
			pairs = append(pairs, [2]kind{x, y})
		}
	}
	for _, p := range pairs {
		for _, c := range carriersOf(p[0], p[1]) {
			for _, turned := range []bool{false, true} {
				name := c.name + "," + p[0].name + "," + p[1].name
				if turned {
					name += ",turned"
				}
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					test(t, start(t, c, p[0], p[1], turned))
				})
			}
		}
	}
}

// carrier is a way to carry a session.
type carrier struct {
	name  string
	opens bool // start makes the connections, too
	start func(t testing.TB, f *fixture)
}

// carriersOf returns the ways for a pair of connections.
func carriersOf(x, y kind) []carrier {
	return append(slices.Clone(carriers), openers[x.name+","+y.name]...)
}

var carriers = []carrier{{"goroutines", false, withPipe}, {"engine", false, withEngine}}

func withPipe(t testing.TB, f *fixture) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f.end <- relay.Pipe(f.near[0], f.near[1], &f.live)
	}()
	f.cut = func() {
		socket.Abort(f.near[0])
		socket.Abort(f.near[1])
	}
	t.Cleanup(func() {
		f.cut()
		<-done
	})
}

func withEngine(t testing.TB, f *fixture) {
	e, err := relay.NewEngine(2, 100*time.Microsecond)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	s := e.Start(f.near[0], f.near[1], &f.live, func(end relay.End) {
		f.end <- end
		close(done)
	})
	f.cut, f.session = s.Cut, s
	t.Cleanup(func() {
		s.Cut()
		<-done
		e.Close()
	})
}

// both runs a test over TCP, carried by goroutines and by an engine.
func both(t *testing.T, test func(t *testing.T, c carrier)) {
	for _, c := range carriers {
		t.Run(c.name, func(t *testing.T) { test(t, c) })
	}
}

// bothAndTLS runs a test as both does, and over TLS on either side or both.
func bothAndTLS(t *testing.T, test func(t *testing.T, f *fixture)) {
	cert := certificate(t)
	overTLS := kind{"tls", true, func(t testing.TB) (net.Conn, net.Conn) { return tlsPair(t, cert, true) }}
	for _, sides := range [][2]kind{{tcp, tcp}, {tcp, overTLS}, {overTLS, tcp}, {overTLS, overTLS}} {
		t.Run(sides[0].name+","+sides[1].name, func(t *testing.T) {
			t.Parallel()
			both(t, func(t *testing.T, c carrier) {
				t.Parallel()
				test(t, start(t, c, sides[0], sides[1], false))
			})
		})
	}
}

func start(t testing.TB, c carrier, x, y kind, turned bool) *fixture {
	f := &fixture{end: make(chan relay.End, 1), t: t, side: [2]relay.Side{relay.A, relay.B}}
	if c.opens {
		c.start(t, f)
	} else {
		f.near[0], f.far[0] = x.make(t)
		f.near[1], f.far[1] = y.make(t)
	}
	if turned {
		f.far[0], f.far[1] = f.far[1], f.far[0]
		f.side = [2]relay.Side{relay.B, relay.A}
	}
	if !c.opens {
		c.start(t, f)
	}
	return f
}

func closeWrite(t testing.TB, c net.Conn) {
	t.Helper()
	if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
}

func randomBytes(n int, seed byte) []byte {
	b := make([]byte, n)
	mrand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, io.ErrUnexpectedEOF)
}

func TestBytesArriveWholeBothWays(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		const size = 3<<20 + 12345
		var wg sync.WaitGroup
		for i := range f.far {
			sent := randomBytes(size, byte(i))
			wg.Go(func() {
				// Pieces of every size, so that all ways of copying are taken.
				for rest, n := sent, 1; len(rest) > 0; n = n*3%200_003 + 1 {
					n := min(n, len(rest))
					if _, err := f.far[i].Write(rest[:n]); err != nil {
						t.Errorf("write: %v", err)
						return
					}
					rest = rest[n:]
				}
				closeWrite(t, f.far[i])
			})
			wg.Go(func() {
				got, err := io.ReadAll(f.far[1-i])
				if err != nil || !bytes.Equal(got, sent) {
					t.Errorf("received %d bytes (%v), want the %d sent", len(got), err, size)
				}
			})
		}
		wg.Wait()
		if end := f.wait(); end.Err != nil {
			t.Errorf("end = %+v, want an orderly one", end)
		}
		if up, down := f.live.AB.Load(), f.live.BA.Load(); up != size || down != size {
			t.Errorf("counted %d and %d bytes, want %d each", up, down, size)
		}
	})
}

func TestHalfCloseLetsTheReplyThrough(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		request, reply := []byte("the whole request"), randomBytes(2<<20, 7)
		if _, err := f.far[0].Write(request); err != nil {
			t.Fatal(err)
		}
		closeWrite(t, f.far[0])
		got, err := io.ReadAll(f.far[1])
		if err != nil || !bytes.Equal(got, request) {
			t.Fatalf("target received %q, %v", got, err)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := f.far[1].Write(reply); err != nil {
				t.Errorf("write after the peer's FIN: %v", err)
			}
			closeWrite(t, f.far[1])
		})
		got, err = io.ReadAll(f.far[0])
		wg.Wait()
		if err != nil || !bytes.Equal(got, reply) {
			t.Fatalf("received %d bytes of the reply (%v), want %d", len(got), err, len(reply))
		}
		if end := f.wait(); end.Side != f.side[0] || end.Err != nil {
			t.Errorf("end = %+v, want an orderly one by side %v", end, f.side[0])
		}
	})
}

func TestResetCrossesAfterWhatCameBefore(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		// Enough to be under way when the reset comes, little enough for the
		// sender's kernel to have handed it all on.
		before := randomBytes(100_000, 3)
		if _, err := f.far[0].Write(before); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(before))
		if _, err := io.ReadFull(f.far[1], got[:1]); err != nil {
			t.Fatal(err)
		}
		waitFor(t, func() bool { return f.live.AB.Load()+f.live.BA.Load() == uint64(len(before)) })
		socket.Abort(f.far[0])
		if _, err := io.ReadFull(f.far[1], got[1:]); err != nil || !bytes.Equal(got, before) {
			t.Fatalf("bytes from before the reset: %v", err)
		}
		if n, err := f.far[1].Read(got); !isReset(err) {
			t.Fatalf("after them: %d, %v; want a reset", n, err)
		}
		if end := f.wait(); end.Side != f.side[0] || end.Err == nil {
			t.Errorf("end = %+v, want a reset by side %v", end, f.side[0])
		}
	})
}

func TestResetAfterHalfCloseCrosses(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		closeWrite(t, f.far[0])
		if _, err := f.far[1].Read(make([]byte, 1)); err != io.EOF {
			t.Fatalf("read = %v, want EOF", err)
		}
		socket.Abort(f.far[0])
		// The peer writes into a session that is over, until it is told.
		waitFor(t, func() bool {
			_, err := f.far[1].Write([]byte("x"))
			return err != nil
		})
		f.wait()
	})
}

func TestUrgentBytesTravelInLine(t *testing.T) {
	for _, size := range []int{3, 200_000} {
		both(t, func(t *testing.T, c carrier) {
			f := &fixture{end: make(chan relay.End, 1), t: t}
			f.near[0], f.far[0] = tcpPair(t)
			f.near[1], f.far[1] = tcpPair(t)
			sent := randomBytes(size, 5)
			c.start(t, f)
			var wg sync.WaitGroup
			wg.Go(func() {
				for _, piece := range [][]byte{sent[:size/3], sent[size/3 : size/2], sent[size/2:]} {
					if err := sendUrgent(f.far[0].(*net.TCPConn), piece); err != nil {
						t.Error(err)
					}
				}
			})
			// The sender waits with its connection open: nothing may stay behind.
			got := make([]byte, size)
			if n, err := io.ReadFull(f.far[1], got); err != nil || !bytes.Equal(got, sent) {
				t.Errorf("received %d bytes, %v; want the %d that were sent", n, err, size)
			}
			wg.Wait()
			closeWrite(t, f.far[0])
			closeWrite(t, f.far[1])
			if end := f.wait(); end.Err != nil {
				t.Errorf("end = %+v, want an orderly one", end)
			}
		})
	}
}

func TestResetThatSomebodyElseWasToldOf(t *testing.T) {
	both(t, func(t *testing.T, c carrier) {
		f := &fixture{end: make(chan relay.End, 1), t: t}
		f.near[0], f.far[0] = tcpPair(t)
		f.near[1], f.far[1] = tcpPair(t)
		socket.Abort(f.far[0])
		near := f.near[0].(*net.TCPConn)
		waitFor(t, func() bool { return socket.TakeError(near) != nil })
		c.start(t, f)
		if _, err := f.far[1].Read(make([]byte, 1)); !isReset(err) {
			t.Errorf("the other side read %v, want a reset", err)
		}
		if end := f.wait(); end.Side != relay.A || end.Err == nil {
			t.Errorf("end = %+v, want a reset by side A", end)
		}
	})
}

func TestCloseFromOutsideResetsBoth(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		if _, err := f.far[0].Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(f.far[1], make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		f.cut()
		for i := range f.far {
			if _, err := f.far[i].Read(make([]byte, 1)); !isReset(err) {
				t.Errorf("peer %d read %v, want a reset", i, err)
			}
		}
		f.wait()
	})
}

func TestPeerThatTakesNothingDoesNotHoldAReset(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 10 s")
	}
	bothAndTLS(t, func(t *testing.T, f *fixture) {
		// Until the whole path is full.
		f.far[0].SetWriteDeadline(time.Now().Add(time.Second))
		for {
			if _, err := f.far[0].Write(make([]byte, 1<<20)); err != nil {
				break
			}
		}
		begin := time.Now()
		socket.Abort(f.far[0])
		end := f.wait()
		if end.Side != relay.A || end.Err == nil {
			t.Errorf("end = %+v, want a reset by side A", end)
		}
		if took := time.Since(begin); took < 9*time.Second {
			t.Errorf("it took %v, want 10 s at least", took)
		}
		if _, err := io.Copy(io.Discard, f.far[1]); !isReset(err) {
			t.Errorf("the peer read %v, want a reset", err)
		}
	})
}

func TestSlowReaderGetsEverythingBeforeTheReset(t *testing.T) {
	bothAndTLS(t, func(t *testing.T, f *fixture) {
		const size = 8 << 20
		sent := randomBytes(size, 9)
		sum := sha256.New()
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := f.far[0].Write(sent); err != nil {
				t.Errorf("write: %v", err)
			}
			// A reset loses what the sender's own kernel still holds.
			waitFor(t, func() bool {
				info, _ := socket.Stat(socket.TCP(f.far[0]))
				return info.Unsent == 0
			})
			socket.Abort(f.far[0])
		})
		n, err := io.CopyBuffer(sum, struct{ io.Reader }{f.far[1]}, make([]byte, 4<<10))
		wg.Wait()
		if n != size || !isReset(err) {
			t.Fatalf("received %d bytes, then %v; want %d, then a reset", n, err, size)
		}
		if want := sha256.Sum256(sent); !bytes.Equal(sum.Sum(nil), want[:]) {
			t.Error("the bytes differ")
		}
		f.wait()
	})
}

func TestIdleSessionHoldsNoDescriptor(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("reads /proc")
	}
	both(t, func(t *testing.T, c carrier) {
		var sessions []*fixture
		for range 20 {
			sessions = append(sessions, start(t, c, tcp, tcp, false))
		}
		idle := descriptors(t)
		bulk := randomBytes(4<<20, 1)
		for _, f := range sessions {
			var wg sync.WaitGroup
			wg.Go(func() {
				if _, err := f.far[0].Write(bulk); err != nil {
					t.Error(err)
				}
			})
			if _, err := io.ReadFull(f.far[1], make([]byte, len(bulk))); err != nil {
				t.Fatal(err)
			}
			wg.Wait()
		}
		waitFor(t, func() bool { return descriptors(t) <= idle+2*2 })
	})
}

func descriptors(t testing.TB) int {
	t.Helper()
	d, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(d)
}

// waitFor polls until cond holds.
func waitFor(t testing.TB, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(deadline); !cond(); {
		if time.Now().After(end) {
			t.Fatal("it never came true")
		}
		runtime.Gosched()
	}
}

func TestPipeOverMemory(t *testing.T) {
	a, farA := net.Pipe()
	b, farB := net.Pipe()
	end := make(chan relay.End)
	var live relay.Counters
	go func() { end <- relay.Pipe(a, b, &live) }()
	go farA.Write([]byte("hello"))
	got := make([]byte, 5)
	if _, err := io.ReadFull(farB, got); err != nil || string(got) != "hello" {
		t.Fatalf("received %q, %v", got, err)
	}
	farB.Close()
	if e := <-end; e.Side != relay.B || e.Err != nil {
		t.Errorf("end = %+v, want an orderly one by B", e)
	}
	farA.Close()
}
