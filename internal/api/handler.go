package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/url"
	"path"
	"runtime/debug"
	"time"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/audit"
)

// Limits of a request.
const (
	maxHeader    = 16 << 10
	maxBody      = 64 << 10
	maxDiscarded = 16 << 20 // of a body that is refused
	maxUnread    = 4 << 10  // the same, of a caller that nobody knows

	maxMachineBody = 4 << 10 // of a caller without an API token

	headerTimeout  = 5 * time.Second // for the TLS handshake, and again for each header
	bodyTimeout    = 10 * time.Second
	machineTimeout = 5 * time.Second // for its body
	discardTimeout = time.Second
	answerTimeout  = time.Minute // from the first byte of the answer
	idleTimeout    = 2 * time.Minute
)

// MaxRequest is more than a call of somebody unknown takes on a connection with
// TLS: its header, of which net/http reads 4 KiB more than it says, and its
// body, in records.
const MaxRequest = maxHeader + 4<<10 + maxMachineBody + 4<<10

// Server returns a server for h with the limits that an API in reach of
// strangers needs. A connection has one call at a time, as HTTP/2 would let it
// have hundreds. There is no ReadTimeout and no WriteTimeout, as they would cut
// a bind that waits for a slow target; the handlers of this package limit
// bodies and answers by themselves. ErrorLog is left to the caller.
func Server(h http.Handler) *http.Server {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	return &http.Server{
		Handler:           h,
		Protocols:         &protocols,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
	}
}

// answer notes the status of a response and limits the time it may take.
type answer struct {
	http.ResponseWriter
	status int // 0 until the header is written
}

// Unwrap lets [http.ResponseController] reach the connection.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

func (a *answer) WriteHeader(status int) {
	if a.status == 0 && status >= 200 {
		a.status = status
		// A client that takes nothing must not hold the answer for ever. Not
		// every writer has deadlines; those that matter do.
		_ = http.NewResponseController(a.ResponseWriter).SetWriteDeadline(time.Now().Add(answerTimeout))
	}
	a.ResponseWriter.WriteHeader(status)
}

func (a *answer) Write(b []byte) (int, error) {
	if a.status == 0 {
		a.WriteHeader(http.StatusOK)
	}
	return a.ResponseWriter.Write(b)
}

// observe logs each request at debug level, and turns a panic into an error of
// this request alone.
func observe(log *slog.Logger, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		a := &answer{ResponseWriter: w}
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		defer func() {
			if v := recover(); v != nil {
				if err, ok := v.(error); ok && errors.Is(err, http.ErrAbortHandler) {
					panic(v)
				}
				log.Error("API handler panicked", "path", loggable(r), "panic", v, "stack", string(debug.Stack()))
				if a.status != 0 {
					panic(http.ErrAbortHandler) // half an answer must not look like a whole one
				}
				fail(a, r, problemFor(fmt.Errorf("panic: %v", v)))
			}
			if !log.Enabled(r.Context(), slog.LevelDebug) {
				return
			}
			log.Debug("API request", "method", r.Method, "path", loggable(r), "status", a.status,
				"duration", time.Since(start), "client", r.RemoteAddr)
		}()
		next.ServeHTTP(a, r)
	})
}

// loggable returns a call's path for a log: without tokens that somebody has put
// there, and not much of it.
func loggable(r *http.Request) string {
	return clip(audit.Hide(r.URL.Path[:min(len(r.URL.Path), maxLogged)]))
}

// maxLogged is how much of a path is looked at for a log.
const maxLogged = 1 << 10

// bounded reads the body before anything else is done: within a limit and a
// deadline, and whole, so that a handler never waits for a client. It refuses
// queries that cannot be parsed, which would otherwise count as empty.
func bounded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, p := readBody(w, r)
		if p != nil {
			w.Header().Set("Connection", "close") // or the server would wait for the rest before it answers
			fail(w, r, p)
			discard(w, r)
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		if _, err := url.ParseQuery(r.URL.RawQuery); err != nil {
			fail(w, r, invalid(http.StatusBadRequest, "the query cannot be parsed: %v", err))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// readBody returns the whole body of a request, or what is wrong with it.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, *Problem) {
	if r.Body == nil || r.Body == http.NoBody {
		return nil, nil
	}
	most, within := int64(maxBody), bodyTimeout
	switch {
	case fromMachine(r.URL.Path):
		most, within = maxMachineBody, machineTimeout
	case !callerOf(r.Context()).known:
		most = 0 // what is for everybody takes none
	}
	// It also bounds how long the server looks for the rest of a refused body.
	// The server lifts it when the body has been read, and calls may go on.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(within))
	tooLarge := invalid(http.StatusRequestEntityTooLarge, "the body is longer than %d bytes", most)
	if r.ContentLength > most {
		return nil, tooLarge
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, most+1))
	switch {
	case err != nil:
		return nil, invalid(http.StatusBadRequest, "the body did not arrive whole within %v", within)
	case int64(len(body)) > most:
		return nil, tooLarge
	case !utf8.Valid(body):
		return nil, invalid(http.StatusBadRequest, "the body is not UTF-8")
	}
	return body, nil
}

