package api

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/audit"
	"github.com/ohrouter/oh-router/internal/audit/audittest"
)

func TestAuditOfProxies(t *testing.T) {
	log, h := audittest.New(t), newHolders(t)
	fake := &authority{answer: ohrouter.Certificate{Proxy: "east", ExpiresAt: epoch}}
	call := serveTLS(t, handler(t, oneBinding(), h.guarded, fake.enrolling, func(c *Config) { c.Audit = log.Log }))
	const enrol = `{"token":"ohe_canary","csr":"x"}`
	call(0, "POST /v1/proxies/east/invitations", `{}`, h.as("admin")...)
	call(0, "POST /v1/proxies/east/invitations", `{}`, h.as("user")...)
	call(0, "POST /v1/enroll", enrol)
	call(7, "POST /v1/renew", `{"csr":"x"}`)
	call(0, "POST /v1/renew", `{"csr":"x"}`)
	call(0, "DELETE /v1/proxies/east/certificate", "", h.as("admin")...)
	fake.err = ohrouter.Errorf(ohrouter.Unauthorized, "used already")
	call(0, "POST /v1/enroll", enrol)
	call(7, "POST /v1/renew", `{"csr":"x"}`)

	got := log.Lines(t, "by_name", "call", "proxy", "expires_at", "code", "reason")
	const at = "2026-05-04T09:30:00Z"
	want := []string{
		"enrolment_made by_name=admin call=POST /v1/proxies/east/invitations proxy=east expires_at=" + at + " code= reason=",
		"call_denied by_name=user call=POST /v1/proxies/east/invitations proxy= expires_at= code=forbidden reason=the token's role is user; proxies are for an admin to invite and revoke",
		"enrolment_used by_name= call=POST /v1/enroll proxy=east expires_at=" + at + " code= reason=",
		"proxy_renewed by_name= call=POST /v1/renew proxy=east expires_at=" + at + " code= reason=",
		"call_denied by_name= call=POST /v1/renew proxy= expires_at= code=unauthorized reason=" + ohrouter.Message(errNoCertificate()),
		"proxy_revoked by_name=admin call=DELETE /v1/proxies/east/certificate proxy=east expires_at= code= reason=",
		"enrolment_refused by_name= call=POST /v1/enroll proxy=east expires_at= code=unauthorized reason=used already",
		"call_denied by_name= call=POST /v1/renew proxy= expires_at= code=unauthorized reason=used already",
	}
	if !slices.Equal(got, want) {
		t.Errorf("the audit log has\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestAudit(t *testing.T) {
	log, h := audittest.New(t), newHolders(t)
	fake, base := shared(t, h, func(c *Config) { c.Audit = log.Log })
	ask := func(name, what, body string, headers ...string) string {
		t.Helper()
		_, _, answer := call(t, base, what, body, append(h.as(name), headers...)...)
		return answer
	}
	ask("", "GET /v1/bindings", "")
	ask("", "GET /v1/bindings", "", "Authorization", "Bearer ohr_notatokenatall")
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, base+"/v1/bindings", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "evil.example" // a page whose name leads here
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	ask("admin", "POST /v1/bindings", `{"target":"db.internal:1"}`, "Origin", "https://evil.example")
	ask("viewer", "POST /v1/bindings", `{"target":"db.internal:1"}`)
	ask("user", "POST /v1/bindings", `{"target":"db.example:1"}`)
	ask("user", "GET /v1/bindings/b-other", "")
	ask("user", "DELETE /v1/sessions/s-user", "")
	ask("user", "GET /metrics", "")
	fake.err = &ohrouter.Error{Code: ohrouter.TargetDenied, Message: "not among the targets"}
	ask("user", "POST /v1/bindings", `{"target":"db.internal:1"}`)
	ask("user", "GET /route/bind/db.internal/1", "")
	fake.err = ohrouter.Errorf(ohrouter.QuotaExceeded, "too many")
	ask("user", "POST /v1/bindings", `{"target":"db.internal:1"}`)
	fake.err = ohrouter.Errorf(ohrouter.TargetRefused, "no denial")
	ask("user", "POST /v1/bindings", `{"target":"db.internal:1"}`)
	var made ohrouter.NewToken
	if err := json.Unmarshal([]byte(ask("admin", "POST /v1/tokens", `{"name":"ci","role":"viewer"}`)), &made); err != nil {
		t.Fatal(err)
	}
	ask("admin", "DELETE /v1/tokens/"+made.ID, "")
	ask("admin", "DELETE /v1/tokens/"+made.Secret, "") // a mistake
	ask("", "GET /"+made.Secret, "")                   // a worse one
	ask("", "GET /livez", "")

	got := log.Lines(t, "by_name", "call", "token", "token_name", "role", "code", "session", "owner", "binding", "count")
	tail := func(s string) string {
		return " token= token_name= role= code=" + s + " session= owner= binding= count="
	}
	want := []string{
		"call_denied by_name= call=GET /v1/bindings" + tail("unauthorized"),
		"call_denied by_name= call=GET /v1/bindings" + tail("forbidden"),
		"call_denied by_name=viewer call=POST /v1/bindings" + tail("forbidden"),
		"call_denied by_name=user call=POST /v1/bindings" + tail("forbidden"),
		"call_denied by_name=user call=GET /v1/bindings/b-other token= token_name= role= code=not_found session= owner=" + h.id["other"] + " binding=b-other count=",
		"session_killed by_name=user call=DELETE /v1/sessions/s-user token= token_name= role= code= session=s-user owner= binding= count=",
		"call_denied by_name=user call=GET /metrics" + tail("forbidden"),
		"call_denied by_name=user call=POST /v1/bindings" + tail("target_denied"),
		"call_denied by_name=user call=GET /route/bind/db.internal/1" + tail("target_denied"),
		"call_denied by_name=user call=POST /v1/bindings" + tail("quota_exceeded"),
		"token_created by_name=admin call=POST /v1/tokens token=" + made.ID + " token_name=ci role=viewer code= session= owner= binding= count=",
		"token_revoked by_name=admin call=DELETE /v1/tokens/" + made.ID + " token=" + made.ID + " token_name=ci role=viewer code= session= owner= binding= count=",
		// What came again, summed.
		"call_denied by_name= call=POST /v1/bindings" + tail("forbidden") + "1",
		"call_denied by_name= call=GET /ohr_…" + tail("unauthorized") + "2",
	}
	if !slices.Equal(got, want) {
		t.Errorf("the audit log has\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if fields := log.Fields(t, audit.CallDenied); !slices.Contains(fields, "from") || !slices.Contains(fields, "reason") {
		t.Errorf("call_denied has %v, want from and reason among them", fields)
	}
}
