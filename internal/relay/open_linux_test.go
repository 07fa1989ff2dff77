package relay_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ohrouter/oh-router/internal/relay"
	"github.com/ohrouter/oh-router/internal/socket"
)

// openers are the ways in which an engine opens a session by itself, by what its
// connections are.
var openers = map[string][]carrier{
	"tcp,tcp":        {{"forwarded", true, forwarded}, {"forwarded over", true, forwardedOver(tcpPair)}, {"served", true, served}, {"served later", true, servedLater}},
	"tcp,tls-client": {{"forwarded", true, forwardedSecurely}, {"forwarded over", true, forwardedOver(tlsClientPair)}},
	"tls-server,tcp": {{"served", true, servedSecurely}, {"served later", true, servedLaterSecurely}},
}

// Whoever is called answers a hello; whoever asks begins with a request, or says
// that it comes later.
const (
	hello   = "hello"
	answer  = "answer"
	request = "request"
	later   = "later"
	well    = "well"
)

// opened is the opening of one session in a test.
type opened struct {
	to       netip.AddrPort
	end      chan relay.End
	failures chan relay.Failure
	givenUp  relay.Conn // with the failure
	secured  atomic.Int32
	within   time.Duration // 0, or how long a request may come later
	well     bool          // it may
	asked    func()        // what else happens when a request is there
	answered func()        // and before it is answered
}

func newOpened(to netip.AddrPort) *opened {
	return &opened{to: to, end: make(chan relay.End, 1), failures: make(chan relay.Failure, 1), asked: func() {}, answered: func() {}}
}

func (o *opened) Ended(end relay.End) { o.end <- end }
func (o *opened) Failed(a relay.Conn, f relay.Failure) {
	o.givenUp = a
	o.failures <- f
}

func (o *opened) Answered(b []byte) (n int, err error) { return prefix(b, answer) }

func (o *opened) Connected() []byte {
	o.answered()
	return []byte(answer)
}

func (o *opened) Asked(b []byte) (n int, way relay.Way, err error) {
	if o.within > 0 && !o.well {
		if n, err = prefix(b, later); n == 0 && err == nil {
			return len(later), relay.Way{}, nil
		}
		o.well = true
		return n, relay.Way{Reply: []byte(well), NextWithin: o.within, AskWithin: time.Second}, err
	}
	if n, err = prefix(b, request); n == 0 && err == nil {
		n = len(request)
	} else if err == nil {
		o.asked()
	}
	return n, relay.Way{To: o.to, ConnectWithin: deadline}, err
}

func (o *opened) Secured(peer tls.ConnectionState) error {
	o.secured.Add(1)
	return nil
}

var errOther = errors.New("something else")

// prefix returns the length of want when b begins with it, 0 while it may.
func prefix(b []byte, want string) (n int, err error) {
	k := min(len(b), len(want))
	switch {
	case string(b[:k]) != want[:k]:
		return 0, errOther
	case k < len(want):
		return 0, nil
	}
	return k, nil
}

// accepting returns the address at which an engine accepts connections.
func accepting(t testing.TB, how relay.Accept) (at string, ln *relay.Listener) {
	t.Helper()
	return acceptingOn(t, socket.Options{}, how)
}

func acceptingOn(t testing.TB, sockets socket.Options, how relay.Accept) (at string, ln *relay.Listener) {
	t.Helper()
	e, err := relay.NewEngine(2, 100*time.Microsecond)
	if err != nil {
		t.Fatal(err)
	}
	l, err := sockets.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	how.Log, how.What = slog.New(slog.DiscardHandler), "connections"
	ln, err = e.Listen(l, how)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ln.Close()
		e.Close()
	})
	return ln.Addr.String(), ln
}

func dial(t testing.TB, at string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(deadline))
	return c.(*net.TCPConn)
}

// listening returns a listener of the test.
func listening(t testing.TB) (ln *net.TCPListener, at netip.AddrPort) {
	t.Helper()
	ln, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln, ln.Addr().(*net.TCPAddr).AddrPort()
}

