package api

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/audit"
)

// tokenRequest is the body of a call that makes a token.
type tokenRequest struct {
	Name             string   `json:"name" maxLength:"63" doc:"What it is called: 1 to 63 letters, digits and ._-; no two have the same." example:"ci"`
	Role             string   `json:"role" doc:"What its holder is: admin does everything, user maps what is granted to it and sees only its own, viewer sees everything and changes nothing. The first token is an admin's." example:"user" enum:"admin,user,viewer"`
	TTL              string   `json:"ttl,omitempty" nullable:"true" maxLength:"64" doc:"The token ends this long from now, and its bindings with it. Empty: no end." example:"720h"`
	Targets          []string `json:"targets,omitempty" nullable:"true" maxItems:"256" doc:"What a user may map, as the targets are written in its calls: CIDR:PORTS, HOSTGLOB:PORTS or any. A user needs one." example:"[\"*.db.internal:5432\",\"10.0.0.0/8:443\"]"`
	Proxies          []string `json:"proxies,omitempty" nullable:"true" maxItems:"64" doc:"Names of the proxies that a user may have; the first one is its default. Empty: any."`
	Ports            string   `json:"ports,omitempty" nullable:"true" maxLength:"11" doc:"Mapped ports that a user may have, LOW-HIGH. Empty: any of the router's." example:"20000-20099"`
	MaxTTL           string   `json:"max_ttl,omitempty" nullable:"true" maxLength:"64" doc:"Longest ttl of a user's bindings, and what those get that ask for none. Empty: no limit." example:"8h"`
	MaxBindings      *int     `json:"max_bindings,omitempty" nullable:"true" minimum:"0" maximum:"1000000" doc:"Bindings that a user may have at once. Absent: 100. 0: no limit."`
	MaxSessions      *int     `json:"max_sessions,omitempty" nullable:"true" minimum:"0" maximum:"1000000" doc:"Sessions that a user's bindings may have open at once, together. Absent: 1000. 0: no limit."`
	TargetsPerMinute *int     `json:"targets_per_minute,omitempty" nullable:"true" minimum:"0" maximum:"10000" doc:"Targets that a user has no binding of and may try to bind within a minute. Absent: 60. 0: no limit."`
	CallsPerSecond   *int     `json:"calls_per_second,omitempty" nullable:"true" minimum:"0" maximum:"10000" doc:"Calls of the API that a user may make a second, in the long run; so many for two seconds may come at once. Absent: 20. 0: no limit."`
	Reasons          bool     `json:"reasons,omitempty" doc:"Tell a user why a target cannot be reached and to which address its name leads. Otherwise every reason is target_unreachable."`
}

// spec returns what the request asks for, or each field that is wrong.
func (r *tokenRequest) spec() (ohrouter.TokenSpec, []FieldError) {
	f := fields{at: "body."}
	s := ohrouter.TokenSpec{
		Name: r.Name, Role: ohrouter.Role(r.Role), TTL: ohrouter.Duration(f.duration("ttl", r.TTL, maxDuration)),
		Targets: r.Targets, Proxies: r.Proxies, MaxTTL: ohrouter.Duration(f.duration("max_ttl", r.MaxTTL, maxDuration)),
		MaxBindings: r.MaxBindings, MaxSessions: r.MaxSessions, TargetsPerMinute: r.TargetsPerMinute, CallsPerSecond: r.CallsPerSecond, Reasons: r.Reasons,
	}
	if r.Ports != "" {
		s.Ports = new(ohrouter.PortRange)
		if err := s.Ports.UnmarshalText([]byte(r.Ports)); err != nil {
			f.add("ports", "%s", ohrouter.Message(err))
		}
	}
	return s, f.wrong
}

type createTokenInput struct{ Body tokenRequest }

type createTokenOutput struct{ Body ohrouter.NewToken }

type tokenList struct {
	Tokens []ohrouter.Token `json:"tokens" nullable:"false"`
}

type listTokensOutput struct{ Body tokenList }

type revokeInput struct {
	ID string `path:"id" doc:"The token's id."`
}

