// Package client calls the REST API of a router.
//
// Every error that a call returns is an [ohrouter.Error] with a sentence for a
// person, except when the call's context was cancelled: then [errors.Is] finds
// [context.Canceled]. An error that the router answered has the router's code.
// An error of the call itself has code [ohrouter.Internal] and wraps
// [ErrNoRouter] or [ErrNotAPI].
package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
)

// DefaultServer is where a router listens unless it is told otherwise.
const DefaultServer = "http://127.0.0.1:8080"

// Limits of a call.
const (
	dialTimeout = 5 * time.Second
	maxToken    = 4 << 10
	maxAnswer   = 1 << 20  // of one object, or of an error
	maxList     = 64 << 20 // about 100,000 bindings
)

// Config tells a Client whom to call. The zero value calls a router on this
// machine without credentials.
type Config struct {
	Server    string // base URL of the API; "" is DefaultServer
	Token     string // sent as bearer token; "" sends none
	UserAgent string // "" is "oh-router"
	// TLS are the settings of calls to https://; nil trusts the certificate
	// authorities of this machine. It is not for use with HTTP.
	TLS  *tls.Config
	HTTP *http.Client // nil is one with a dial timeout of 5 s; its redirects are never followed
}

// Client calls one router. It is safe for concurrent use.
type Client struct {
	server string // without a slash at the end
	token  string
	agent  string
	http   *http.Client
}

// New returns a client; it does not call the router yet. An error has code
// [ohrouter.InvalidRequest] and never shows the token.
func New(cfg Config) (*Client, error) {
	server, err := parseServer(cfg.Server)
	if err != nil {
		return nil, err
	}
	if len(cfg.Token) > maxToken {
		return nil, ohrouter.Errorf(ohrouter.InvalidRequest, "the token is %d bytes long: one has at most %d", len(cfg.Token), maxToken)
	}
	if strings.ContainsFunc(cfg.Token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, ohrouter.Errorf(ohrouter.InvalidRequest, "the token has characters that no token has (spaces, line ends or others outside of ASCII)")
	}
	c := &Client{server: server, token: cfg.Token, agent: cfg.UserAgent}
	if c.agent == "" {
		c.agent = "oh-router"
	}
	hc := http.Client{Transport: newTransport(cfg.TLS)}
	if cfg.HTTP != nil {
		hc = *cfg.HTTP
	}
	// The API never redirects. Following would turn a POST into a GET, and
	// tell the user nothing about the wrong address.
	hc.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	c.http = &hc
	return c, nil
}

// TokenInClear tells whether calls show the token to whoever sees the network:
// without TLS, to another machine.
func (c *Client) TokenInClear() bool {
	u, err := url.Parse(c.server)
	if err != nil || u.Scheme == "https" || c.token == "" || u.Hostname() == "localhost" {
		return false
	}
	addr, err := netip.ParseAddr(u.Hostname())
	return err != nil || !addr.IsLoopback()
}

// newTransport returns the default transport with our own dial timeout.
func newTransport(secure *tls.Config) http.RoundTripper {
	if secure == nil {
		secure = &tls.Config{MinVersion: tls.VersionTLS13}
	}
	t := http.Transport{
		TLSClientConfig:     secure,
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: dialTimeout}).DialContext,
		TLSHandshakeTimeout: dialTimeout,
		IdleConnTimeout:     time.Minute,
		ForceAttemptHTTP2:   true,
	}
	return &t
}

// parseServer checks a base URL and returns it without a slash at the end.
func parseServer(s string) (string, error) {
	if s == "" {
		s = DefaultServer
	}
	// Not echoed: what stands before an @ may be a password.
	if strings.Contains(s, "@") {
		return "", ohrouter.Errorf(ohrouter.InvalidRequest, "the server's URL has a user name or a password: put a token into a file instead")
	}
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return "", ohrouter.Errorf(ohrouter.InvalidRequest, "server %.100q is not a URL such as %s", s, DefaultServer)
	}
	if u.RawQuery != "" || u.Fragment != "" {
		return "", ohrouter.Errorf(ohrouter.InvalidRequest, "server %.100q has a query or a fragment: a base URL such as %s has none", s, DefaultServer)
	}
	return strings.TrimRight(u.String(), "/"), nil
}

// do makes one call and decodes the answer into out; with a nil out the
// answer must be empty (204). The status is that of a success.
func (c *Client) do(ctx context.Context, method, path string, in, out any, limit int64) (status int, err error) {
	req, err := c.request(ctx, method, path, in)
	if err != nil {
		return 0, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return 0, c.unanswered(ctx, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		return 0, c.refused(ctx, resp)
	}
	if out == nil && resp.StatusCode == http.StatusNoContent {
		return resp.StatusCode, nil
	}
	if out == nil || mediaType(resp) != "application/json" {
		return 0, c.notAPI("it answers with " + describe(resp))
	}
	body, err := c.read(ctx, resp, limit)
	if err != nil {
		return 0, err
	}
	if err := json.Unmarshal(body, out); err != nil {
		return 0, c.notAPI(fmt.Sprintf("the answer to %s %s is not what was asked for: %v", method, path, err))
	}
	return resp.StatusCode, nil
}

// request builds a call with its headers.
func (c *Client) request(ctx context.Context, method, path string, in any) (*http.Request, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, &ohrouter.Error{Code: ohrouter.InvalidRequest, Message: "the call cannot be written as JSON", Err: err}
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.server+path, body)
	if err != nil {
		return nil, &ohrouter.Error{Code: ohrouter.InvalidRequest, Message: "the call is no HTTP request", Err: err}
	}
	req.Header.Set("Accept", "application/json, application/problem+json")
	req.Header.Set("User-Agent", c.agent)
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	return req, nil
}

// read returns the body of an answer, if it is within the limit.
func (c *Client) read(ctx context.Context, resp *http.Response, limit int64) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return nil, c.unanswered(ctx, err)
	}
	if int64(len(body)) > limit {
		return nil, c.notAPI(fmt.Sprintf("the answer has more than %d MiB", limit>>20))
	}
	return body, nil
}

// mediaType returns the answer's content type without parameters.
func mediaType(resp *http.Response) string {
	t, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil && !errors.Is(err, mime.ErrInvalidMediaParameter) {
		return ""
	}
	return t
}