func accepted(t testing.TB, ln *net.TCPListener) *net.TCPConn {
	t.Helper()
	ln.SetDeadline(time.Now().Add(deadline))
	c, err := ln.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(deadline))
	return c
}

func expect(t testing.TB, c io.Reader, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != want {
		t.Fatalf("read %q and %v, want %q", got, err, want)
	}
}

func say(t testing.TB, c io.Writer, what string) {
	t.Helper()
	if _, err := io.WriteString(c, what); err != nil {
		t.Fatal(err)
	}
}

// wantGivenBack returns the failure of an opening. The connection that is given
// back still has what is left of what near has said, and works.
func (o *opened) wantGivenBack(t *testing.T, near net.Conn, left string) relay.Failure {
	t.Helper()
	f := o.failure(t)
	a, err := o.givenUp.TCP()
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	a.SetDeadline(time.Now().Add(deadline))
	expect(t, a, left)
	say(t, a, "it still works")
	expect(t, near, "it still works")
	return f
}

// follow hands the end of a session to a fixture, and cuts it when the test is
// over.
func (o *opened) follow(t testing.TB, f *fixture, s relay.Session) {
	f.cut = s.Cut
	over := make(chan struct{})
	go func() {
		f.end <- <-o.end
		close(over)
	}()
	t.Cleanup(func() {
		s.Cut()
		<-over
	})
}

func forwarded(t testing.TB, f *fixture) {
	ln, at := listening(t)
	o, session := newOpened(at), make(chan relay.Session, 1)
	addr, _ := accepting(t, relay.Accept{Accepted: func(c relay.Conn) {
		session <- c.Forward(relay.Call{To: at, Hello: []byte(hello), ConnectWithin: deadline, AnswerWithin: deadline}, o, &f.live)
	}})
	f.far[0] = dial(t, addr)
	far := accepted(t, ln)
	expect(t, far, hello)
	say(t, far, answer)
	f.far[1] = far
	o.follow(t, f, <-session)
}

func tlsClientPair(t testing.TB) (near, far net.Conn) { return tlsPair(t, certificate(t), false) }

// forwardedOver opens sessions over connections that lead to their other sides
// already.
func forwardedOver(pair func(t testing.TB) (near, far net.Conn)) func(t testing.TB, f *fixture) {
	return func(t testing.TB, f *fixture) {
		o, session := newOpened(netip.AddrPort{}), make(chan relay.Session, 1)
		over, far := pair(t)
		addr, _ := accepting(t, relay.Accept{Accepted: func(c relay.Conn) {
			session <- c.Forward(relay.Call{Over: over, Hello: []byte(hello), AnswerWithin: deadline}, o, &f.live)
		}})
		f.far[0], f.far[1] = dial(t, addr), far
		expect(t, far, hello)
		say(t, far, answer)
		o.follow(t, f, <-session)
	}
}

func served(t testing.TB, f *fixture) {
	ln, at := listening(t)
	o, session := newOpened(at), make(chan relay.Session, 1)
	addr, _ := accepting(t, relay.Accept{Accepted: func(c relay.Conn) {
		session <- c.Serve(relay.Terms{AskWithin: deadline}, o, &f.live)
	}})
	near := dial(t, addr)
	say(t, near, request)
	expect(t, near, answer)
	f.far[0], f.far[1] = near, accepted(t, ln)
	o.follow(t, f, <-session)
}

func servedLater(t testing.TB, f *fixture) {
	f.far[0], f.far[1] = servedOnce(t, f, relay.Terms{AskWithin: deadline}, func(c *net.TCPConn) net.Conn { return c })
}

func servedLaterSecurely(t testing.TB, f *fixture) {
	terms := relay.Terms{AskWithin: deadline, Secure: secured(certificate(t), true)}
	f.far[0], f.far[1] = servedOnce(t, f, terms, func(c *net.TCPConn) net.Conn { return tls.Client(c, clientSettings()) })
}

