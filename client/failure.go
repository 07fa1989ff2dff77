package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"

	ohrouter "github.com/ohrouter/oh-router"
)

// What can be wrong with a call itself. The errors of calls wrap these.
var (
	ErrNoRouter = errors.New("no answer from a router")
	ErrNotAPI   = errors.New("not the answer of an oh-router API")
)

// unanswered makes the error of a call that got no answer, or only a part.
func (c *Client) unanswered(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return fmt.Errorf("call %s: %w", c.server, context.Canceled)
	}
	// url.Error repeats the URL, which the sentences have already.
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	message := c.whyUnanswered(err)
	return &ohrouter.Error{Code: ohrouter.Internal, Message: message, Err: fmt.Errorf("%w: %w", ErrNoRouter, err)}
}

// whyUnanswered returns the sentence that says what to do.
func (c *Client) whyUnanswered(err error) string {
	op, dialled := errors.AsType[*net.OpError](err)
	dialled = dialled && op.Op == "dial"
	if d, ok := errors.AsType[*net.DNSError](err); ok {
		return fmt.Sprintf("the name %q in %s cannot be resolved: check the address given with --server", d.Name, c.server)
	}
	if errors.Is(err, http.ErrSchemeMismatch) {
		return fmt.Sprintf("%s speaks plain HTTP: write http:// instead of https:// in --server", c.server)
	}
	if h, ok := errors.AsType[x509.HostnameError](err); ok {
		return fmt.Sprintf("the certificate of %s is not for that name (%v): call the router by a name of its certificate with --server, "+
			"or, if 'oh-router ca init' has made its CA, name that with --ca-file: then any of its addresses will do", c.server, h)
	}
	if v, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return fmt.Sprintf("the certificate of %s is not trusted (%v): name the file of the router's CA with --ca-file", c.server, v.Err)
	}
	if e, ok := errors.AsType[*ohrouter.Error](err); ok { // of Config.TLS
		return fmt.Sprintf("the certificate of %s is not trusted: %s", c.server, e.Message)
	}
	if op != nil && op.Op == "remote error" { // what crypto/tls calls a refusal of the other side
		return fmt.Sprintf("%s does not take calls of the API (%s): look at the port in --server, a router's and a proxy's are easily exchanged", c.server, cause(op.Err))
	}
	if isTimeout(err) && !dialled {
		return fmt.Sprintf("%s takes the call, but does not answer in time: is the router overloaded or stopped?", c.server)
	}
	start := "Start it"
	if strings.HasPrefix(c.server, "http://") { // else it has certificates, which 'up' has not
		start = "Start one with 'oh-router up'"
	}
	return fmt.Sprintf("no router answers at %s (%s): is it running? %s, or name another with --server or OH_ROUTER_SERVER", c.server, cause(err), start)
}

// isTimeout tells whether time ran out: the call's or the network's.
func isTimeout(err error) bool {
	if errors.Is(err, context.DeadlineExceeded) {
		return true
	}
	n, ok := errors.AsType[net.Error](err)
	return ok && n.Timeout()
}

// cause returns the innermost reason in few words.
func cause(err error) string {
	if isTimeout(err) {
		return "timed out"
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno.Error()
	}
	return err.Error()
}

// notAPI makes the error of an answer that no router gives.
func (c *Client) notAPI(why string) error {
	return &ohrouter.Error{
		Code:    ohrouter.Internal,
		Message: fmt.Sprintf("%s does not look like an oh-router API (%s): check the address given with --server", c.server, why),
		Err:     ErrNotAPI,
	}
}

// problem is an error answer (RFC 9457) with our code.
type problem struct {
	Title  string        `json:"title"`
	Detail string        `json:"detail"`
	Code   ohrouter.Code `json:"code"`
	Errors []struct {
		Location string `json:"location"`
		Message  string `json:"message"`
	} `json:"errors"`
}

// refused makes the error of an answer that is not a success.
func (c *Client) refused(ctx context.Context, resp *http.Response) error {
	if to := resp.Header.Get("Location"); resp.StatusCode/100 == 3 && to != "" {
		return c.notAPI(fmt.Sprintf("it redirects to %.200s", to))
	}
	if resp.StatusCode == http.StatusBadRequest && !resp.ProtoAtLeast(1, 1) && strings.HasPrefix(c.server, "http://") {
		// What servers of HTTPS made in Go say to whoever speaks HTTP.
		return c.notAPI("it answers as servers do that want https:// instead of http://")
	}
	if mediaType(resp) != "application/problem+json" {
		return c.notAPI("it answers with " + describe(resp))
	}
	body, err := c.read(ctx, resp, maxAnswer)
	if err != nil {
		return err
	}
	var p problem
	if err := json.Unmarshal(body, &p); err != nil || p.Code == "" {
		return c.notAPI(fmt.Sprintf("it answers %s without a code", resp.Status))
	}
	said := p.sentence()
	called := strings.TrimPrefix(resp.Request.URL.String(), c.server)
	if u, err := url.Parse(c.server); err == nil && u.Path != "" && p.Code == ohrouter.NotFound && strings.Count(called, "/") == 2 { // a list is never absent
		said += fmt.Sprintf("; %s has a path, which a router's own URL has not: is it right?", c.server)
	}
	return ohrouter.Errorf(p.Code, "%s", said)
}

// sentence returns what the problem says to a person.
func (p *problem) sentence() string {
	s := p.Detail
	if s == "" {
		s = p.Title
	}
	var fields []string
	for _, e := range p.Errors {
		// An error that the detail quotes already would only repeat it.
		if e.Message == "" || strings.Contains(s, e.Message) {
			continue
		}
		if e.Location != "" {
			e.Message = e.Location + ": " + e.Message
		}
		fields = append(fields, e.Message)
	}
	if len(fields) > 0 {
		s += ": " + strings.Join(fields, "; ")
	}
	return s
}

// describe names an answer that is not ours: its status and what is in it.
func describe(resp *http.Response) string {
	what := mediaType(resp)
	if what == "" {
		what = "no content type"
	}
	return fmt.Sprintf("%s and %s", resp.Status, what)
}
