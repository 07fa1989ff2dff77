package link

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	ohrouter "github.com/ohrouter/oh-router"
)

// frameEnd returns where the n-th frame of b ends, going by its length alone;
// -1 when b does not hold it.
func frameEnd(b []byte, n int) int {
	end := 0
	for range n {
		if len(b) < end+headerSize {
			return -1
		}
		end += headerSize + int(binary.BigEndian.Uint16(b[end+2:]))
	}
	if end > len(b) {
		return -1
	}
	return end
}

// checkReads fails the test when more memory was taken at once than a frame
// may have, or a byte was read of what is not the handshake's.
func (s *script) checkReads(t *testing.T, all []byte, handshake int) {
	t.Helper()
	if s.asked > MaxBody {
		t.Errorf("asked for %d bytes at once, want at most %d", s.asked, MaxBody)
	}
	if read := len(all) - len(s.rest); handshake >= 0 && read > handshake {
		t.Errorf("read %d bytes, want at most the %d of the handshake", read, handshake)
	}
}

func FuzzFrame(f *testing.F) {
	for _, v := range vectors[frameVector](f, "frames.json") {
		kind, _, _ := messageFor(v.Frame)
		f.Add(byte(kind), []byte(v.Hex))
	}
	f.Fuzz(func(t *testing.T, kind byte, b []byte) {
		want := frameType(kind)
		_, message, ok := messageFor(want.String())
		if !ok {
			return
		}
		in := &script{rest: b}
		err := frames.read(in, want, message)
		in.checkReads(t, b, frameEnd(b, 1))
		checkTake(t, b, want, message, err)
		if err != nil {
			return
		}
		if read := len(b) - len(in.rest); read != frameEnd(b, 1) {
			t.Errorf("read %d bytes of a frame of %d", read, frameEnd(b, 1))
		}
		_, again, _ := messageFor(want.String())
		if err := frames.read(bytes.NewReader(encode(t, want, message)), want, again); err != nil {
			t.Fatalf("reading what was encoded of %+v: %v", message, err)
		}
		if !same(message, again) {
			t.Errorf("%+v became %+v", message, again)
		}
	})
}

// checkTake checks that a frame is the same to those who do the I/O by
// themselves: message and err are those of reading it.
func checkTake(t *testing.T, b []byte, want frameType, message any, err error) {
	t.Helper()
	_, taken, _ := messageFor(want.String())
	n, terr := frames.take(b, want, taken)
	switch {
	case err == nil && (n != frameEnd(b, 1) || terr != nil || !same(message, taken)):
		t.Errorf("take = %d, %v: %+v; want %d: %+v", n, terr, taken, frameEnd(b, 1), message)
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		if n != 0 || terr != nil {
			t.Errorf("take of a part = %d, %v; want 0, nil", n, terr)
		}
	case err != nil && (n != 0 || terr == nil || terr.Error() != err.Error()):
		t.Errorf("take = %d, %v; want 0, %v", n, terr, err)
	}
}

func FuzzAcceptor(f *testing.F) {
	for _, v := range vectors[toProxyVector](f, "to_proxy.json") {
		f.Add([]byte(v.Hex), byte(0))
		f.Add([]byte(v.Hex), byte(1))
	}
	states := newStates()
	f.Fuzz(func(t *testing.T, b []byte, step byte) {
		conn := &script{rest: b, step: int(step)}
		a := Acceptor{States: states.States, Patience: 5 * time.Second}
		stands, req := acceptAll(t, &a, conn)
		end := frameEnd(b, 2)
		if len(b) > 1 && frameType(b[1]) == typeWarm {
			end = frameEnd(b, 3)
		}
		conn.checkReads(t, b, end)
		if read := len(b) - len(conn.rest); stands && read != end {
			t.Errorf("a session stands after %d bytes, want the %d of the handshake", read, end)
		}
		checkPipelined(t, &a, b, req)
		if conn.closed != 1 {
			t.Errorf("closed %d times, want once", conn.closed)
		}
		if conn.sent.Len() > 0 && conn.sent.Bytes()[1] == byte(typeReady) {
			var m warmResponse
			if err := frames.read(&conn.sent, typeReady, &m); err != nil || m.Code != "" || m.Patience != 5000 {
				t.Errorf("answer %+v, %v; want that the proxy waits", m, err)
			}
		}
		if conn.sent.Len() > 0 {
			var m connectResponse
			if err := frames.read(&conn.sent, typeResponse, &m); err != nil || conn.sent.Len() > 0 || m.Resolved != resolved.String() {
				t.Errorf("answer %+v, then %d bytes, %v; want the address and no more", m, conn.sent.Len(), err)
			}
		}
		if len(a.parked) > 0 {
			t.Errorf("%d sources still have parked links", len(a.parked))
		}
		states.want(t, 0, 0, 0)
	})
}

