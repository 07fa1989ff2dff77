package main

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ohrouter/oh-router/internal/config"
	"github.com/ohrouter/oh-router/internal/link"
	"github.com/ohrouter/oh-router/internal/registry"
	"github.com/ohrouter/oh-router/internal/router"
)

// TestReloadNamesWhatHasChanged changes one setting at a time of those that go
// by themselves, and of those that have a key for each part.
func TestReloadNamesWhatHasChanged(t *testing.T) {
	for key, change := range map[string]func(*config.Config){
		"backlog":                           func(c *config.Config) { c.Backlog++ },
		"tls_cert":                          func(c *config.Config) { c.Certificate.Cert = "other" },
		"tls_key":                           func(c *config.Config) { c.Certificate.Key = "other" },
		"tls_ca":                            func(c *config.Config) { c.Certificate.CA = "other" },
		"router.max_connections":            func(c *config.Config) { c.Router.Connections.Max++ },
		"router.max_connections_per_source": func(c *config.Config) { c.Router.Connections.MaxPerSource++ },
	} {
		t.Run(key, func(t *testing.T) {
			var said strings.Builder
			p := &process{level: new(slog.LevelVar), metrics: prometheus.NewRegistry()}
			log, end := newLog(&said, config.JSONLog, p.level)
			defer end()
			p.log = log
			s := &routerServer{
				p: p, registry: registry.New(registry.Config{}), router: router.New(router.Config{Metrics: p.metrics}),
				dialer: link.NewDialer(nil, link.NewStates(p.metrics)),
			}
			p.reload(s, func() (config.Config, error) {
				changed := p.cfg
				change(&changed)
				return changed, nil
			})
			want := fmt.Sprintf(`"keys":[%q]`, key)
			if strings.Count(said.String(), "needs a restart\",\"keys") != 1 || !strings.Contains(said.String(), want) {
				t.Errorf("the log has\n%s\nwant one line of what needs a restart, with %s", said.String(), want)
			}
		})
	}
}
