package api

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/access"
	"github.com/ohrouter/oh-router/internal/audit"
)

// Limits of what an answer repeats of a bad request.
const (
	maxFieldErrors = 10
	maxRepeated    = 256
)

// Problem is an error as RFC 9457 shapes it, with the code that callers branch
// on.
type Problem struct {
	Type   string        `json:"type"`
	Title  string        `json:"title"`
	Status int           `json:"status"`
	Detail string        `json:"detail"`
	Code   ohrouter.Code `json:"code"`
	Errors []FieldError  `json:"errors,omitempty"`

	challenge string // of a call without the credentials or rights that it needs
	wait      int    // for how many seconds the same call will not do; 0 not known
}

// FieldError is what is wrong with one part of a request.
type FieldError struct {
	Location string `json:"location"`
	Message  string `json:"message"`
}

// Error returns the detail.
func (p *Problem) Error() string { return p.Detail }

// GetStatus returns the HTTP status.
func (p *Problem) GetStatus() int { return p.Status }

// ContentType returns the media type of problems.
func (p *Problem) ContentType(string) string { return problemType }

// GetHeaders returns the header that belongs to the problem.
func (p *Problem) GetHeaders() http.Header {
	h := http.Header{}
	if p.challenge != "" {
		h.Set("Www-Authenticate", p.challenge)
	}
	if p.wait > 0 {
		h.Set("Retry-After", strconv.Itoa(p.wait))
	}
	return h
}

// challenge makes p one that says which credentials the API takes (RFC 6750).
func challenge(p *Problem, shown bool) *Problem {
	p.challenge = `Bearer realm="oh-router"`
	switch {
	case p.Code == ohrouter.Forbidden:
		p.challenge += `, error="insufficient_scope"`
	case shown:
		p.challenge += `, error="invalid_token"`
	}
	return p
}

const problemType = "application/problem+json"

// statusOf is the one place where codes become HTTP statuses. It gives
// invalid_request the status of a wrong value; what is wrong with a request as
// such has its own, see invalid.
func statusOf(code ohrouter.Code) int {
	switch code {
	case ohrouter.InvalidRequest:
		return http.StatusUnprocessableEntity
	case ohrouter.Unauthorized:
		return http.StatusUnauthorized
	case ohrouter.Forbidden, ohrouter.TargetDenied:
		return http.StatusForbidden
	case ohrouter.NotFound:
		return http.StatusNotFound
	case ohrouter.Conflict:
		return http.StatusConflict
	case ohrouter.QuotaExceeded:
		return http.StatusTooManyRequests
	case ohrouter.TargetRefused, ohrouter.TargetUnreachable, ohrouter.TargetUnresolved:
		return http.StatusBadGateway
	case ohrouter.TargetTimeout:
		return http.StatusGatewayTimeout
	case ohrouter.NoProxy, ohrouter.ProxyUnreachable, ohrouter.PortsExhausted, ohrouter.Draining:
		return http.StatusServiceUnavailable
	default:
		return http.StatusInternalServerError
	}
}

// newProblem returns a problem without details of fields. What it repeats of a
// call ends in logs of others: a token is hidden.
func newProblem(status int, code ohrouter.Code, detail string) *Problem {
	return &Problem{Type: "about:blank", Title: http.StatusText(status), Status: status, Detail: audit.Hide(detail), Code: code}
}

// problemFor returns the problem that shows err to a caller.
func problemFor(err error) *Problem {
	code := ohrouter.CodeOf(err)
	p := newProblem(statusOf(code), code, ohrouter.Message(err))
	if w, ok := errors.AsType[access.Wait](err); ok {
		p.wait = w.Seconds()
	}
	return p
}

// invalid returns the problem of a request that is wrong as such.
func invalid(status int, format string, args ...any) *Problem {
	return newProblem(status, ohrouter.InvalidRequest, fmt.Sprintf(format, args...))
}

// invalidFields returns the problem of a request with wrong values. There must
// be one at least.
func invalidFields(status int, errs []FieldError) *Problem {
	detail := errs[0].Location + ": " + errs[0].Message
	if n := len(errs) - 1; n > 0 {
		detail += fmt.Sprintf(" (and %d more)", n)
	}
	p := newProblem(status, ohrouter.InvalidRequest, detail)
	p.Errors = errs[:min(len(errs), maxFieldErrors)]
	for i, e := range p.Errors {
		p.Errors[i] = FieldError{Location: audit.Hide(e.Location), Message: audit.Hide(e.Message)}
	}
	return p
}

// fault returns the problem that shows the caller what it may know of err, and
// records a denial. What the caller may not know, and what is a fault of ours,
// is logged.
func (a *api) fault(ctx context.Context, doing string, err error) *Problem {
	a.recordDenial(ctx, err)
	return a.told(ctx, doing, err)
}

// told does what fault does for an error that is recorded already.
func (a *api) told(ctx context.Context, doing string, err error) *Problem {
	who := callerOf(ctx)
	all, told := who.Told(err)
	p := problemFor(told)
	switch {
	case p.Code == ohrouter.Internal && ctx.Err() == nil:
		a.Log.Error("API call failed", "call", doing, "owner", who.Owner(), "err", err)
	case !all:
		a.Log.Info("reason not told", "call", doing, "owner", who.Owner(), "code", ohrouter.CodeOf(err), "err", err)
	}
	if p.Code == ohrouter.Unauthorized || p.Code == ohrouter.Forbidden {
		p = challenge(p, true)
	}
	return p
}

// fail answers with a problem, in an envelope where the calls have one.
func fail(w http.ResponseWriter, r *http.Request, p *Problem) {
	var body any = p
	contentType := problemType
	if strings.HasPrefix(r.URL.Path, routePrefix) {
		body, contentType = failed[noData](p), "application/json"
	}
	maps.Copy(w.Header(), p.GetHeaders())
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(p.Status)
	// Problems always encode, and a client that has gone is no fault.
	b, _ := encode(body)
	_, _ = w.Write(b)
}

// problemOf makes problems of the library's own errors. These repeat the
// values that a caller sent; a problem says where they stand.
func problemOf(_ huma.Context, _ string, v any) (any, error) {
	m, ok := v.(*huma.ErrorModel)
	if !ok {
		return v, nil
	}
	if len(m.Errors) == 0 {
		return invalid(m.Status, "%s", m.Detail), nil
	}
	errs := make([]FieldError, len(m.Errors))
	for i, e := range m.Errors {
		errs[i] = FieldError{Location: clip(e.Location), Message: clip(e.Message)}
	}
	return invalidFields(m.Status, errs), nil
}

// clip returns the beginning of a foreign text.
func clip(s string) string {
	if len(s) <= maxRepeated {
		return s
	}
	return strings.ToValidUTF8(s[:maxRepeated], "") + "…"
}
