package link

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
)

// bits is bytes that stand in a vector as hex with spaces.
type bits []byte

func (b *bits) UnmarshalText(text []byte) (err error) {
	*b, err = hex.DecodeString(strings.Join(strings.Fields(string(text)), ""))
	return err
}

type frameVector struct {
	Name  string
	Frame string
	Hex   bits
	Exact bool

	Meaning *struct {
		Session, Host string
		Port          uint16
		Park          bool
		Code          ohrouter.Code
		Resolved      string
		Message       string
		Patience      uint32
		Took          uint32
	}
	Error string
}

type vectorError struct {
	Code     ohrouter.Code
	Text     string
	Answered bool
}

type toProxyVector struct {
	Name            string
	Hex             bits
	Session, Target string
	Parked          bool
	Answer, Payload bits
	Error           *vectorError
}

type toRouterVector struct {
	Name     string
	Hex      bits
	Warm     bool
	Parked   bool
	Resolved string
	Payload  bits
	Error    *vectorError
}

// vectors reads a file of testdata. Every field and name counts: a vector that
// says what no test looks at is an error.
func vectors[V any](t testing.TB, file string) []V {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", file))
	if err != nil {
		t.Fatal(err)
	}
	var f struct {
		About   string
		Vectors []V
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	if len(f.Vectors) == 0 {
		t.Fatalf("%s has no vectors", file)
	}
	return f.Vectors
}

func TestVectorsAllUsed(t *testing.T) {
	files, err := filepath.Glob("testdata/*")
	if err != nil {
		t.Fatal(err)
	}
	files = slices.DeleteFunc(files, func(f string) bool { return f == "testdata/fuzz" })
	want := []string{"testdata/frames.json", "testdata/to_proxy.json", "testdata/to_router.json"}
	if !slices.Equal(files, want) {
		t.Errorf("testdata has %q, tests read %q", files, want)
	}
	unique := func(kind string, names []string) {
		slices.Sort(names)
		if n := len(names); len(slices.Compact(names)) != n {
			t.Errorf("%s: a name stands twice", kind)
		}
	}
	var names []string
	good, bad := map[string]int{}, map[string]int{}
	for _, v := range vectors[frameVector](t, "frames.json") {
		names = append(names, v.Frame+v.Name)
		if (v.Meaning == nil) == (v.Error == "") {
			t.Errorf("frame %q has to have either a meaning or an error", v.Name)
		}
		if v.Error == "" {
			good[v.Frame]++
		} else {
			bad[v.Frame]++
		}
	}
	unique("frames.json", names)
	for _, f := range []frameType{typeConnect, typeResponse, typeAck, typeWarm, typeReady} {
		if good[f.String()] == 0 || bad[f.String()] == 0 {
			t.Errorf("%v has %d good and %d bad vectors, want some of both", f, good[f.String()], bad[f.String()])
		}
	}
	names = nil
	for _, v := range vectors[toProxyVector](t, "to_proxy.json") {
		names = append(names, v.Name)
	}
	unique("to_proxy.json", names)
	names = nil
	for _, v := range vectors[toRouterVector](t, "to_router.json") {
		names = append(names, v.Name)
	}
	unique("to_router.json", names)
}

func TestFrameVectors(t *testing.T) {
	for _, v := range vectors[frameVector](t, "frames.json") {
		t.Run(v.Frame+"/"+v.Name, func(t *testing.T) {
			kind, message, _ := messageFor(v.Frame)
			in := &script{rest: append(bytes.Clone(v.Hex), "payload"...)}
			if v.Error != "" {
				in.rest = v.Hex
			}
			err := frames.read(in, kind, message)
			if v.Error != "" {
				if err == nil || !strings.Contains(err.Error(), v.Error) {
					t.Fatalf("read = %v, want an error with %q", err, v.Error)
				}
				return
			}
			if err != nil {
				t.Fatalf("read = %v", err)
			}
			if string(in.rest) != "payload" {
				t.Errorf("left to read: %q, want the payload and all of it", in.rest)
			}
			if want := v.message(); !same(message, want) {
				t.Errorf("read %+v, want %+v", message, want)
			}
			if got := encode(t, kind, v.message()); v.Exact != bytes.Equal(got, v.Hex) {
				t.Errorf("encoded as %x, vector (exact: %v) %x", got, v.Exact, []byte(v.Hex))
			}
		})
	}
}

// messageFor returns a new message of the type with that name.
func messageFor(name string) (frameType, any, bool) {
	switch name {
	case typeConnect.String():
		return typeConnect, new(connectCommand), true
	case typeResponse.String():
		return typeResponse, new(connectResponse), true
	case typeAck.String():
		return typeAck, new(ackCommand), true
	case typeWarm.String():
		return typeWarm, new(warmCommand), true
	case typeReady.String():
		return typeReady, new(warmResponse), true
	}
	return 0, nil, false
}

// message returns the message that the vector means.
func (v frameVector) message() any {
	m := v.Meaning
	switch v.Frame {
	case typeConnect.String():
		return &connectCommand{Session: m.Session, Host: m.Host, Port: m.Port, Park: m.Park}
	case typeResponse.String():
		return &connectResponse{Code: m.Code, Resolved: m.Resolved, Message: m.Message, Patience: m.Patience, Took: m.Took}
	case typeWarm.String():
		return &warmCommand{}
	case typeReady.String():
		return &warmResponse{Code: m.Code, Message: m.Message, Patience: m.Patience}
	}
	return &ackCommand{}
}

func same(a, b any) bool {
	switch a := a.(type) {
	case *connectCommand:
		return *a == *b.(*connectCommand)
	case *connectResponse:
		return *a == *b.(*connectResponse)
	case *warmResponse:
		return *a == *b.(*warmResponse)
	}
	return true
}

func encode(t testing.TB, kind frameType, message any) []byte {
	t.Helper()
	b, err := frames.append(nil, kind, message)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestToProxyVectors(t *testing.T) {
	for _, v := range vectors[toProxyVector](t, "to_proxy.json") {
		for _, step := range []int{0, 1} {
			t.Run(v.Name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { v.run(t, step) }) // in which an answer takes no time
			})
		}
	}
}