// servedOnce opens a session of who asks for one later.
func servedOnce(t testing.TB, f *fixture, terms relay.Terms, over func(*net.TCPConn) net.Conn) (near, far net.Conn) {
	ln, at := listening(t)
	o, session := newOpened(at), make(chan relay.Session, 1)
	o.within = deadline
	addr, _ := accepting(t, relay.Accept{Accepted: func(c relay.Conn) { session <- c.Serve(terms, o, &f.live) }})
	near = over(dial(t, addr))
	say(t, near, later)
	expect(t, near, well)
	say(t, near, request)
	expect(t, near, answer)
	o.follow(t, f, <-session)
	return near, accepted(t, ln)
}

// secured returns what makes TLS of a connection of a loop.
func secured(cert tls.Certificate, server bool) func(raw io.ReadWriter) *tls.Conn {
	return func(raw io.ReadWriter) *tls.Conn {
		c := socket.NewTransport(nil)
		c.TakeOver(raw)
		if server {
			return tls.Server(c, serverSettings(cert))
		}
		return tls.Client(c, clientSettings())
	}
}

func forwardedSecurely(t testing.TB, f *fixture) {
	ln, at := listening(t)
	o, session := newOpened(at), make(chan relay.Session, 1)
	call := relay.Call{To: at, Hello: []byte(hello), ConnectWithin: deadline, AnswerWithin: deadline, Secure: secured(certificate(t), false)}
	addr, _ := accepting(t, relay.Accept{Accepted: func(c relay.Conn) { session <- c.Forward(call, o, &f.live) }})
	f.far[0] = dial(t, addr)
	far := tls.Server(accepted(t, ln), serverSettings(certificate(t)))
	expect(t, far, hello)
	say(t, far, answer)
	f.far[1] = far
	o.follow(t, f, <-session)
	if o.secured.Load() != 1 {
		t.Errorf("told %d times who the peer is", o.secured.Load())
	}
}

func servedSecurely(t testing.TB, f *fixture) {
	ln, at := listening(t)
	o, session := newOpened(at), make(chan relay.Session, 1)
	terms := relay.Terms{AskWithin: deadline, Secure: secured(certificate(t), true)}
	addr, _ := accepting(t, relay.Accept{Accepted: func(c relay.Conn) { session <- c.Serve(terms, o, &f.live) }})
	near := tls.Client(dial(t, addr), clientSettings())
	say(t, near, request)
	expect(t, near, answer)
	f.far[0], f.far[1] = near, accepted(t, ln)
	o.follow(t, f, <-session)
	if o.secured.Load() != 1 {
		t.Errorf("told %d times who the peer is", o.secured.Load())
	}
}

func TestPiecesOfAnOpening(t *testing.T) {
	var f fixture
	f.end = make(chan relay.End, 1)
	ln, at := listening(t)
	o := newOpened(at)
	sessions := make(chan relay.Session, 1)
	addr, _ := accepting(t, relay.Accept{Accepted: func(c relay.Conn) {
		sessions <- c.Serve(relay.Terms{AskWithin: deadline}, o, &f.live)
	}})
	near := dial(t, addr)
	session := <-sessions
	for _, b := range []byte(request + "early") {
		say(t, near, string(b))
	}
	far := accepted(t, ln)
	expect(t, far, "early")
	say(t, far, "from the target")
	expect(t, near, answer+"from the target")
	o.follow(t, &f, session)
	far.Close()
	near.Close()
	f.t = t
	f.wait()
	if up, down := f.live.AB.Load(), f.live.BA.Load(); up != 5 || down != 15 {
		t.Errorf("counted %d bytes and %d, want 5 and 15: request and answer are none of the session's", up, down)
	}
}

func TestAnswerComesWithoutPayload(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func(far *net.TCPConn)
		want func(error) bool
	}{
		{"silence", nil, nil},
		{"a FIN", func(far *net.TCPConn) { far.CloseWrite() }, func(err error) bool { return errors.Is(err, io.EOF) }},
		{"a reset", func(far *net.TCPConn) { socket.Abort(far) }, isReset},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := &fixture{t: t, end: make(chan relay.End, 1)}
			ln, at := listening(t)
			o, sessions := newOpened(at), make(chan relay.Session, 1)
			addr, _ := accepting(t, relay.Accept{Accepted: func(c relay.Conn) {
				sessions <- c.Serve(relay.Terms{AskWithin: deadline}, o, &f.live)
			}})
			near := dial(t, addr)
			say(t, near, request+"x")
			far := accepted(t, ln)
			expect(t, far, "x")
			o.follow(t, f, <-sessions)
			if tt.end != nil {
				tt.end(far)
			}
			expect(t, near, answer)
			if tt.want != nil {
				if _, err := near.Read(make([]byte, 1)); !tt.want(err) {
					t.Errorf("behind the answer: %v", err)
				}
			}
		})
	}
}

