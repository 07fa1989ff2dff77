package api

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/audit"
)

// maxDrain is the longest that a released binding may wait for its sessions.
const maxDrain = 24 * time.Hour

type bindInput struct{ Body bindRequest }

type bindOutput struct {
	Status   int
	Location string `header:"Location" doc:"Path of the new binding."`
	Body     ohrouter.Binding
}

type bindingOutput struct{ Body ohrouter.Binding }

type listBindingsInput struct {
	Target string   `query:"target" doc:"Only bindings of this target, in any spelling." example:"db.internal:3306"`
	Label  []string `query:"label,explode" doc:"Only bindings with this label, as KEY=VALUE. Repeated: with all of them." example:"team=web"`
}

type bindingList struct {
	Bindings []ohrouter.Binding `json:"bindings" nullable:"false"`
}

type listBindingsOutput struct{ Body bindingList }

type bindingInput struct {
	ID string `path:"id" doc:"The binding's id."`
}

type patchInput struct {
	ID   string `path:"id" doc:"The binding's id."`
	Body patchRequest
}

type releaseInput struct {
	ID    string `path:"id" doc:"The binding's id."`
	Drain string `query:"drain" doc:"How long open sessions may finish, at most 24h; they are cut after it. Default 0s." example:"30s"`
}

// addBindings adds the calls about bindings.
func (a *api) addBindings(h huma.API) {
	const path, one = "/v1/bindings", "/v1/bindings/{id}"

	bind := operation(http.MethodPost, path, "bind", "bindings")
	bind.Summary = "Map a target"
	bind.Description = bindText
	bind.DefaultStatus = http.StatusCreated
	bind.Responses = problems(h, ohrouter.InvalidRequest, ohrouter.TargetDenied, ohrouter.Conflict, ohrouter.QuotaExceeded,
		ohrouter.TargetRefused, ohrouter.TargetUnreachable, ohrouter.TargetUnresolved, ohrouter.TargetTimeout,
		ohrouter.NoProxy, ohrouter.ProxyUnreachable, ohrouter.PortsExhausted, ohrouter.Draining, ohrouter.Internal)
	bodyProblems(bind.Responses, maxBody)
	bind.Responses["200"] = existingBinding(h)
	huma.Register(h, bind, a.bind)

	list := operation(http.MethodGet, path, "list-bindings", "bindings")
	list.Summary = "List bindings"
	list.Responses = problems(h, ohrouter.InvalidRequest, ohrouter.Internal)
	huma.Register(h, list, a.listBindings)

	get := operation(http.MethodGet, one, "get-binding", "bindings")
	get.Summary = "Show a binding"
	get.Responses = problems(h, ohrouter.InvalidRequest, ohrouter.NotFound, ohrouter.Internal)
	huma.Register(h, get, a.getBinding)

	patch := operation(http.MethodPatch, one, "patch-binding", "bindings")
	patch.Summary = "Change a binding"
	patch.Description = "Each field that is given replaces the binding's; one that is absent, null or an empty string stays " +
		"as it is. Open sessions go on. Target, proxy and port cannot be changed: release the binding and bind anew."
	patch.Responses = problems(h, ohrouter.InvalidRequest, ohrouter.NotFound, ohrouter.Conflict, ohrouter.Draining, ohrouter.Internal)
	bodyProblems(patch.Responses, maxBody)
	huma.Register(h, patch, a.patch)

	release := operation(http.MethodDelete, one, "release-binding", "bindings")
	release.Summary = "Release a binding"
	release.Description = "Stops listening and answers at once. Sessions may finish within `drain`; what is left is reset. " +
		"The target can be bound anew meanwhile, on another port."
	release.Responses = problems(h, ohrouter.InvalidRequest, ohrouter.NotFound, ohrouter.Draining, ohrouter.Internal)
	huma.Register(h, release, a.release)
}

func (a *api) bind(ctx context.Context, in *bindInput) (*bindOutput, error) {
	spec, wrong := in.Body.spec(callerOf(ctx).prefixes())
	if len(wrong) > 0 {
		return nil, invalidFields(http.StatusUnprocessableEntity, wrong)
	}
	b, created, err := a.bindFor(ctx, spec)
	if err != nil {
		return nil, a.fault(ctx, "bind", err)
	}
	out := &bindOutput{Status: http.StatusOK, Body: a.shown(ctx, b)}
	if created {
		out.Status = http.StatusCreated
		out.Location = "/v1/bindings/" + url.PathEscape(b.ID)
	}
	return out, nil
}