// addTokens adds the calls about tokens.
func (a *api) addTokens(h huma.API) {
	create := operation(http.MethodPost, "/v1/tokens", "create-token", "tokens")
	create.Summary = "Make a token"
	create.Description = "The answer has the `secret`, this once: the router keeps its hash alone. On loopback, where no token is needed " +
		"at first, the first one closes the API to everybody who has none; it must be an admin's."
	create.DefaultStatus = http.StatusCreated
	create.Responses = problems(h, ohrouter.InvalidRequest, ohrouter.Conflict, ohrouter.QuotaExceeded, ohrouter.Internal)
	bodyProblems(create.Responses, maxBody)
	huma.Register(h, create, a.createToken)

	list := operation(http.MethodGet, "/v1/tokens", "list-tokens", "tokens")
	list.Summary = "List tokens"
	list.Description = "All of them for an admin; for others the one that makes the call."
	list.Responses = problems(h, ohrouter.InvalidRequest, ohrouter.Internal)
	huma.Register(h, list, a.listTokens)

	revoke := operation(http.MethodDelete, "/v1/tokens/{id}", "revoke-token", "tokens")
	revoke.Summary = "Revoke a token"
	revoke.Description = "It is refused from now on, and its bindings are closed, sessions included, when the call is answered. " +
		"The last token of an admin stays: make another one first."
	revoke.Responses = problems(h, ohrouter.InvalidRequest, ohrouter.NotFound, ohrouter.Conflict, ohrouter.Internal)
	huma.Register(h, revoke, a.revokeToken)
}

func (a *api) createToken(ctx context.Context, in *createTokenInput) (*createTokenOutput, error) {
	who := callerOf(ctx)
	if err := who.ManagesTokens(); err != nil {
		return nil, a.fault(ctx, "create token", err)
	}
	spec, wrong := in.Body.spec()
	if len(wrong) > 0 {
		return nil, invalidFields(http.StatusUnprocessableEntity, wrong)
	}
	made, err := a.Access.Create(ctx, spec)
	if err != nil {
		return nil, a.fault(ctx, "create token", err)
	}
	a.Log.Info("token created", "token", made.ID, "name", made.Name, "role", made.Role, "by", who.Owner())
	a.record(ctx, audit.Entry{
		Event: audit.TokenCreated, Token: made.ID, TokenName: made.Name, Role: string(made.Role), Expires: timeOf(made.ExpiresAt),
	})
	return &createTokenOutput{made}, nil
}

func (a *api) listTokens(ctx context.Context, _ *struct{}) (*listTokensOutput, error) {
	who := callerOf(ctx)
	list := []ohrouter.Token{}
	for _, t := range a.Access.List() {
		if who.SeesToken(t.ID) {
			list = append(list, t)
		}
	}
	return &listTokensOutput{tokenList{list}}, nil
}

func (a *api) revokeToken(ctx context.Context, in *revokeInput) (*struct{}, error) {
	who := callerOf(ctx)
	if err := who.ManagesTokens(); err != nil {
		return nil, a.fault(ctx, "revoke token", err)
	}
	// Not to be stopped half-way by a caller that goes.
	ctx = context.WithoutCancel(ctx)
	token, first, err := a.Access.Bar(in.ID)
	if err != nil {
		return nil, a.fault(ctx, "revoke token", err)
	}
	if first {
		a.Log.Info("token revoked", "token", in.ID, "by", who.Owner())
		a.record(ctx, audit.Entry{Event: audit.TokenRevoked, Token: in.ID, TokenName: token.Name, Role: string(token.Role)})
	}
	// What the token has open is not left so until a slow disk has forgotten it.
	err = a.Bindings.ReleaseOwned(ctx, in.ID)
	if kept := a.Access.Revoke(ctx, in.ID); ohrouter.CodeOf(kept) != ohrouter.NotFound { // else another call was faster
		err = errors.Join(err, kept)
	}
	if err != nil {
		return nil, a.fault(ctx, "revoke token", err)
	}
	return nil, nil
}

// timeOf returns a time that may be none, as the zero Time then.
func timeOf(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return *t
}

// tokenDescriptions says what each field of a token means.
func tokenDescriptions() map[string]string {
	return map[string]string{
		"id":                 "Identifies the token, and the owner of bindings that it makes.",
		"name":               "What it is called.",
		"role":               "What its holder is to the router. All but this and the ids and times is for a user only.",
		"targets":            "Patterns of the targets that may be mapped.",
		"proxies":            "Names of the proxies that may be used; empty: any.",
		"ports":              "Mapped ports that may be had, LOW-HIGH; null: any of the router's.",
		"max_ttl":            "Longest ttl of a binding, and that of those that ask for none; 0s: no limit.",
		"max_bindings":       "Bindings at once; 0: no limit.",
		"max_sessions":       "Sessions of all bindings at once; 0: no limit.",
		"targets_per_minute": "New targets within a minute; 0: no limit.",
		"calls_per_second":   "Calls of the API; 0: no limit.",
		"reasons":            "Whether its holder is told why a target cannot be reached.",
		"created_at":         "When it was made.",
		"expires_at":         "When it ends; null: never.",
		"last_used_at":       "The last call that it was shown with; null: none since the router started.",
	}
}

func newTokenDescriptions() map[string]string {
	texts := tokenDescriptions()
	texts["secret"] = "What its holder shows. It is answered this once and kept nowhere."
	return texts
}
