package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	ohrouter "github.com/ohrouter/oh-router"
)

// routePrefix is where every answer, also that to an unknown path, stands in
// an envelope.
const routePrefix = "/route/"

// The codes of envelopes. They are fewer than ours, and older.
const (
	routeError   = "ROUTE_ERROR"   // there is no way to the target
	bindError    = "BIND_ERROR"    // there is no port for it
	unknownError = "UNKNOWN_ERROR" // anything else
)

// envelope is an answer of the calls below /route.
type envelope[T any] struct {
	Success bool    `json:"success"`
	Data    *T      `json:"data"`
	Code    *string `json:"code"`
	Message *string `json:"message"`
}

// noData is what a failure has.
type noData struct{}

// succeeded returns the envelope of data.
func succeeded[T any](data T) envelope[T] { return envelope[T]{Success: true, Data: &data} }

// failed returns the envelope of a problem.
func failed[T any](p *Problem) envelope[T] {
	code := envelopeCode(p.Code)
	return envelope[T]{Code: &code, Message: &p.Detail}
}

// envelopeCode returns the envelope's word for a code.
func envelopeCode(code ohrouter.Code) string {
	switch code {
	case ohrouter.TargetDenied, ohrouter.TargetRefused, ohrouter.TargetUnreachable, ohrouter.TargetUnresolved,
		ohrouter.TargetTimeout, ohrouter.NoProxy, ohrouter.ProxyUnreachable:
		return routeError
	case ohrouter.PortsExhausted, ohrouter.Conflict:
		return bindError
	default:
		return unknownError
	}
}

// hostPort is an address as envelopes show it.
type hostPort struct {
	Host string `json:"host"`
	Port uint16 `json:"port"`
}

// boundTarget is an active binding as envelopes show it.
type boundTarget struct {
	RouteInfo          hostPort `json:"routeInfo"`
	BindAddress        hostPort `json:"bindAddress"`
	ActiveChannelCount int      `json:"activeChannelCount"`
}

type routeBindInput struct {
	Host string `path:"host" doc:"Name or address of the target, as the proxy sees it. An IPv6 address may stand in brackets." example:"db.internal"`
	Port string `path:"port" doc:"Port of the target." example:"3306"`
}

type routeBindOutput struct {
	Status int
	Body   envelope[hostPort]
}

type routeStatOutput struct {
	Body envelope[[]boundTarget]
}

// addRoute adds the calls below /route.
func (a *api) addRoute(h huma.API) {
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		op := operation(method, "/route/bind/{host}/{port}", "route-bind-"+method, "route")
		op.Summary = "Map a target, in short"
		op.Description = "Does what `POST /v1/bindings` does with the target alone, for scripts that have no JSON at hand."
		op.SkipValidateParams = true // or the library would answer without an envelope
		op.Responses = envelopeErrors(h, ohrouter.InvalidRequest, ohrouter.TargetDenied, ohrouter.Conflict,
			ohrouter.TargetRefused, ohrouter.TargetUnreachable, ohrouter.TargetUnresolved, ohrouter.TargetTimeout,
			ohrouter.NoProxy, ohrouter.ProxyUnreachable, ohrouter.PortsExhausted, ohrouter.Draining, ohrouter.Internal)
		huma.Register(h, op, a.routeBind)
	}
	op := operation(http.MethodGet, "/route/queryServerBindStat", "route-stat", "route")
	op.Summary = "List the active bindings, in short"
	op.SkipValidateParams = true
	op.Responses = envelopeErrors(h, ohrouter.Internal)
	huma.Register(h, op, a.routeStat)
}

func (a *api) routeBind(ctx context.Context, in *routeBindInput) (*routeBindOutput, error) {
	b, err := a.bindTarget(ctx, in.Host, in.Port)
	if err != nil {
		p := a.fault(ctx, "bind", err)
		return &routeBindOutput{Status: p.Status, Body: failed[hostPort](p)}, nil
	}
	return &routeBindOutput{
		Status: http.StatusOK,
		Body:   succeeded(hostPort{Host: a.host(ctx), Port: b.Port}),
	}, nil
}

// bindTarget binds a target that is all the call names.
func (a *api) bindTarget(ctx context.Context, host, port string) (ohrouter.Binding, error) {
	t, err := ohrouter.NewTarget(host, port)
	if err != nil {
		return ohrouter.Binding{}, err
	}
	b, _, err := a.bindFor(ctx, ohrouter.BindingSpec{Target: t})
	return b, err
}

func (a *api) routeStat(ctx context.Context, _ *struct{}) (*routeStatOutput, error) {
	list := []boundTarget{}
	who := callerOf(ctx)
	for _, b := range a.Bindings.Bindings() {
		if b.State != ohrouter.BindingActive || !who.SeesBinding(string(b.Owner)) {
			continue
		}
		list = append(list, boundTarget{
			RouteInfo:          hostPort{Host: b.Target.Host, Port: b.Target.Port},
			BindAddress:        hostPort{Host: a.host(ctx), Port: b.Port},
			ActiveChannelCount: b.Sessions,
		})
	}
	return &routeStatOutput{Body: succeeded(list)}, nil
}
