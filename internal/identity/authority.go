package identity

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
)

// The life of an enrolment token.
const (
	DefaultInvitation = time.Hour
	MaxInvitation     = 30 * 24 * time.Hour
)

// Authority is the CA that [Init] has made, at work in a router: it invites
// proxies, signs their certificates, and renews the router's own. It is safe for
// concurrent use.
type Authority struct {
	dir         string
	ca          *issuer
	trust       *trust
	store       Store
	revocations *Revocations
	log         *slog.Logger
}

// OpenAuthority opens the CA of a state directory. A router's certificate that
// is due is renewed first.
func OpenAuthority(state string, store Store, revocations *Revocations, log *slog.Logger) (*Authority, error) {
	dir := filepath.Join(state, folder)
	ca, err := loadIssuer(filepath.Join(dir, authorityFile))
	if err != nil {
		return nil, err
	}
	if _, err := ca.equip(dir, hosts{}); err != nil {
		return nil, err
	}
	return &Authority{
		dir: dir, ca: ca, trust: newTrust([]*x509.Certificate{ca.cert}),
		store: store, revocations: revocations, log: log,
	}, nil
}

// Run renews the router's certificate when it is due, until ctx ends. It
// changes the file: the [Credentials] of the router follow.
func (a *Authority) Run(ctx context.Context) {
	for failures := 0; ; {
		leaf, err := a.ca.equip(a.dir, hosts{})
		wait := retryAfter(failures)
		if err == nil {
			failures, wait = 0, time.Until(renewAfter(leaf))
		} else {
			failures++
			a.log.Error("router's certificate not renewed", "err", err, "next_try", wait)
		}
		if !sleep(ctx, wait) {
			return
		}
	}
}

// Invite makes an enrolment token with which one machine becomes the proxy of
// a name, within ttl; 0 is [DefaultInvitation]. The token is kept nowhere.
func (a *Authority) Invite(ctx context.Context, proxy string, ttl time.Duration) (ohrouter.NewInvitation, error) {
	if err := CheckName(proxy); err != nil {
		return ohrouter.NewInvitation{}, err
	}
	if ttl == 0 {
		ttl = DefaultInvitation
	}
	if ttl < 0 || ttl > MaxInvitation {
		return ohrouter.NewInvitation{}, ohrouter.Errorf(ohrouter.InvalidRequest, "an enrolment token cannot be good for %v: more than 0, and %v at most", ttl, MaxInvitation)
	}
	t, now := newToken(fingerprintOf(a.ca.cert)), time.Now().UTC()
	i := Invitation{Hash: t.hash(), Proxy: proxy, CreatedAt: now, ExpiresAt: now.Add(ttl)}
	if err := a.store.AddInvitation(ctx, i); err != nil {
		return ohrouter.NewInvitation{}, fmt.Errorf("invite %s: %w", proxy, err)
	}
	return ohrouter.NewInvitation{Proxy: proxy, Token: t.text(), ExpiresAt: i.ExpiresAt}, nil
}

// Enrol gives the machine that has a token a certificate. Who it is, the token
// says alone. The token is spent before the certificate is made, durably: a
// crash may waste one, and never doubles one. The error has [ErrTokenUsed],
// [ErrTokenExpired], [ErrTokenUnknown] or [ErrRevoked] in its chain where that
// is why; the answer then still names the proxy, if the token does.
func (a *Authority) Enrol(ctx context.Context, e ohrouter.Enrolment) (ohrouter.Certificate, error) {
	t, err := parseToken(e.Token)
	if err != nil {
		return ohrouter.Certificate{}, err
	}
	// A mistake in the request must not cost the token.
	key, err := request(e)
	if err != nil {
		return ohrouter.Certificate{}, err
	}
	now := time.Now().UTC()
	i, err := a.store.UseInvitation(ctx, t.hash(), now)
	if errors.Is(err, ErrTokenUnknown) {
		return ohrouter.Certificate{}, tokenError(err, "this router knows no such enrolment token: look whether it is this router's, or make another one")
	}
	if err != nil {
		return ohrouter.Certificate{}, fmt.Errorf("use an enrolment token: %w", err)
	}
	spent := ohrouter.Certificate{Proxy: i.Proxy}
	at, revoked := a.revocations.last(i.Proxy)
	switch {
	case !i.UsedAt.IsZero():
		return spent, tokenError(ErrTokenUsed,
			"the enrolment token for %s was used at %s already: if that was not you, revoke %s; then make another token", i.Proxy, stamp(i.UsedAt), i.Proxy)
	case !i.open(now):
		return spent, tokenError(ErrTokenExpired, "the enrolment token for %s was good until %s: make another one", i.Proxy, stamp(i.ExpiresAt))
	case revoked && !i.CreatedAt.After(at):
		return spent, tokenError(ErrRevoked, "the enrolment token for %s was made before %s was revoked: make another one", i.Proxy, i.Proxy)
	}
	return a.sign(i.Proxy, key, at)
}

// Renew gives a proxy that has proved who it is by leaf, the certificate of its
// connection, one for another key. The error has [ErrRevoked] in its chain if
// that is why not.
func (a *Authority) Renew(leaf *x509.Certificate, e ohrouter.Enrolment) (ohrouter.Certificate, error) {
	id, err := Of(leaf)
	if err != nil {
		return ohrouter.Certificate{}, err
	}
	at, _ := a.revocations.last(id.Name)
	// The connection may be older than what has ended the certificate.
	state := tls.ConnectionState{Version: tls.VersionTLS13, PeerCertificates: []*x509.Certificate{leaf}}
	if err := a.trust.check(state, demand{role: Proxy, usage: x509.ExtKeyUsageClientAuth}, a.revocations.Revoked); err != nil {
		return ohrouter.Certificate{}, err
	}
	key, err := request(e)
	if err != nil {
		return ohrouter.Certificate{}, err
	}
	return a.sign(id.Name, key, at)
}

// sign makes the certificate of a proxy whose right to it was checked when it
// had last been revoked at that time; zero for never. A revocation since then
// must not be outlived.
func (a *Authority) sign(proxy string, key crypto.PublicKey, at time.Time) (ohrouter.Certificate, error) {
	o := order{id: ID{Proxy, proxy}, key: key, life: ProxyLife}
	if !at.IsZero() {
		o.notBefore = reinstated(at)
	}
	leaf, err := a.ca.issue(o)
	if err != nil {
		return ohrouter.Certificate{}, fmt.Errorf("sign the certificate of %s: %w", proxy, err)
	}
	if now, _ := a.revocations.last(proxy); !now.Equal(at) {
		return ohrouter.Certificate{Proxy: proxy}, tokenError(ErrRevoked, "%s was revoked: invite it again if it is to come back", proxy)
	}
	return ohrouter.Certificate{
		Proxy:       proxy,
		Certificate: string(certificatePEM(leaf)),
		CA:          string(certificatePEM(a.ca.cert)),
		ExpiresAt:   leaf.NotAfter,
	}, nil
}

// request returns the key that is to be certified.
func request(e ohrouter.Enrolment) (crypto.PublicKey, error) {
	key, err := parseRequest(e.Request)
	if err != nil {
		return nil, ohrouter.Errorf(ohrouter.InvalidRequest, "the certificate request (csr) cannot be used: %v", err)
	}
	return key, nil
}

func tokenError(why error, format string, args ...any) error {
	return &ohrouter.Error{Code: ohrouter.Unauthorized, Message: fmt.Sprintf(format, args...), Err: why}
}
