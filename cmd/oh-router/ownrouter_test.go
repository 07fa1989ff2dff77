package main

import (
	"context"
	"errors"
	"log/slog"
	"net/http/httptest"

	"github.com/ohrouter/oh-router/internal/access"
	"github.com/ohrouter/oh-router/internal/api"
	"github.com/ohrouter/oh-router/internal/identity"
	"github.com/ohrouter/oh-router/internal/registry"
	"github.com/ohrouter/oh-router/internal/store/bolt"
)

// startOwnRouter starts the API of a router with a CA and an admin's token in a
// state directory. Whoever calls it closes it, and then the store.
func startOwnRouter(state string) (*httptest.Server, *bolt.Store, error) {
	ctx := context.Background()
	store, err := bolt.Open(state)
	if err != nil {
		return nil, nil, err
	}
	_, err = identity.Init(state, nil)
	if err == nil {
		_, err = makeAdminToken(ctx, store, state)
	}
	tokens, terr := access.Open(ctx, access.Config{Store: store, Required: true})
	revocations, rerr := identity.LoadRevocations(ctx, store)
	if err = errors.Join(err, terr, rerr); err != nil {
		return nil, nil, err
	}
	authority, err := identity.OpenAuthority(state, store, revocations, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, nil, err
	}
	credentials, err := identity.Open(identity.Config{Files: identity.In(state, identity.Router), Role: identity.Router, Revoked: revocations.Revoked})
	if err != nil {
		return nil, nil, err
	}
	h, err := api.New(api.Config{
		Bindings: registry.New(registry.Config{}), Sessions: noSessions{}, Proxies: sampleProxies,
		Access: tokens, Authority: authority, Revoke: revocations.Revoke,
	})
	if err != nil {
		return nil, nil, err
	}
	s := httptest.NewUnstartedServer(nil)
	s.Config = api.Server(h)
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo) // who does not trust it says so
	s.TLS = credentials.HTTPSServer()
	s.StartTLS()
	return s, store, nil
}