func (v toProxyVector) run(t *testing.T, step int) {
	states := newStates()
	conn := &script{rest: v.Hex, step: step}
	a := Acceptor{States: states.States, Patience: 5 * time.Second}
	req, err := a.Accept(t.Context(), conn)
	if err == nil {
		if req.Session != v.Session || req.Target.String() != v.Target || req.Parked != v.Parked {
			t.Errorf("Accept = session %q, target %v, parked %v; want %q, %s, %v", req.Session, req.Target, req.Parked, v.Session, v.Target, v.Parked)
		}
		_, err = req.Accept(t.Context(), resolved)
		defer req.Close()
	}
	if !bytes.Equal(conn.sent.Bytes(), v.Answer) {
		t.Errorf("answer %x, want %x", conn.sent.Bytes(), []byte(v.Answer))
	}
	if v.Error != nil {
		v.Error.check(t, err)
		if conn.closed != 1 {
			t.Errorf("closed %d times, want once", conn.closed)
		}
		states.want(t, 0, 0, 0)
		return
	}
	if err != nil {
		t.Fatalf("Accept = %v", err)
	}
	if !bytes.Equal(conn.rest, v.Payload) {
		t.Errorf("left to read: %x, want %x", conn.rest, []byte(v.Payload))
	}
	states.want(t, 0, 0, 1)
	req.Close()
	states.want(t, 0, 0, 0)
}

func TestToRouterVectors(t *testing.T) {
	for _, v := range vectors[toRouterVector](t, "to_router.json") {
		for _, step := range []int{0, 1} {
			t.Run(v.Name, func(t *testing.T) { v.run(t, step) })
		}
	}
}

func (v toRouterVector) run(t *testing.T, step int) {
	states := newStates()
	conn := &script{rest: v.Hex, step: step}
	l := newLink(conn, states.States)
	var answered bool
	var err error
	var sent []byte
	if v.Warm {
		sent = encode(t, typeWarm, warmCommand{})
		answered, err = l.wait(t.Context())
	}
	if err == nil {
		answered, err = ask(t, t.Context(), l, Want{Session: "s-1", Target: database, Park: v.Parked})
		sent = append(sent, encode(t, typeConnect, connectCommand{Session: "s-1", Host: "db.internal", Port: 3306, Park: v.Parked})...)
		if !v.Parked {
			sent = append(sent, encode(t, typeAck, ackCommand{})...)
		}
	}
	if !bytes.Equal(conn.sent.Bytes(), sent) {
		t.Errorf("sent %x, want %x", conn.sent.Bytes(), sent)
	}
	defer l.Close()
	if v.Error != nil {
		v.Error.check(t, err)
		if answered != v.Error.Answered {
			t.Errorf("answered = %v, want %v", answered, v.Error.Answered)
		}
		l.Close()
		states.want(t, 0, 0, 0)
		return
	}
	if err != nil || !answered {
		t.Fatalf("handshake = %v, %v", answered, err)
	}
	if l.Resolved.String() != v.Resolved {
		t.Errorf("Resolved = %v, want %v", l.Resolved, v.Resolved)
	}
	if !bytes.Equal(conn.rest, v.Payload) {
		t.Errorf("left to read: %x, want %x", conn.rest, []byte(v.Payload))
	}
}

// check fails the test unless err has the code, "" meaning none of ours, and
// the text of the vector.
func (e *vectorError) check(t *testing.T, err error) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), e.Text) {
		t.Fatalf("error %v, want one with %q", err, e.Text)
	}
	want := e.Code
	if want == "" {
		want = ohrouter.Internal
	}
	if got := ohrouter.CodeOf(err); got != want {
		t.Errorf("code of %v = %s, want %s", err, got, want)
	}
}
