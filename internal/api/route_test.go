package api

import (
	"fmt"
	"net/http"
	"testing"

	ohrouter "github.com/ohrouter/oh-router"
)

func TestRouteBind(t *testing.T) {
	for path, want := range map[string]ohrouter.Target{
		"/route/bind/db.internal/3306":     {Host: "db.internal", Port: 3306},
		"/route/bind/DB.internal./3306":    {Host: "db.internal", Port: 3306},
		"/route/bind/127.0.0.1/8080":       {Host: "127.0.0.1", Port: 8080},
		"/route/bind/::1/22":               {Host: "::1", Port: 22},
		"/route/bind/[::1]/22":             {Host: "::1", Port: 22},
		"/route/bind/%5B%3A%3A1%5D/22":     {Host: "::1", Port: 22},
		"/route/bind/b%C3%BCcher.test/443": {Host: "xn--bcher-kva.test", Port: 443},
		"/route/bind/db.internal/3306?x=1": {Host: "db.internal", Port: 3306},
	} {
		for _, method := range []string{"GET", "POST"} {
			fake := oneBinding()
			status, h, body := call(t, serve(t, handler(t, fake)), method+" "+path, "")
			if status != http.StatusOK || h.Get("Content-Type") != "application/json" {
				t.Errorf("%s %s = %d %s %s, want 200 application/json", method, path, status, h.Get("Content-Type"), body)
				continue
			}
			wantJSON(t, path, body, `{"success":true,"data":{"host":"127.0.0.1","port":20007},"code":null,"message":null}`)
			if fake.spec.Target != want {
				t.Errorf("%s %s binds %v, want %v", method, path, fake.spec.Target, want)
			}
		}
	}
}

func TestRouteErrors(t *testing.T) {
	want := map[ohrouter.Code]string{
		ohrouter.TargetDenied: routeError, ohrouter.TargetRefused: routeError, ohrouter.TargetUnreachable: routeError,
		ohrouter.TargetUnresolved: routeError, ohrouter.TargetTimeout: routeError, ohrouter.NoProxy: routeError,
		ohrouter.ProxyUnreachable: routeError, ohrouter.PortsExhausted: bindError, ohrouter.Conflict: bindError,
	}
	fake := oneBinding()
	base := serve(t, handler(t, fake))
	for _, code := range ohrouter.Codes() {
		fake.err = ohrouter.Errorf(code, "so it is")
		status, _, body := call(t, base, "GET /route/bind/a/1", "")
		if status != statusOf(code) {
			t.Errorf("bind that fails with %s = %d, want %d", code, status, statusOf(code))
		}
		word := want[code]
		if word == "" {
			word = unknownError
		}
		wantJSON(t, string(code), body, fmt.Sprintf(`{"success":false,"data":null,"code":%q,"message":"so it is"}`, word))
	}
}

func TestRouteAlwaysEnveloped(t *testing.T) {
	base := serve(t, handler(t, oneBinding()))
	long := "x"
	for len(long) < maxBody+1 {
		long += long
	}
	for _, tt := range []struct {
		what, body string
		want       int
	}{
		{"GET /route/bind/a/0", "", 422},
		{"GET /route/bind/a/65536", "", 422},
		{"GET /route/bind/a/x", "", 422},
		{"GET /route/bind/a%2Fb/1", "", 422},
		{"GET /route/bind/%20/1", "", 422},
		{"GET /route/bind/%00/1", "", 422},
		{"GET /route/bind/%FF/1", "", 422},
		{"GET /route/bind/fe80::1%25eth0/1", "", 422},
		{"GET /route/bind/127.1/1", "", 422},
		{"GET /route/bind/a", "", 404},
		{"GET /route/bind/a/1/2", "", 404},
		{"GET /route/bind//1", "", 404},
		{"GET /route/bind/../1", "", 404},
		{"GET /route/", "", 404},
		{"PUT /route/bind/a/1", "", 405},
		{"POST /route/queryServerBindStat", "", 405},
		{"GET /route/bind/a/1?%zz", "", 400},
		{"POST /route/bind/a/1", long, 413},
	} {
		status, h, body := call(t, base, tt.what, tt.body)
		if status != tt.want || h.Get("Content-Type") != "application/json" {
			t.Errorf("%s = %d %s, want %d application/json", tt.what, status, h.Get("Content-Type"), tt.want)
		}
		var got struct {
			Success       *bool
			Data          any
			Code, Message string
		}
		mustDecode(t, body, &got)
		if got.Success == nil || *got.Success || got.Data != nil || got.Code != unknownError || got.Message == "" {
			t.Errorf("%s = %s, want an envelope of %s", tt.what, body, unknownError)
		}
	}
}

func TestRouteStat(t *testing.T) {
	_, _, body := call(t, serve(t, handler(t, oneBinding())), "GET /route/queryServerBindStat", "")
	wantJSON(t, "stat", body, `{"success":true,"data":[{"routeInfo":{"host":"db.internal","port":3306},
		"bindAddress":{"host":"127.0.0.1","port":20007},"activeChannelCount":2}],"code":null,"message":null}`)
	_, _, body = call(t, serve(t, handler(t, &bindings{})), "GET /route/queryServerBindStat", "")
	wantJSON(t, "stat of nothing", body, `{"success":true,"data":[],"code":null,"message":null}`)
}
