//go:build linux

package conformance

import (
	"net/http"
	"regexp"
	"strings"
	"testing"
)

// outcomes are the closed set of how sessions end, beside the codes.
var outcomes = []string{
	"client_closed", "target_closed", "client_reset", "target_reset", "link_lost",
	"killed", "binding_closed", "drained", "source_denied", "session_limit",
}

// codes are the closed set of reasons.
var codes = []string{
	"invalid_request", "unauthorized", "forbidden", "target_denied", "not_found", "conflict", "quota_exceeded",
	"target_refused", "target_unreachable", "target_unresolved", "target_timeout", "no_proxy", "proxy_unreachable",
	"ports_exhausted", "draining", "internal",
}

// wantSeries fails the test unless a page has series with all these names.
func wantSeries(t testing.TB, url string, names ...string) {
	t.Helper()
	series := scrape(t, url)
	for _, name := range names {
		found := false
		for s := range series {
			found = found || s == name || strings.HasPrefix(s, name+"{")
		}
		if !found {
			t.Errorf("%s/metrics has no %s", url, name)
		}
	}
}

func TestMetricNames(t *testing.T) {
	t.Parallel()
	s := start(t, flags{})
	wantEcho(t, connect(t, s.bind(t, serve(t, echo).addr).Address))
	wantSeries(t, s.api, "ohrouter_build_info", "ohrouter_bindings", "ohrouter_ports_free", "ohrouter_sessions",
		"ohrouter_sessions_total", "ohrouter_bytes_total", "ohrouter_session_setup_seconds_bucket",
		"ohrouter_session_setup_seconds_count", "ohrouter_links", "ohrouter_insecure")
	wantSeries(t, "http://"+s.metrics, "ohrouter_build_info", "ohrouter_dial_seconds_bucket", "ohrouter_links", "ohrouter_insecure")
	for series, want := range map[string]string{
		"ohrouter_bindings": "1", "ohrouter_ports_free": "7", "ohrouter_sessions": "1", "ohrouter_session_setup_seconds_count": "1",
		"ohrouter_insecure": "0",
	} {
		awaitMetric(t, s.api, series, want)
	}
}

// Labels come from closed sets: no series for each client, target or path.
func TestMetricLabels(t *testing.T) {
	t.Parallel()
	s := start(t, flags{})
	b := s.bind(t, serve(t, echo).addr)
	wantEcho(t, connect(t, b.Address))
	s.call(t, http.MethodGet, "/v1/bindings/canary", nil)
	s.call(t, http.MethodPost, "/v1/bindings", fields{"target": "canary.invalid:80"})
	known := map[string]bool{}
	for _, o := range append(outcomes, codes...) {
		known[o] = true
	}
	address := regexp.MustCompile(`\d+\.\d+\.\d+\.\d+|canary|:` + portOf(b.Address) + `\b|` + regexp.QuoteMeta(b.ID))
	for _, url := range []string{s.api, "http://" + s.metrics} {
		for series := range scrape(t, url) {
			if address.MatchString(series) {
				t.Errorf("series %s names an address, target or id", series)
			}
			if o, ok := strings.CutPrefix(series, `ohrouter_sessions_total{outcome="`); ok && !known[strings.TrimSuffix(o, `"}`)] {
				t.Errorf("series %s has an outcome that the contract does not know", series)
			}
		}
	}
}

// The page is what scrapers read: text with a TYPE for each family.
func TestMetricsPage(t *testing.T) {
	t.Parallel()
	s := start(t, flags{})
	a := s.want(t, 200, "", http.MethodGet, "/metrics", nil)
	wantType(t, a, "text/plain")
	for family, kind := range map[string]string{
		"ohrouter_sessions_total": "counter", "ohrouter_bytes_total": "counter", "ohrouter_sessions": "gauge",
		"ohrouter_bindings": "gauge", "ohrouter_ports_free": "gauge", "ohrouter_session_setup_seconds": "histogram",
	} {
		if line := "# TYPE " + family + " " + kind + "\n"; !strings.Contains(string(a.body), line) {
			t.Errorf("/metrics has no line %q", line)
		}
	}
}