// acceptAll takes a link from its first byte to its end. It tells whether a
// session stood, and what was asked for; nil if that was not understood.
func acceptAll(t *testing.T, a *Acceptor, conn *script) (stands bool, req *Request) {
	req, err := a.Accept(t.Context(), conn)
	if err != nil {
		return false, nil
	}
	defer req.Close()
	if again, err := ohrouter.ParseTarget(req.Target.String()); err != nil || again != req.Target {
		t.Errorf("target %v is not canonical: %v, %v", req.Target, again, err)
	}
	checkPrintable(t, req.Session, maxSession)
	made, err := req.Accept(t.Context(), resolved)
	if err != nil {
		return false, req
	}
	made.Close() // it is the caller's
	return true, req
}

// pipelined reads a request as those do who do the I/O by themselves, also on a
// link that is to be warm first.
func pipelined(a *Acceptor, b []byte) (r *Request, n int, err error) {
	if r, n, err = a.Pipelined(b, nil); err == nil {
		return r, n, nil
	}
	warm, said, _, err := a.Warm(b, netip.IPv6Loopback())
	if err != nil || warm == nil {
		return nil, said, err
	}
	if r, n, err = a.Pipelined(b[said:], warm); r == nil {
		warm.Close()
	}
	return r, said + n, err
}

// checkPipelined checks that a pipelined request is the same to those who do
// the I/O by themselves.
func checkPipelined(t *testing.T, a *Acceptor, b []byte, want *Request) {
	t.Helper()
	frames := 2
	if len(b) > 1 && frameType(b[1]) == typeWarm {
		frames = 3
	}
	req, n, err := pipelined(a, b)
	switch {
	case req != nil:
		if want == nil || want.Parked || n != frameEnd(b, frames) || req.Session != want.Session || req.Target != want.Target {
			t.Errorf("Pipelined = %d: %q to %v, Accept says %+v", n, req.Session, req.Target, want)
		}
		req.Close()
	case err != nil && !errors.Is(err, ErrNotPipelined):
		t.Errorf("Pipelined = %v, want %v", err, ErrNotPipelined)
	case err == nil && want != nil:
		t.Errorf("Pipelined waits for more of what Accept takes for %v", want.Target)
	case err == nil && n <= len(b):
		t.Errorf("Pipelined of %d bytes waits for %d", len(b), n)
	}
	// Who reads as much as it asks for, and no more, comes to the same.
	for have := 0; ; {
		part, n, perr := pipelined(a, b[:have])
		if part != nil {
			part.Close()
		}
		switch {
		case (part != nil || perr != nil) && (part != nil) != (req != nil):
			t.Errorf("in steps Pipelined = %v, %v; at once %v, %v", part, perr, req, err)
			return
		case part != nil || perr != nil || n > len(b):
			return
		case n <= have:
			t.Errorf("Pipelined of %d bytes asks for %d", have, n)
			return
		}
		have = n
	}
}

func checkPrintable(t *testing.T, s string, limit int) {
	t.Helper()
	if len(s) > limit || !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		t.Errorf("%q is not fit to be seen, want at most %d printable bytes", s, limit)
	}
}

func FuzzResponse(f *testing.F) {
	for _, v := range vectors[toRouterVector](f, "to_router.json") {
		f.Add([]byte(v.Hex), byte(0), v.Parked, v.Warm)
		f.Add([]byte(v.Hex), byte(1), v.Parked, v.Warm)
	}
	states := newStates()
	f.Fuzz(func(t *testing.T, b []byte, step byte, park, warms bool) {
		conn := &script{rest: b, step: int(step)}
		l := newLink(conn, states.States)
		var answered bool
		var err error
		responses := 1
		if warms {
			answered, err = l.wait(t.Context())
		}
		if err == nil {
			if warms {
				responses = 2
			}
			answered, err = ask(t, t.Context(), l, Want{Session: "s-1", Target: database, Park: park})
		}
		end := frameEnd(b, responses)
		conn.checkReads(t, b, end)
		if read := len(b) - len(conn.rest); answered && read != end {
			t.Errorf("answered after %d bytes, want the %d of the handshake", read, end)
		}
		switch {
		case err == nil:
			if !answered || l.Resolved.Port() == 0 || l.Resolved.Addr().Zone() != "" || l.Resolved.Addr().Is4In6() {
				t.Errorf("answered %v with %v", answered, l.Resolved)
			}
		case !ohrouter.CodeOf(err).Known():
			t.Errorf("code %q is made up", ohrouter.CodeOf(err))
		case answered:
			checkPrintable(t, ohrouter.Message(err), maxMessage)
		}
		if takes := l.proxy.patience(); takes <= 0 || takes > time.Minute {
			t.Errorf("patience = %v, want at most a minute", takes)
		}
		l.Close()
		states.want(t, 0, 0, 0)
		if n := l.proxy.links.Load(); n != 0 {
			t.Errorf("%d links open, want 0", n)
		}
	})
}
