package client

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
)

// Bind asks for a binding of the spec's target. It returns when the router
// has checked the target; created is false when the binding existed already.
func (c *Client) Bind(ctx context.Context, spec ohrouter.BindingSpec) (b ohrouter.Binding, created bool, err error) {
	body := bindBody{BindingSpec: spec}
	for _, p := range spec.Allow {
		body.Allow = append(body.Allow, p.String())
	}
	if spec.AllowRequester {
		body.Allow = append(body.Allow, "requester")
	}
	status, err := c.do(ctx, http.MethodPost, "/v1/bindings", body, &b, maxAnswer)
	if err != nil {
		return ohrouter.Binding{}, false, err
	}
	return b, status == http.StatusCreated, c.complete(b)
}

// bindBody is a spec whose allow may have words in it.
type bindBody struct {
	ohrouter.BindingSpec
	Allow []string `json:"allow,omitempty"`
}

// Binding returns one binding, or an error with code [ohrouter.NotFound].
func (c *Client) Binding(ctx context.Context, id string) (b ohrouter.Binding, err error) {
	path, err := pathOf("bindings", id)
	if err != nil {
		return b, err
	}
	if _, err := c.do(ctx, http.MethodGet, path, nil, &b, maxAnswer); err != nil {
		return ohrouter.Binding{}, err
	}
	return b, c.complete(b)
}

// Filter chooses bindings. The zero value chooses all.
type Filter struct {
	Target ohrouter.Target // zero: any
	Labels []string        // "KEY=VALUE": those that have all of them
}

// Bindings returns the bindings that the filter chooses, oldest first,
// draining ones included.
func (c *Client) Bindings(ctx context.Context, f Filter) ([]ohrouter.Binding, error) {
	query := url.Values{}
	if f.Target != (ohrouter.Target{}) {
		query.Set("target", f.Target.String())
	}
	if len(f.Labels) > 0 {
		query["label"] = f.Labels
	}
	return list[ohrouter.Binding](ctx, c, "bindings", query)
}

// Patch changes a binding and returns it as it is then.
func (c *Client) Patch(ctx context.Context, id string, p ohrouter.BindingPatch) (b ohrouter.Binding, err error) {
	path, err := pathOf("bindings", id)
	if err != nil {
		return b, err
	}
	if _, err := c.do(ctx, http.MethodPatch, path, p, &b, maxAnswer); err != nil {
		return ohrouter.Binding{}, err
	}
	return b, c.complete(b)
}

// Unbind releases a binding. Its sessions may go on for the time of drain,
// with 0 they are cut. Unbind does not wait for them.
func (c *Client) Unbind(ctx context.Context, id string, drain time.Duration) error {
	path, err := pathOf("bindings", id)
	if err != nil {
		return err
	}
	if drain != 0 {
		path += "?" + url.Values{"drain": {drain.String()}}.Encode()
	}
	_, err = c.do(ctx, http.MethodDelete, path, nil, nil, 0)
	return err
}

// Sessions returns the open sessions of a binding, of all with "", oldest
// first.
func (c *Client) Sessions(ctx context.Context, bindingID string) ([]ohrouter.Session, error) {
	query := url.Values{}
	if bindingID != "" {
		query.Set("binding", bindingID)
	}
	return list[ohrouter.Session](ctx, c, "sessions", query)
}

// Kill cuts one session: both of its ends are reset.
func (c *Client) Kill(ctx context.Context, sessionID string) error {
	path, err := pathOf("sessions", sessionID)
	if err != nil {
		return err
	}
	_, err = c.do(ctx, http.MethodDelete, path, nil, nil, 0)
	return err
}

// Proxies returns the proxies that the router knows.
func (c *Client) Proxies(ctx context.Context) ([]ohrouter.Proxy, error) {
	return list[ohrouter.Proxy](ctx, c, "proxies", nil)
}

// CreateToken makes a token. Its secret is in the answer, and nowhere else.
func (c *Client) CreateToken(ctx context.Context, spec ohrouter.TokenSpec) (made ohrouter.NewToken, err error) {
	if _, err := c.do(ctx, http.MethodPost, "/v1/tokens", spec, &made, maxAnswer); err != nil {
		return ohrouter.NewToken{}, err
	}
	if made.ID == "" || made.Secret == "" {
		return ohrouter.NewToken{}, c.notAPI("the answer is not a token")
	}
	return made, nil
}

// Tokens returns the tokens that the caller may see, oldest first: all of them
// for an admin.
func (c *Client) Tokens(ctx context.Context) ([]ohrouter.Token, error) {
	return list[ohrouter.Token](ctx, c, "tokens", nil)
}

// RevokeToken ends a token and closes its bindings.
func (c *Client) RevokeToken(ctx context.Context, id string) error {
	path, err := pathOf("tokens", id)
	if err != nil {
		return err
	}
	_, err = c.do(ctx, http.MethodDelete, path, nil, nil, 0)
	return err
}

// Invite asks for an enrolment token for the proxy of a name, good for ttl; 0 is
// the router's default. The token is in the answer, and nowhere else.
func (c *Client) Invite(ctx context.Context, proxy string, ttl time.Duration) (made ohrouter.NewInvitation, err error) {
	path, err := pathOf("proxies", proxy)
	if err != nil {
		return made, err
	}
	in := struct {
		TTL ohrouter.Duration `json:"ttl,omitempty"`
	}{ohrouter.Duration(ttl)}
	if _, err := c.do(ctx, http.MethodPost, path+"/invitations", in, &made, maxAnswer); err != nil {
		return ohrouter.NewInvitation{}, err
	}
	if made.Proxy == "" || made.Token == "" {
		return ohrouter.NewInvitation{}, c.notAPI("the answer is not an enrolment token")
	}
	return made, nil
}

// RevokeCertificate ends all certificates that the proxy of a name has.
func (c *Client) RevokeCertificate(ctx context.Context, proxy string) error {
	path, err := pathOf("proxies", proxy)
	if err != nil {
		return err
	}
	_, err = c.do(ctx, http.MethodDelete, path+"/certificate", nil, nil, 0)
	return err
}

// list gets all of a kind. The answer is never nil without an error.
func list[T any](ctx context.Context, c *Client, kind string, query url.Values) ([]T, error) {
	path := "/v1/" + kind
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	var answer map[string]json.RawMessage
	if _, err := c.do(ctx, http.MethodGet, path, nil, &answer, maxList); err != nil {
		return nil, err
	}
	items := []T{}
	raw, ok := answer[kind]
	if !ok {
		return nil, c.notAPI("the answer has no " + kind)
	}
	if err := json.Unmarshal(raw, &items); err != nil {
		return nil, c.notAPI("the " + kind + " in the answer are malformed: " + err.Error())
	}
	return items, nil
}

// pathOf returns the path of one object.
func pathOf(kind, id string) (string, error) {
	// Servers clean these away and would answer for another path.
	if id == "" || id == "." || id == ".." {
		return "", ohrouter.Errorf(ohrouter.NotFound, "%q is not an id", id)
	}
	return "/v1/" + kind + "/" + url.PathEscape(id), nil
}

// complete tells whether an answer is a binding, and not some other JSON.
func (c *Client) complete(b ohrouter.Binding) error {
	if b.ID == "" || b.Address == "" {
		return c.notAPI("the answer is not a binding")
	}
	return nil
}
