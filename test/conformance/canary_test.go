//go:build linux

package conformance

import (
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestNoSecretAnywhere has people put secrets where they do not belong, and
// looks for them in all that is written, answered and listed.
func TestNoSecretAnywhere(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ofRouter, ofProxy := filepath.Join(dir, "router.jsonl"), filepath.Join(dir, "proxy.jsonl")
	s := start(t, flags{
		secured: true, router: []string{"--audit-log", ofRouter, "--log-level", "debug"}, proxy: []string{"--audit-log", ofProxy, "--log-level", "debug"},
	})
	admin := read(t, secured.token)
	var made struct{ ID, Secret string }
	a := s.want(t, http.StatusCreated, "", http.MethodPost, "/v1/tokens", fields{"name": "ci", "role": "user", "targets": []string{"any"}})
	if err := json.Unmarshal(a.body, &made); err != nil {
		t.Fatal(err)
	}
	var invited struct{ Token string }
	if err := json.Unmarshal(s.want(t, http.StatusCreated, "", http.MethodPost, "/v1/proxies/west/invitations", fields{}).body, &invited); err != nil {
		t.Fatal(err)
	}
	secrets := []string{admin, made.Secret, invited.Token}
	said := map[string]string{} // by where

	for i, secret := range secrets {
		for what, change := range map[string]func(*http.Request){
			"path":         func(r *http.Request) { r.URL.Path = "/v1/bindings/" + secret },
			"unknown path": func(r *http.Request) { r.URL.Path = "/" + secret },
			"token's path": func(r *http.Request) { r.Method, r.URL.Path = http.MethodDelete, "/v1/tokens/"+secret },
			"proxy's path": func(r *http.Request) { r.Method, r.URL.Path = http.MethodDelete, "/v1/proxies/"+secret+"/certificate" },
			"bind's path":  func(r *http.Request) { r.URL.Path = "/route/bind/" + secret + "/1" },
			"query":        func(r *http.Request) { r.URL.RawQuery = "token=" + url.QueryEscape(secret) + "&target=" + secret },
			"method":       func(r *http.Request) { r.Method = secret[:20] },
			"host":         func(r *http.Request) { r.Host = secret },
			"origin":       func(r *http.Request) { r.Header.Set("Origin", "https://"+secret) },
			"basic":        func(r *http.Request) { r.SetBasicAuth(secret, secret) },
			"scheme":       func(r *http.Request) { r.Header.Set("Authorization", "Token "+secret) },
			"wrong":        func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+secret+"x") },
			"agent":        func(r *http.Request) { r.Header.Set("User-Agent", secret) },
			"type": func(r *http.Request) {
				r.Method, r.Body = http.MethodPost, body(`{}`)
				r.Header.Set("Content-Type", secret)
			},
			"target": func(r *http.Request) { r.Method, r.Body = http.MethodPost, body(`{"target":"`+secret+`:1"}`) },
			"field":  func(r *http.Request) { r.Method, r.Body = http.MethodPost, body(`{"`+secret+`":1}`) },
			"proxy": func(r *http.Request) {
				r.Method, r.Body = http.MethodPost, body(`{"target":"a:1","proxy":"`+secret+`"}`)
			},
			"name": func(r *http.Request) {
				r.Method, r.URL.Path, r.Body = http.MethodPost, "/v1/tokens", body(`{"name":"`+secret+`","role":"`+secret+`"}`)
			},
			"enrolment": func(r *http.Request) {
				r.Method, r.URL.Path, r.Body = http.MethodPost, "/v1/enroll", body(`{"token":"`+secret+`","csr":"`+secret+`"}`)
			},
		} {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.api+"/v1/bindings", nil)
			if err != nil {
				t.Fatal(err)
			}
			change(r)
			client := secured.web
			if r.Header.Get("Authorization") != "" { // not the admin's
				client = &http.Client{Transport: secured.web.Transport.(bearer).next}
			}
			where := fmt.Sprintf("the answer to secret %d as %s", i, what)
			resp, err := client.Do(r)
			if err != nil {
				t.Fatalf("%s: %v", where, err)
			}
			text, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil {
				t.Fatal(err)
			}
			if said[where] = fmt.Sprint(resp.Header, string(text)); resp.StatusCode < 300 && !slices.Contains([]string{"agent", "query", "origin"}, what) {
				t.Errorf("%s is %d", where, resp.StatusCode)
			}
		}
		for _, address := range []string{s.link, strings.TrimPrefix(s.api, "https://")} { // SNI, and ALPN
			name := strings.ReplaceAll(secret, "_", "-")[:40] + ".example"
			if c, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true, ServerName: name, NextProtos: []string{secret}}); err == nil {
				c.Close()
			}
		}
		for _, args := range [][]string{
			{"bind", secret + ":1"},
			{"unbind", secret},
			{"kill", secret},
			{"bindings", "--server", "http://" + secret},
			{"token", "revoke", secret},
			{"token", "create", secret, "--role", "admin"},
			{"proxy", "revoke", secret},
			{secret},
			{"proxies", "--token-file", secret},
			{"proxies", "--ca-file", secret},
			{"config", "check", secret},
			{"proxy", "--allow", secret, "--listen", secret},
		} {
			r := s.cli(t, args...)
			said[fmt.Sprintf("the output of %s with secret %d", args[0], i)] += r.stdout + r.stderr
		}
	}

	tg := serve(t, echo)
	wantEcho(t, connect(t, s.bind(t, tg.addr).Address))
	for _, path := range []string{"/metrics", "/readyz?verbose", "/v1/tokens", "/v1/proxies", "/v1/bindings", "/v1/sessions", "/openapi.json"} {
		said[path] = s.want(t, http.StatusOK, "", http.MethodGet, path, nil).String()
		said[path] += string(s.call(t, http.MethodGet, path, nil).body)
	}
	if a, err := request(http.MethodGet, "http://"+s.metrics+"/metrics", "", nil); err != nil {
		t.Error(err)
	} else {
		said["the proxy's metrics"] = string(a.body)
	}
	for _, p := range []*process{s.router, s.proxy} {
		said[p.name+"'s arguments"] = read(t, fmt.Sprintf("/proc/%d/cmdline", p.cmd.Process.Pid))
	}
	r := s.cli(t, "token", "create", "out", "--role", "viewer", "--out", filepath.Join(dir, "out.token"))
	wantCode(t, r, 0, "token", "create")
	secrets = append(secrets, read(t, filepath.Join(dir, "out.token")))
	said["the output of token create --out"] = r.stdout + r.stderr
	r = command(t, nil, "ca", "init", "--state", filepath.Join(dir, "ca"), "--invite", "east")
	wantCode(t, r, 0, "ca", "init")
	said["stderr of ca init"] = r.stderr
	secrets = append(secrets, r.stdout, read(t, filepath.Join(dir, "ca", "admin.token")))

	for _, p := range []*process{s.router, s.proxy} {
		p.stop(t)
		said[p.name+"'s log"] = p.log(t)
	}
	said["the router's audit log"], said["the proxy's audit log"] = read(t, ofRouter), read(t, ofProxy)
	for _, dir := range []string{secured.router, secured.proxy} {
		keys, err := filepath.Glob(filepath.Join(dir, "identity", "*"))
		if err != nil || len(keys) == 0 {
			t.Fatalf("%s has the keys %v, %v", dir, keys, err)
		}
		for _, name := range keys {
			if _, key, ok := strings.Cut(read(t, name), "PRIVATE KEY-----\n"); ok {
				secrets = append(secrets, "key:"+key)
			}
		}
	}
	for where, text := range said {
		for i, secret := range secrets {
			part := strings.TrimSpace(secret)[4:24] // the prefix is no secret
			for _, form := range []string{part, strings.ToLower(part), base64.StdEncoding.EncodeToString([]byte(secret[:24]))} {
				if at := strings.Index(text, form); at >= 0 {
					t.Errorf("%s has secret %d: …%q…", where, i, text[max(at-100, 0):min(at+4, len(text))])
					break
				}
			}
		}
	}
	if len(said["the router's audit log"]) < 1000 || len(said["router's log"]) < 1000 || !strings.Contains(said["router's log"], "ohr_…") {
		t.Errorf("the logs do not have what was said:\n%s", said["router's log"])
	}
}

func read(t testing.TB, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

func body(text string) io.ReadCloser { return io.NopCloser(strings.NewReader(text)) }
