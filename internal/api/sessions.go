package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	ohrouter "github.com/ohrouter/oh-router"
)

type listSessionsInput struct {
	Binding string `query:"binding" doc:"Only the sessions of this binding; none if there is no such binding."`
}

type sessionList struct {
	Sessions []ohrouter.Session `json:"sessions" nullable:"false"`
}

type listSessionsOutput struct{ Body sessionList }

type killInput struct {
	ID string `path:"id" doc:"The session's id."`
}

type proxyList struct {
	Proxies []ohrouter.Proxy `json:"proxies" nullable:"false"`
}

type listProxiesOutput struct{ Body proxyList }

// addSessions adds the calls about sessions and proxies.
func (a *api) addSessions(h huma.API) {
	list := operation(http.MethodGet, "/v1/sessions", "list-sessions", "sessions")
	list.Summary = "List open sessions"
	list.Description = "Counts are live: they include what went through until now."
	list.Responses = problems(h, ohrouter.InvalidRequest, ohrouter.Internal)
	huma.Register(h, list, a.listSessions)

	kill := operation(http.MethodDelete, "/v1/sessions/{id}", "kill-session", "sessions")
	kill.Summary = "Cut a session"
	kill.Description = "Client and target see a reset, so that nobody takes a cut stream for a whole one."
	kill.Responses = problems(h, ohrouter.InvalidRequest, ohrouter.NotFound, ohrouter.Internal)
	huma.Register(h, kill, a.kill)

	proxies := operation(http.MethodGet, "/v1/proxies", "list-proxies", "proxies")
	proxies.Summary = "List proxies"
	proxies.Responses = problems(h, ohrouter.InvalidRequest, ohrouter.Internal)
	huma.Register(h, proxies, a.listProxies)
}

func (a *api) listSessions(_ context.Context, in *listSessionsInput) (*listSessionsOutput, error) {
	list := a.Sessions.Sessions(in.Binding)
	if list == nil {
		list = []ohrouter.Session{}
	}
	return &listSessionsOutput{sessionList{list}}, nil
}

func (a *api) kill(ctx context.Context, in *killInput) (*struct{}, error) {
	if err := a.Sessions.Kill(in.ID); err != nil {
		return nil, a.fault(ctx, "kill", err)
	}
	return nil, nil
}

func (a *api) listProxies(context.Context, *struct{}) (*listProxiesOutput, error) {
	list := a.Proxies()
	if list == nil {
		list = []ohrouter.Proxy{}
	}
	return &listProxiesOutput{proxyList{list}}, nil
}
