package router

import (
	"context"
	"errors"
	"log/slog"
	"syscall"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/relay"
)

// levelOf returns how much an outcome matters. What went as it should is for
// those who look for it.
func levelOf(outcome ohrouter.Outcome) slog.Level {
	switch {
	case ohrouter.Code(outcome).Known():
		return slog.LevelWarn
	case outcome == ohrouter.ClientClosed || outcome == ohrouter.TargetClosed:
		return slog.LevelDebug
	}
	return slog.LevelInfo
}

// log writes one record of the session.
func (s *session) log(level slog.Level, spec ohrouter.Binding, outcome ohrouter.Outcome, err error) {
	log := s.binding.router.cfg.Log.With("session", s.id(), "binding", spec.ID, "target", spec.Target.String(),
		"client", s.client.String(), "outcome", string(outcome), "duration", time.Since(s.start),
		"bytes_up", s.live.AB.Load(), "bytes_down", s.live.BA.Load())
	if err != nil {
		log = log.With("err", err)
	}
	if level == slog.LevelWarn {
		log.Warn("session not set up")
		return
	}
	log.Log(context.Background(), level, "session closed")
}

// outcomeOf names how the relay between the client and a link ended. It is not
// known who reset a link.
func outcomeOf(end relay.End) (outcome ohrouter.Outcome, known bool) {
	switch {
	case end.Err == nil && end.Side == relay.A:
		return ohrouter.ClientClosed, true
	case end.Err == nil:
		return ohrouter.TargetClosed, true
	case end.Side == relay.A:
		return ohrouter.ClientReset, true
	case !errors.Is(end.Err, syscall.ECONNRESET) && !errors.Is(end.Err, syscall.EPIPE):
		return ohrouter.LinkLost, true
	}
	return "", false
}

// whoReset tells who reset a link. A proxy passes a target's reset on as one,
// and the kernel of a proxy that was killed resets its links: a look at the
// proxy tells which it was.
func (s *session) whoReset() ohrouter.Outcome {
	r := s.binding.router
	if proxy, _ := s.link.Peer(); r.cfg.Linker.Up(r.ctx, proxy) {
		return ohrouter.TargetReset
	}
	return ohrouter.LinkLost
}
