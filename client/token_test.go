package client_test

import (
	"net/netip"
	"strings"
	"testing"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/client"
)

func TestBindForRequester(t *testing.T) {
	c, calls := serve(t, answer(201, "application/json", asJSON(t, testBinding())))
	if _, _, err := c.Bind(t.Context(), ohrouter.BindingSpec{
		Target: testBinding().Target, Allow: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, AllowRequester: true,
	}); err != nil {
		t.Fatal(err)
	}
	if want := `{"target":"db.internal:3306","allow":["10.0.0.0/8","requester"]}`; (*calls)[0].body != want {
		t.Errorf("Bind sends %s, want %s", (*calls)[0].body, want)
	}
}

func TestTokenCalls(t *testing.T) {
	c, calls := serve(t, answer(201, "application/json", `{"id":"t-1","name":"ci","role":"user","ports":"1-2","secret":"ohr_x"}`))
	made, err := c.CreateToken(t.Context(), ohrouter.TokenSpec{
		Name: "ci", Role: ohrouter.User, Targets: []string{"any"}, Ports: &ohrouter.PortRange{Low: 1, High: 2}, MaxBindings: new(0),
	})
	if err != nil || made.ID != "t-1" || made.Secret != "ohr_x" || *made.Ports != (ohrouter.PortRange{Low: 1, High: 2}) {
		t.Errorf("CreateToken() = %+v, %v", made, err)
	}
	if want := `{"name":"ci","role":"user","targets":["any"],"ports":"1-2","max_bindings":0}`; (*calls)[0].body != want {
		t.Errorf("CreateToken sends %s, want %s", (*calls)[0].body, want)
	}
	c, calls = serve(t, answer(200, "application/json", `{"tokens":[{"id":"t-1"},{"id":"t-2"}]}`))
	if list, err := c.Tokens(t.Context()); err != nil || len(list) != 2 || list[1].ID != "t-2" || (*calls)[0].uri != "/v1/tokens" {
		t.Errorf("Tokens() = %+v, %v", list, err)
	}
	c, calls = serve(t, answer(204, "", ""))
	if err := c.RevokeToken(t.Context(), "a/b"); err != nil || (*calls)[0].method != "DELETE" || (*calls)[0].uri != "/v1/tokens/a%2Fb" {
		t.Errorf("RevokeToken() = %v with %+v", err, (*calls)[0])
	}
	if err := c.RevokeToken(t.Context(), ".."); ohrouter.CodeOf(err) != ohrouter.NotFound {
		t.Errorf("RevokeToken(..) = %v, want %s", err, ohrouter.NotFound)
	}
	c, _ = serve(t, answer(201, "application/json", `{"id":"t-1"}`))
	if _, err := c.CreateToken(t.Context(), ohrouter.TokenSpec{Name: "ci"}); err == nil {
		t.Error("CreateToken takes an answer without a secret")
	}
}

func TestTokenInClear(t *testing.T) {
	for server, want := range map[string]bool{
		"http://127.0.0.1:8080": false, "http://[::1]:8080": false, "http://localhost": false, "https://router.example": false,
		"http://router.example": true, "http://10.0.0.5:8080": true, "http://localhost.example": true,
	} {
		c, err := client.New(client.Config{Server: server, Token: "ohr_x"})
		if err != nil || c.TokenInClear() != want {
			t.Errorf("TokenInClear of %s = %v (%v), want %v", server, c.TokenInClear(), err, want)
		}
		if c, _ = client.New(client.Config{Server: server}); c.TokenInClear() {
			t.Errorf("without a token %s is in clear", server)
		}
	}
}

// TestNoTokenInErrors makes calls fail and looks for the token.
func TestNoTokenInErrors(t *testing.T) {
	c, err := client.New(client.Config{Server: "http://127.0.0.1:1", Token: "ohr_canary"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Tokens(t.Context()); err == nil || strings.Contains(err.Error(), "canary") {
		t.Errorf("Tokens() = %v, want an error without the token", err)
	}
}