// bindFor binds for the caller, if that may: nothing is looked up and nobody is
// connected to before that is known.
func (a *api) bindFor(ctx context.Context, spec ohrouter.BindingSpec) (b ohrouter.Binding, created bool, err error) {
	who := callerOf(ctx)
	if err := who.MayBind(spec); err != nil {
		return b, false, err
	}
	spec.Owner = who.Owner()
	if a.AllowRequester {
		spec.DefaultAllow = who.prefixes()
	}
	return a.Bindings.Bind(ctx, spec)
}

func (a *api) listBindings(ctx context.Context, in *listBindingsInput) (*listBindingsOutput, error) {
	match, wrong := in.filter()
	if wrong != nil {
		return nil, invalidFields(http.StatusUnprocessableEntity, []FieldError{*wrong})
	}
	list := []ohrouter.Binding{}
	who := callerOf(ctx)
	for _, b := range a.Bindings.Bindings() {
		if who.SeesBinding(string(b.Owner)) && match(b) {
			list = append(list, a.shown(ctx, b))
		}
	}
	return &listBindingsOutput{bindingList{list}}, nil
}

// filter returns what the query selects, or what is wrong with it.
func (in *listBindingsInput) filter() (match func(ohrouter.Binding) bool, wrong *FieldError) {
	var target ohrouter.Target
	if in.Target != "" {
		var err error
		if target, err = ohrouter.ParseTarget(in.Target); err != nil {
			return nil, &FieldError{"query.target", ohrouter.Message(err)}
		}
	}
	labels := map[string]string{}
	for _, l := range in.Label {
		k, v, ok := strings.Cut(l, "=")
		if !ok || k == "" {
			return nil, &FieldError{"query.label", clip(l) + " is not KEY=VALUE"}
		}
		if old, ok := labels[k]; ok && old != v {
			return func(ohrouter.Binding) bool { return false }, nil // no binding has two values of one label
		}
		labels[k] = v
	}
	return func(b ohrouter.Binding) bool {
		if in.Target != "" && b.Target != target {
			return false
		}
		for k, v := range labels {
			if have, ok := b.Labels[k]; !ok || have != v {
				return false
			}
		}
		return true
	}, nil
}

func (a *api) getBinding(ctx context.Context, in *bindingInput) (*bindingOutput, error) {
	b, err := a.seen(ctx, in.ID)
	if err != nil {
		return nil, a.fault(ctx, "get binding", err)
	}
	return &bindingOutput{a.shown(ctx, b)}, nil
}

// seen returns a binding that the caller may know of. Of one that it may not,
// it learns as much as of one that does not exist.
func (a *api) seen(ctx context.Context, id string) (ohrouter.Binding, error) {
	b, err := a.Bindings.Binding(id)
	hidden := err == nil && !callerOf(ctx).SeesBinding(string(b.Owner))
	if hidden {
		a.record(ctx, audit.Entry{Event: audit.CallDenied, Owner: string(b.Owner), OwnerName: b.OwnerName, Binding: b.ID, Code: ohrouter.NotFound, Reason: "it is another owner's"})
	}
	if hidden || ohrouter.CodeOf(err) == ohrouter.NotFound {
		return ohrouter.Binding{}, ohrouter.Errorf(ohrouter.NotFound, "no binding has the id %.40q", id)
	}
	return b, err
}

// changeable returns nil when the caller may change a binding or end it.
func (a *api) changeable(ctx context.Context, id string) error {
	b, err := a.seen(ctx, id)
	if err != nil {
		return err
	}
	return callerOf(ctx).Changes(string(b.Owner))
}

func (a *api) patch(ctx context.Context, in *patchInput) (*bindingOutput, error) {
	who := callerOf(ctx)
	p, wrong := in.Body.patch(who.prefixes())
	if len(wrong) > 0 {
		return nil, invalidFields(http.StatusUnprocessableEntity, wrong)
	}
	if a.AllowRequester && p.Allow != nil && len(*p.Allow) == 0 {
		p.Allow = new(who.prefixes())
	}
	err := a.changeable(ctx, in.ID)
	if err == nil {
		err = who.MayPatch(p)
	}
	if err != nil {
		return nil, a.fault(ctx, "patch binding", err)
	}
	b, err := a.Bindings.Patch(ctx, in.ID, p)
	if err != nil {
		return nil, a.fault(ctx, "patch binding", err)
	}
	return &bindingOutput{a.shown(ctx, b)}, nil
}

func (a *api) release(ctx context.Context, in *releaseInput) (*struct{}, error) {
	f := fields{at: "query."}
	drain := f.duration("drain", in.Drain, maxDrain)
	if len(f.wrong) > 0 {
		return nil, invalidFields(http.StatusUnprocessableEntity, f.wrong)
	}
	err := a.changeable(ctx, in.ID)
	if err == nil {
		err = a.Bindings.Release(ctx, in.ID, drain)
	}
	if err != nil {
		return nil, a.fault(ctx, "release binding", err)
	}
	return nil, nil
}
