package identity

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
)

// Where the router's API takes an [ohrouter.Enrolment] and answers with an
// [ohrouter.Certificate].
const (
	EnrolPath = "/v1/enroll" // with a token
	RenewPath = "/v1/renew"  // with a certificate
)

// Limits of a call.
const (
	callTimeout = 20 * time.Second
	maxAnswer   = 64 << 10
)

// parseRouter checks the URL of a router's API and returns it without a slash
// at the end.
func parseRouter(s string) (string, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return "", ohrouter.Errorf(ohrouter.InvalidRequest, "the router's URL has to begin with https://, and a name, as in https://router.example:8443")
	case u.Scheme == "http":
		return "", ohrouter.Errorf(ohrouter.InvalidRequest, "%.100q is not encrypted: certificates are given over https:// alone", s)
	}
	return strings.TrimRight(u.String(), "/"), nil
}

// call posts an enrolment to a router.
func call(ctx context.Context, settings *tls.Config, address string, e ohrouter.Enrolment) (ohrouter.Certificate, error) {
	var answer ohrouter.Certificate
	body, err := json.Marshal(e)
	if err != nil {
		return answer, err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(body))
	if err != nil {
		return answer, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, application/problem+json")
	req.Header.Set("User-Agent", "oh-router")
	client := http.Client{
		Transport: &http.Transport{TLSClientConfig: settings, DisableKeepAlives: true},
		// A token goes to the router that was named, and nowhere else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	defer client.CloseIdleConnections()
	resp, err := client.Do(req)
	if err != nil {
		return answer, unanswered(address, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return answer, unanswered(address, err)
	case len(text) > maxAnswer:
		return answer, strange(address, fmt.Errorf("more than %d KiB", maxAnswer>>10))
	case resp.StatusCode != http.StatusOK:
		return answer, refusal(address, resp.StatusCode, text)
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return answer, strange(address, err)
	}
	return answer, nil
}

// unanswered returns the error of a call that got no answer.
func unanswered(address string, err error) error {
	// What is around the cause has the URL in it for a second time.
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	return fmt.Errorf("call the router at %s: %w", address, Explain(err))
}

// refusal returns the error that a router has answered.
func refusal(address string, status int, text []byte) error {
	var problem struct {
		Code   ohrouter.Code `json:"code"`
		Detail string        `json:"detail"`
	}
	if json.Unmarshal(text, &problem) != nil || !problem.Code.Known() {
		return strange(address, fmt.Errorf("HTTP status %d", status))
	}
	return ohrouter.Errorf(problem.Code, "%.500s", problem.Detail)
}

// strange returns the error of an answer that no router gives.
func strange(address string, why error) error {
	return &ohrouter.Error{
		Code: ohrouter.Internal, Err: why,
		Message: fmt.Sprintf("the answer from %s is not that of an oh-router that enrols proxies", address),
	}
}