// discard reads what is left of a refused body behind the answer, for a moment:
// a client that still sends when the server closes sees a reset instead. Of one
// that nobody knows it reads as much as an honest one sends.
func discard(w http.ResponseWriter, r *http.Request) {
	most := int64(maxUnread)
	if callerOf(r.Context()).known {
		most = maxDiscarded
	}
	c := http.NewResponseController(w)
	// Without any of the three the answer is as good as it can be.
	_ = errors.Join(c.EnableFullDuplex(), c.Flush(), c.SetReadDeadline(time.Now().Add(discardTimeout)))
	// It tells net/http to let the answer arrive before it closes.
	rest := http.MaxBytesReader(innermost(w), r.Body, most)
	// The buffers of io.Discard are larger than all that an unknown caller gets.
	_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{rest}, make([]byte, 512))
	_ = c.SetReadDeadline(time.Unix(1, 0)) // or the server would read on
}

// innermost returns the writer of net/http.
func innermost(w http.ResponseWriter) http.ResponseWriter {
	for {
		outer, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return w
		}
		w = outer.Unwrap()
	}
}

// known answers what mux would answer with a text or a redirect: unknown
// paths, also those that are not in their shortest spelling, and methods that
// a path does not have. It says where those that exist are found.
func known(mux *http.ServeMux, found string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p := r.URL.Path; p != path.Clean(p) && p != path.Clean(p)+"/" {
			fail(w, r, noSuchPath(found))
			return
		}
		h, pattern := mux.Handler(r)
		if pattern != "" {
			mux.ServeHTTP(w, r)
			return
		}
		refusal := &header{h: http.Header{}}
		h.ServeHTTP(refusal, r)
		if refusal.status != http.StatusMethodNotAllowed {
			fail(w, r, noSuchPath(found))
			return
		}
		allow := refusal.h.Get("Allow")
		w.Header().Set("Allow", allow)
		fail(w, r, invalid(http.StatusMethodNotAllowed, "%.20s does not fit this path; it has %s", r.Method, allow))
	})
}

func noSuchPath(found string) *Problem {
	return problemFor(ohrouter.Errorf(ohrouter.NotFound, "no such path; %s", found))
}

// header is a response of which only status and header count.
type header struct {
	h      http.Header
	status int
}

func (r *header) Header() http.Header         { return r.h }
func (r *header) WriteHeader(status int)      { r.status = status }
func (r *header) Write(b []byte) (int, error) { return len(b), nil }

// speakJSON refuses bodies that say they are something else, and takes no
// wishes for another format than JSON.
func speakJSON(ctx huma.Context, next func(huma.Context)) {
	r, w := humago.Unwrap(ctx)
	if ct := r.Header.Get("Content-Type"); ct != "" && ctx.Operation().RequestBody != nil {
		if t, _, err := mime.ParseMediaType(ct); err != nil || t != "application/json" {
			fail(w, r, invalid(http.StatusUnsupportedMediaType, "Content-Type must be application/json, not %.100q", ct))
			return
		}
		r.Header.Set("Content-Type", "application/json")
	}
	r.Header.Del("Accept")
	next(ctx)
}

// jsonFormat reads and writes bodies. Numbers that no float64 holds are left
// to validation, as they are JSON; a client that has gone is no error.
func jsonFormat() huma.Format {
	return huma.Format{
		Marshal: func(w io.Writer, v any) error {
			b, err := encode(v)
			if err == nil {
				_, _ = w.Write(b)
			}
			return err
		},
		Unmarshal: func(data []byte, v any) error {
			if _, ok := v.(*any); !ok || !json.Valid(data) {
				return json.Unmarshal(data, v)
			}
			d := json.NewDecoder(bytes.NewReader(data))
			d.UseNumber()
			return d.Decode(v)
		},
	}
}

// encode returns v as one line of JSON.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return b.Bytes(), err
}
