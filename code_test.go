package ohrouter

import (
	"errors"
	"fmt"
	"io"
	"regexp"
	"testing"
)

func TestCodeOf(t *testing.T) {
	refused := &Error{Code: TargetRefused, Message: "dial db:3306", Err: io.EOF}
	tests := []struct {
		name    string
		err     error
		code    Code
		message string
	}{
		{"nil", nil, "", ""},
		{"coded", refused, TargetRefused, "dial db:3306"},
		{"wrapped", fmt.Errorf("bind: %w", refused), TargetRefused, "dial db:3306"},
		{"joined", errors.Join(io.EOF, refused), TargetRefused, "dial db:3306"},
		{"first of two", &Error{Code: ProxyUnreachable, Message: "dial proxy", Err: refused}, ProxyUnreachable, "dial proxy"},
		{"without a code", io.EOF, Internal, "internal error; the server's log has the details"},
		{"with an empty code", &Error{Message: "oops"}, Internal, "oops"},
	}
	for _, tt := range tests {
		if got := CodeOf(tt.err); got != tt.code {
			t.Errorf("%s: CodeOf(%v) = %q, want %q", tt.name, tt.err, got, tt.code)
		}
		if got := Message(tt.err); got != tt.message {
			t.Errorf("%s: Message(%v) = %q, want %q", tt.name, tt.err, got, tt.message)
		}
	}
}

func TestError(t *testing.T) {
	plain := Errorf(NotFound, "no binding %q", "b1")
	if got, want := plain.Error(), `no binding "b1"`; got != want {
		t.Errorf("Error() = %q, want %q", got, want)
	}
	caused := &Error{Code: Internal, Message: "open state", Err: io.ErrUnexpectedEOF}
	if got, want := caused.Error(), "open state: unexpected EOF"; got != want {
		t.Errorf("Error() = %q, want %q", got, want)
	}
	if !errors.Is(caused, io.ErrUnexpectedEOF) {
		t.Errorf("errors.Is(%v, io.ErrUnexpectedEOF) = false, want true", caused)
	}
}

// Codes and outcomes share one metric label, so they must be distinct together.
func TestCodesDistinct(t *testing.T) {
	word := regexp.MustCompile(`^[a-z]+(_[a-z]+)*$`)
	seen := map[string]bool{}
	check := func(s string) {
		t.Helper()
		if seen[s] {
			t.Errorf("%q stands twice among the codes and outcomes", s)
		}
		if !word.MatchString(s) {
			t.Errorf("%q is not in snake case", s)
		}
		seen[s] = true
	}
	for _, c := range Codes() {
		check(string(c))
	}
	for _, o := range Outcomes() {
		check(string(o))
	}
	if got, want := len(Codes()), 16; got != want {
		t.Errorf("len(Codes()) = %d, want %d", got, want)
	}
	if got, want := len(Outcomes()), 10; got != want {
		t.Errorf("len(Outcomes()) = %d, want %d", got, want)
	}
}
