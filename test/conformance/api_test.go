//go:build linux

package conformance

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"
)

// answer is what an API call returned.
type answer struct {
	status int
	header http.Header
	body   []byte
}

func (a answer) String() string { return fmt.Sprintf("%d %.300s", a.status, a.body) }

// code returns the code of a problem, "" if the answer is none.
func (a answer) code() string {
	var problem struct{ Code string }
	_ = json.Unmarshal(a.body, &problem) // another body has no code
	return problem.Code
}

// web makes each call on a connection of its own, so that none lingers in the
// processes whose descriptors are counted.
var web = &http.Client{
	Timeout:   20 * time.Second,
	Transport: &http.Transport{DisableKeepAlives: true},
	CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	},
}

// request makes one call.
func request(method, url, contentType string, body io.Reader) (answer, error) {
	req, err := http.NewRequest(method, url, body)
	if err != nil {
		return answer{}, err
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	caller := web
	if req.URL.Scheme == "https" {
		caller = secured.web
	}
	resp, err := caller.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, b}, err
}

// fields is a JSON object.
type fields map[string]any

// ask makes one call of the router's API; a nil body is none.
func (s *stack) ask(method, path string, body fields) (answer, error) {
	if body == nil {
		return request(method, s.api+path, "", nil)
	}
	b, err := json.Marshal(body)
	if err != nil {
		return answer{}, err
	}
	return request(method, s.api+path, "application/json", bytes.NewReader(b))
}

// call is ask for the test's own goroutine: a call without an answer ends the test.
func (s *stack) call(t testing.TB, method, path string, body fields) answer {
	t.Helper()
	a, err := s.ask(method, path, body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	return a
}

// bindLater binds a target in the background. A call without an answer gives
// one with status 0.
func (s *stack) bindLater(target string) <-chan answer {
	answers := make(chan answer, 1)
	go func() {
		a, err := s.ask(http.MethodPost, "/v1/bindings", fields{"target": target})
		if err != nil {
			a = answer{body: []byte(err.Error())}
		}
		answers <- a
	}()
	return answers
}

// want makes one call and fails the test unless it has the status and, for a
// problem, the code.
func (s *stack) want(t testing.TB, status int, code, method, path string, body fields) answer {
	t.Helper()
	a := s.call(t, method, path, body)
	if a.status != status || a.code() != code {
		t.Fatalf("%s %s %v = %v, want %d %s", method, path, body, a, status, code)
	}
	return a
}

// binding is what these tests read of one.
type binding struct {
	ID           string            `json:"id"`
	Target       string            `json:"target"`
	Proxy        string            `json:"proxy"`
	Address      string            `json:"address"`
	Host         string            `json:"host"`
	Port         int               `json:"port"`
	State        string            `json:"state"`
	CreatedAt    time.Time         `json:"created_at"`
	LastUsedAt   time.Time         `json:"last_used_at"`
	IdleTimeout  string            `json:"idle_timeout"`
	ExpiresAt    *time.Time        `json:"expires_at"`
	Allow        []string          `json:"allow"`
	MaxSessions  int               `json:"max_sessions"`
	Labels       map[string]string `json:"labels"`
	Sessions     int               `json:"sessions"`
	SessionTotal int               `json:"sessions_total"`
	BytesUp      int               `json:"bytes_up"`
	BytesDown    int               `json:"bytes_down"`
	LastError    *struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	} `json:"last_error"`
}

// session is what these tests read of one.
type session struct {
	ID        string `json:"id"`
	BindingID string `json:"binding_id"`
	Target    string `json:"target"`
	Resolved  string `json:"resolved"`
	Proxy     string `json:"proxy"`
	Client    string `json:"client"`
	BytesUp   int    `json:"bytes_up"`
	BytesDown int    `json:"bytes_down"`
}

// decode reads an answer's body.
func decode[T any](t testing.TB, a answer) T {
	t.Helper()
	var v T
	if err := json.Unmarshal(a.body, &v); err != nil {
		t.Fatalf("answer %v: %v", a, err)
	}
	return v
}

// bind maps a target; extra are fields beside it.
func (s *stack) bind(t testing.TB, target string, extra ...fields) binding {
	t.Helper()
	body := fields{"target": target}
	for _, e := range extra {
		maps.Copy(body, e)
	}
	a := s.call(t, http.MethodPost, "/v1/bindings", body)
	if a.status != http.StatusCreated && a.status != http.StatusOK {
		t.Fatalf("bind %v = %v, want a binding", body, a)
	}
	return decode[binding](t, a)
}

// bindings lists them.
func (s *stack) bindings(t testing.TB, query string) []binding {
	t.Helper()
	a := s.want(t, http.StatusOK, "", http.MethodGet, "/v1/bindings"+query, nil)
	return decode[struct{ Bindings []binding }](t, a).Bindings
}

// binding returns one that must be there.
func (s *stack) binding(t testing.TB, id string) binding {
	t.Helper()
	return decode[binding](t, s.want(t, http.StatusOK, "", http.MethodGet, "/v1/bindings/"+id, nil))
}

// awaitGone waits until a binding is not there any more.
func (s *stack) awaitGone(t testing.TB, id string, limit time.Duration) {
	t.Helper()
	eventually(t, limit, func() error { return wantStatus(s.api+"/v1/bindings/"+id, http.StatusNotFound) })
}

// sessions lists those of a binding, of all if id is "".
func (s *stack) sessions(t testing.TB, id string) []session {
	t.Helper()
	path := "/v1/sessions"
	if id != "" {
		path += "?binding=" + id
	}
	return decode[struct{ Sessions []session }](t, s.want(t, http.StatusOK, "", http.MethodGet, path, nil)).Sessions
}

// awaitSessions waits until so many are open.
func (s *stack) awaitSessions(t testing.TB, n int) {
	t.Helper()
	eventually(t, soon, func() error {
		if got := len(s.sessions(t, "")); got != n {
			return fmt.Errorf("%d sessions are open, want %d", got, n)
		}
		return nil
	})
}

// scrape returns the series of a /metrics page with their values.
func scrape(t testing.TB, url string) map[string]string {
	t.Helper()
	a, err := request(http.MethodGet, url+"/metrics", "", nil)
	if err != nil || a.status != http.StatusOK {
		t.Fatalf("GET /metrics = %v, %v, want 200", a, err)
	}
	series := map[string]string{}
	for line := range strings.Lines(string(a.body)) {
		line = strings.TrimSpace(line)
		if at := strings.LastIndexByte(line, ' '); at > 0 && line[0] != '#' {
			series[line[:at]] = line[at+1:]
		}
	}
	return series
}

// awaitMetric waits until a series has the value.
func awaitMetric(t testing.TB, url, series, value string) {
	t.Helper()
	eventually(t, soon, func() error {
		if got := scrape(t, url)[series]; got != value {
			return fmt.Errorf("%s = %q, want %q", series, got, value)
		}
		return nil
	})
}

// outcome is the series that counts sessions that ended so.
func outcome(name string) string { return `ohrouter_sessions_total{outcome="` + name + `"}` }