func TestOpeningsThatFail(t *testing.T) {
	nobody := netip.MustParseAddrPort("127.0.0.1:1") // the kernel gives that to nobody
	forward := func(c relay.Conn, o *opened) {
		c.Forward(relay.Call{To: o.to, Hello: []byte(hello), ConnectWithin: deadline, AnswerWithin: deadline}, o, new(relay.Counters))
	}
	for _, tt := range []struct {
		name  string
		begin func(c relay.Conn, o *opened)
		do    func(t *testing.T, near *net.TCPConn, ln *net.TCPListener)
		want  error
		read  string
		left  string // what a still has
	}{
		{"nobody listens", func(c relay.Conn, o *opened) {
			o.to = nobody
			forward(c, o)
		}, nil, os.NewSyscallError("connect", nil), "", ""},
		{"no answer in time", func(c relay.Conn, o *opened) {
			c.Forward(relay.Call{To: o.to, ConnectWithin: deadline, AnswerWithin: 1}, o, new(relay.Counters))
		}, nil, os.ErrDeadlineExceeded, "", ""},
		{"another answer", forward, func(t *testing.T, near *net.TCPConn, ln *net.TCPListener) {
			say(t, near, "early")
			far := accepted(t, ln)
			expect(t, far, hello+"early")
			say(t, far, "another")
		}, errOther, "early", ""},
		{"the answer is cut", forward, func(t *testing.T, near *net.TCPConn, ln *net.TCPListener) {
			far := accepted(t, ln)
			say(t, far, answer[:3])
			expect(t, far, hello)
			far.Close()
		}, io.EOF, "", ""},
		{
			"another request", func(c relay.Conn, o *opened) {
				c.Serve(relay.Terms{AskWithin: deadline}, o, new(relay.Counters))
			},
			func(t *testing.T, near *net.TCPConn, ln *net.TCPListener) { say(t, near, "other") }, errOther, "", "other",
		},
		{
			"no request in time", func(c relay.Conn, o *opened) {
				c.Serve(relay.Terms{AskWithin: 1}, o, new(relay.Counters))
			},
			nil, os.ErrDeadlineExceeded, "", "",
		},
		{
			"no request at all", func(c relay.Conn, o *opened) {
				c.Serve(relay.Terms{AskWithin: deadline}, o, new(relay.Counters))
			},
			func(t *testing.T, near *net.TCPConn, ln *net.TCPListener) { near.CloseWrite() }, io.EOF, "", "",
		},
		{
			"half a request", func(c relay.Conn, o *opened) {
				c.Serve(relay.Terms{AskWithin: deadline}, o, new(relay.Counters))
			},
			func(t *testing.T, near *net.TCPConn, ln *net.TCPListener) {
				say(t, near, request[:3])
				near.CloseWrite()
			}, io.ErrUnexpectedEOF, "", request[:3],
		},
		{
			"no request later", func(c relay.Conn, o *opened) {
				o.within = 1
				c.Serve(relay.Terms{AskWithin: deadline}, o, new(relay.Counters))
			},
			func(t *testing.T, near *net.TCPConn, ln *net.TCPListener) {
				say(t, near, later)
				expect(t, near, well)
			}, relay.ErrNotAsked, "", "",
		},
		{
			"half a request later", func(c relay.Conn, o *opened) {
				o.within = deadline
				c.Serve(relay.Terms{AskWithin: deadline}, o, new(relay.Counters))
			},
			func(t *testing.T, near *net.TCPConn, ln *net.TCPListener) {
				say(t, near, later+request[:3])
				expect(t, near, well)
			}, os.ErrDeadlineExceeded, "", request[:3],
		},
		{"nobody listens where the request leads", func(c relay.Conn, o *opened) {
			o.to = nobody
			c.Serve(relay.Terms{AskWithin: deadline}, o, new(relay.Counters))
		}, func(t *testing.T, near *net.TCPConn, ln *net.TCPListener) { say(t, near, request+"x") }, os.NewSyscallError("connect", nil), "", request + "x"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ln, at := listening(t)
			o := newOpened(at)
			addr, _ := accepting(t, relay.Accept{Accepted: func(c relay.Conn) { tt.begin(c, o) }})
			near := dial(t, addr)
			if tt.do != nil {
				tt.do(t, near, ln)
			}
			f := o.wantGivenBack(t, near, tt.left)
			if tt.want != nil && !errors.Is(f.Err, tt.want) || f.Err == nil {
				t.Errorf("failed with %v, want %v", f.Err, tt.want)
			}
			if string(f.Read) != tt.read {
				t.Errorf("%q was taken, want %q", f.Read, tt.read)
			}
		})
	}
}

