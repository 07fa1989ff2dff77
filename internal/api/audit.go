package api

import (
	"context"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/audit"
)

// record puts what the caller of ctx has done into the audit log.
func (a *api) record(ctx context.Context, e audit.Entry) {
	e.By = audit.By(ctx)
	a.Audit.Record(e)
}

// recordDenial does so with what the caller was denied, if err is that.
func (a *api) recordDenial(ctx context.Context, err error) {
	switch code := ohrouter.CodeOf(err); code {
	case ohrouter.Unauthorized, ohrouter.Forbidden, ohrouter.QuotaExceeded, ohrouter.TargetDenied:
		a.record(ctx, audit.Entry{Event: audit.CallDenied, Code: code, Reason: err.Error()})
	}
}
