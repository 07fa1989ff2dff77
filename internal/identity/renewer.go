package identity

import (
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
)

// Renewer keeps the certificate of a proxy that [Join] has enrolled good. With
// each certificate comes a new key.
type Renewer struct {
	State       string       // the directory that Join was given
	Credentials *Credentials // those of its files
	Log         *slog.Logger

	ask func(ctx context.Context, e ohrouter.Enrolment) (ohrouter.Certificate, error) // in tests; nil calls the router
}

// Run renews the certificate at two thirds of its life, until ctx ends. While
// that fails it tries again, ever less often, and logs each failure: the
// certificate is good for long enough that somebody can act.
func (r *Renewer) Run(ctx context.Context) {
	failures := 0
	var leaf *x509.Certificate
	var next time.Time
	for {
		changed := r.Credentials.Changed() // before Leaf: a change between the two must not be missed
		if now := r.Credentials.Leaf(); now != leaf {
			leaf, failures = now, 0
			next = earlier(renewAfter(leaf), leaf.NotAfter.Sub(leaf.NotBefore)/20)
		}
		if !time.Now().Before(next) {
			wait := retryAfter(failures)
			if err := r.renew(ctx); err != nil && ctx.Err() == nil {
				failures++
				r.failed(leaf, err, wait)
			}
			next = time.Now().Add(wait) // unless there is another certificate now
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		case <-time.After(min(max(time.Until(next), time.Second), maxSleep)):
		}
	}
}

// earlier returns a time up to d before t: many proxies enrolled at once are
// not to come back at once.
func earlier(t time.Time, d time.Duration) time.Time { return t.Add(-rand.N(max(d, 1))) }

// failed logs that the certificate has not been renewed.
func (r *Renewer) failed(leaf *x509.Certificate, err error, wait time.Duration) {
	level, left := slog.LevelWarn, time.Until(leaf.NotAfter)
	if left < leaf.NotAfter.Sub(leaf.NotBefore)/6 || ohrouter.CodeOf(err) == ohrouter.Unauthorized {
		level = slog.LevelError
	}
	r.Log.Log(context.Background(), level, "certificate not renewed", "identity", r.Credentials.ID().String(),
		"expires_at", leaf.NotAfter, "next_try", wait, "err", err)
}

// renew gets a new certificate, keeps it and puts it to use.
func (r *Renewer) renew(ctx context.Context) error {
	dir := filepath.Join(r.State, folder)
	if leaf := r.Credentials.Leaf(); time.Now().After(leaf.NotAfter) {
		return ohrouter.Errorf(ohrouter.Unauthorized,
			"it ended at %s, so that the router cannot know this machine any more: enrol it again with 'oh-router proxy enroll'", stamp(leaf.NotAfter))
	}
	key, err := newKey()
	if err != nil {
		return fmt.Errorf("make a key: %w", err)
	}
	csr, err := newRequest(key)
	if err != nil {
		return fmt.Errorf("make a certificate request: %w", err)
	}
	ask := r.ask
	if ask == nil {
		ask = r.call
	}
	answer, err := ask(ctx, ohrouter.Enrolment{Request: csr})
	if err != nil {
		return err
	}
	leaf, ca, err := accept(answer, key, fingerprintOf(r.Credentials.current.Load().cas[0]))
	if err != nil {
		return fmt.Errorf("the router's answer is not a new certificate: %w", err)
	}
	if id, was := answer.Proxy, r.Credentials.ID().Name; id != was {
		return fmt.Errorf("the router's answer is a certificate of %s, not of %s", id, was)
	}
	if err := keep(dir, key, leaf, ca); err != nil {
		return err
	}
	r.Credentials.refresh()
	return r.Credentials.Trouble()
}

// call asks the router.
func (r *Renewer) call(ctx context.Context, e ohrouter.Enrolment) (ohrouter.Certificate, error) {
	address, err := readAddress(filepath.Join(r.State, folder))
	if err != nil {
		return ohrouter.Certificate{}, err
	}
	return call(ctx, r.Credentials.HTTPSClient(), address+RenewPath, e)
}