// TestTalkGivesNoTime has a client that goes on talking while the other side is
// silent.
func TestTalkGivesNoTime(t *testing.T) {
	ln, at := listening(t)
	o := newOpened(at)
	addr, _ := accepting(t, relay.Accept{Accepted: func(c relay.Conn) {
		c.Forward(relay.Call{To: at, Hello: []byte(hello), ConnectWithin: deadline, AnswerWithin: 500 * time.Millisecond}, o, new(relay.Counters))
	}})
	near := dial(t, addr)
	expect(t, accepted(t, ln), hello)
	tick, over := time.NewTicker(10*time.Millisecond), time.After(10*time.Second)
	defer tick.Stop()
	for {
		select {
		case f := <-o.failures:
			o.givenUp.Abort()
			if !errors.Is(f.Err, os.ErrDeadlineExceeded) {
				t.Errorf("failed with %v, want %v", f.Err, os.ErrDeadlineExceeded)
			}
			return
		case <-tick.C:
			say(t, near, "x")
		case <-over:
			t.Fatal("10 s of talk, and no failure")
		}
	}
}

// TestGiveBack has a session given back that waits for a request, and one, in
// vain, that has it.
func TestGiveBack(t *testing.T) {
	for _, asks := range []bool{false, true} {
		ln, at := listening(t)
		f := &fixture{t: t, end: make(chan relay.End, 1)}
		o, sessions, again := newOpened(at), make(chan relay.Served, 1), make(chan relay.Served, 1)
		o.within, o.asked = deadline, func() { (<-again).GiveBack(errOther) }
		addr, _ := accepting(t, relay.Accept{Accepted: func(c relay.Conn) {
			s := c.Serve(relay.Terms{AskWithin: deadline}, o, &f.live)
			sessions <- s
			again <- s
		}})
		near, session := dial(t, addr), <-sessions
		say(t, near, later)
		expect(t, near, well)
		if asks {
			say(t, near, request)
			expect(t, near, answer)
			session.GiveBack(errOther)
			far := accepted(t, ln)
			say(t, near, "it stands")
			expect(t, far, "it stands")
			o.follow(t, f, session)
			continue
		}
		session.GiveBack(errOther)
		if f := o.wantGivenBack(t, near, ""); !errors.Is(f.Err, errOther) {
			t.Errorf("failed with %v, want %v", f.Err, errOther)
		}
	}
}

// TestAnswerToALaterRequestGoesFirst has who asks vanish before the answer. The
// target must not get what was said behind the request: it may be said again.
func TestAnswerToALaterRequestGoesFirst(t *testing.T) {
	ln, at := listening(t)
	o, nears := newOpened(at), make(chan *net.TCPConn, 1)
	o.within, o.answered = deadline, func() { socket.Abort(<-nears) }
	addr, _ := accepting(t, relay.Accept{Accepted: func(c relay.Conn) {
		c.Serve(relay.Terms{AskWithin: deadline}, o, new(relay.Counters))
	}})
	near := dial(t, addr)
	say(t, near, later)
	expect(t, near, well)
	nears <- near
	say(t, near, request+"payload")
	if b, err := io.ReadAll(accepted(t, ln)); len(b) > 0 || !isReset(err) {
		t.Errorf("the target reads %q and %v, want a reset alone", b, err)
	}
	if end := <-o.end; end.Side != relay.A || end.Err == nil {
		t.Errorf("ended with %+v", end)
	}
}

