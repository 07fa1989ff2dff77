//go:build linux

package conformance

import (
	"net/http"
	"testing"
)

// A member that differs in case is another one, and unknown.
func TestFieldNamesAreExact(t *testing.T) {
	t.Parallel()
	s := start(t, flags{})
	b := s.bind(t, serve(t, echo).addr)
	s.want(t, 422, "invalid_request", http.MethodPost, "/v1/bindings", fields{"Target": b.Target})
	s.want(t, 422, "invalid_request", http.MethodPost, "/v1/bindings", fields{"target": b.Target, "TARGET": "127.0.0.1:9"})
	s.want(t, 422, "invalid_request", http.MethodPatch, "/v1/bindings/"+b.ID, fields{"Max_Sessions": 1})
}
