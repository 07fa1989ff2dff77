package api

import (
	"context"
	"net/http"
	"slices"

	"github.com/danielgtaylor/huma/v2"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/audit"
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

func (a *api) listSessions(ctx context.Context, in *listSessionsInput) (*listSessionsOutput, error) {
	who := callerOf(ctx)
	list := []ohrouter.Session{}
	for _, id := range a.bindingsSeen(ctx, in.Binding) {
		for _, s := range a.Sessions.Sessions(id) {
			list = append(list, who.Session(s))
		}
	}
	slices.SortStableFunc(list, func(a, b ohrouter.Session) int { return a.StartedAt.Compare(b.StartedAt) })
	return &listSessionsOutput{sessionList{list}}, nil
}

// bindingsSeen returns the ids of the bindings that the caller may know of, or
// that one if it is asked for. Whoever has few bindings is to cost little, also
// where others have many sessions.
func (a *api) bindingsSeen(ctx context.Context, only string) (ids []string) {
	if only != "" {
		if _, err := a.seen(ctx, only); err == nil {
			ids = append(ids, only)
		}
		return ids
	}
	for _, b := range a.Bindings.Bindings() {
		if callerOf(ctx).SeesBinding(string(b.Owner)) {
			ids = append(ids, b.ID)
		}
	}
	return ids
}

func (a *api) kill(ctx context.Context, in *killInput) (*struct{}, error) {
	err := a.killable(ctx, in.ID)
	if err == nil {
		err = a.Sessions.Kill(in.ID)
	}
	if err != nil {
		return nil, a.fault(ctx, "kill", err)
	}
	a.record(ctx, audit.Entry{Event: audit.SessionKilled, Session: in.ID})
	return nil, nil
}

// killable returns nil when the caller may cut a session.
func (a *api) killable(ctx context.Context, id string) error {
	if s, err := a.Sessions.Session(id); err == nil {
		if b, err := a.seen(ctx, s.BindingID); err == nil {
			return callerOf(ctx).Changes(string(b.Owner))
		}
	}
	return ohrouter.Errorf(ohrouter.NotFound, "no open session has the id %.40q", id)
}

func (a *api) listProxies(ctx context.Context, _ *struct{}) (*listProxiesOutput, error) {
	who := callerOf(ctx)
	list := []ohrouter.Proxy{}
	for _, p := range a.Proxies() {
		if p, ok := who.SeesProxy(p); ok {
			list = append(list, p)
		}
	}
	return &listProxiesOutput{proxyList{list}}, nil
}