// TestFailureTellsWhatWasTaken has the other side end before it has heard
// anything, or behind that.
func TestFailureTellsWhatWasTaken(t *testing.T) {
	for _, heard := range []bool{false, true} {
		over, far := tcpPair(t)
		say(t, over, "before")
		expect(t, far, "before")
		say(t, far, "yes") // which acknowledges it
		expect(t, over, "yes")
		acked := socket.Acked(over.(*net.TCPConn))
		if !heard {
			socket.Abort(far.(*net.TCPConn))
		}
		o := newOpened(netip.AddrPort{})
		addr, _ := accepting(t, relay.Accept{Accepted: func(c relay.Conn) {
			c.Forward(relay.Call{Over: over, Hello: []byte(hello), AnswerWithin: deadline}, o, new(relay.Counters))
		}})
		near := dial(t, addr)
		if heard {
			expect(t, far, hello)
			far.Close()
		}
		if f := o.wantGivenBack(t, near, ""); f.Acked == 0 || (f.Acked != acked) != heard {
			t.Errorf("%d bytes were taken, before it %d; heard %v", f.Acked, acked, heard)
		}
	}
}

func TestListenerWaitsForDescriptors(t *testing.T) {
	budget := socket.NewBudget(2)
	conns := make(chan relay.Conn, 4)
	var missed atomic.Int32
	addr, ln := accepting(t, relay.Accept{
		Accepted: func(c relay.Conn) { conns <- c }, Descriptors: budget, Each: 1, Missed: func() { missed.Add(1) },
	})
	for range 4 {
		dial(t, addr)
	}
	first, second := <-conns, <-conns
	if !first.OnLoop() || !second.OnLoop() {
		t.Error("the connections did not come from a loop")
	}
	waitFor(t, func() bool { return !budget.TryAcquire(0) }) // somebody waits
	if n := len(conns); n > 0 {
		t.Errorf("%d connections above the budget", n)
	}
	first.Abort()
	budget.Release(1)
	third := <-conns
	if third.OnLoop() {
		t.Error("a connection that has waited claims to be on its loop")
	}
	waitFor(t, func() bool { return !budget.TryAcquire(0) })
	ln.Close()
	waitFor(t, func() bool { return missed.Load() == 1 })
	second.Abort()
	third.Abort()
}

func TestManySessionsAreOpened(t *testing.T) {
	ln, at := listening(t)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				if _, err := io.CopyN(io.Discard, c, int64(len(hello))); err != nil {
					return
				}
				io.WriteString(c, answer)
				io.Copy(c, c)
			}()
		}
	}()
	var open atomic.Int64
	addr, _ := accepting(t, relay.Accept{Accepted: func(c relay.Conn) {
		open.Add(1)
		o := &counted{opened: newOpened(at), open: &open}
		c.Forward(relay.Call{To: at, Hello: []byte(hello), ConnectWithin: deadline, AnswerWithin: deadline}, o, new(relay.Counters))
	}})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 40 {
				c, err := net.Dial("tcp", addr)
				if err != nil {
					t.Error(err)
					return
				}
				c.SetDeadline(time.Now().Add(deadline))
				sent := randomBytes(1+(i*40+j)*997%300_000, byte(j))
				go func() {
					c.Write(sent)
					c.(*net.TCPConn).CloseWrite()
				}()
				got, err := io.ReadAll(c)
				if err != nil || !bytes.Equal(got, sent) {
					t.Errorf("%d bytes came back, %v; want the %d that were sent", len(got), err, len(sent))
				}
				c.Close()
			}
		})
	}
	wg.Wait()
	waitFor(t, func() bool { return open.Load() == 0 })
}

type counted struct {
	*opened
	open *atomic.Int64
}

func (c *counted) Ended(relay.End) { c.open.Add(-1) }
