package audit

import (
	"context"
	"net/netip"
)

// Caller is who makes a call of the API.
type Caller struct {
	Token, Name string // of the token that was shown; "" none
	From        netip.AddrPort
	Call        string // method and path
}

type callerKey struct{}

// With returns the context of a call that c makes.
func With(ctx context.Context, c Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// By returns who makes the call of a context; the zero Caller when nobody does.
func By(ctx context.Context) Caller {
	c, _ := ctx.Value(callerKey{}).(Caller)
	return c
}
