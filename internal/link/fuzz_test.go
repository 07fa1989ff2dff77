package link

import (
	"bytes"
	"encoding/binary"
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

func FuzzAcceptor(f *testing.F) {
	for _, v := range vectors[toProxyVector](f, "to_proxy.json") {
		f.Add([]byte(v.Hex), byte(0))
		f.Add([]byte(v.Hex), byte(1))
	}
	states := newStates()
	f.Fuzz(func(t *testing.T, b []byte, step byte) {
		conn := &script{rest: b, step: int(step)}
		a := Acceptor{States: states.States, Patience: 5 * time.Second}
		stands := acceptAll(t, &a, conn)
		conn.checkReads(t, b, frameEnd(b, 2))
		if read := len(b) - len(conn.rest); stands && read != frameEnd(b, 2) {
			t.Errorf("a session stands after %d bytes, want the %d of two frames", read, frameEnd(b, 2))
		}
		if conn.closed != 1 {
			t.Errorf("closed %d times, want once", conn.closed)
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

// acceptAll takes a link from its first byte to its end and tells whether a
// session stood.
func acceptAll(t *testing.T, a *Acceptor, conn *script) bool {
	req, err := a.Accept(t.Context(), conn)
	if err != nil {
		return false
	}
	defer req.Close()
	if again, err := ohrouter.ParseTarget(req.Target.String()); err != nil || again != req.Target {
		t.Errorf("target %v is not canonical: %v, %v", req.Target, again, err)
	}
	checkPrintable(t, req.Session, maxSession)
	stands, err := req.Accept(t.Context(), resolved)
	if err != nil {
		return false
	}
	stands.Close() // it is the caller's
	return true
}

func checkPrintable(t *testing.T, s string, limit int) {
	t.Helper()
	if len(s) > limit || !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		t.Errorf("%q is not fit to be seen, want at most %d printable bytes", s, limit)
	}
}

func FuzzResponse(f *testing.F) {
	for _, v := range vectors[toRouterVector](f, "to_router.json") {
		f.Add([]byte(v.Hex), byte(0), v.Parked)
		f.Add([]byte(v.Hex), byte(1), v.Parked)
	}
	states := newStates()
	f.Fuzz(func(t *testing.T, b []byte, step byte, park bool) {
		conn := &script{rest: b, step: int(step)}
		l := newLink(conn, states.States)
		answered, err := ask(t, t.Context(), l, Want{Session: "s-1", Target: database, Park: park})
		conn.checkReads(t, b, frameEnd(b, 1))
		if read := len(b) - len(conn.rest); answered && read != frameEnd(b, 1) {
			t.Errorf("answered after %d bytes, want the %d of one frame", read, frameEnd(b, 1))
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
