package api

import (
	"context"
	"crypto/x509"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/audit"
)

// Authority gives proxies the certificates that they prove with who they are.
// Errors carry a code.
type Authority interface {
	// Invite makes an enrolment token for the proxy of a name, good for ttl; 0 is
	// a time of the authority's own.
	Invite(ctx context.Context, proxy string, ttl time.Duration) (ohrouter.NewInvitation, error)
	// Enrol gives whoever has an enrolment token a certificate. Beside an error
	// the answer names the proxy, if the token is this router's.
	Enrol(ctx context.Context, e ohrouter.Enrolment) (ohrouter.Certificate, error)
	// Renew gives the proxy with the certificate leaf another one. It checks that
	// leaf is good.
	Renew(leaf *x509.Certificate, e ohrouter.Enrolment) (ohrouter.Certificate, error)
}

// The calls of machines that have no API token: the first shows an enrolment
// token in its body, the second a certificate.
const (
	enrolPath = "/v1/enroll"
	renewPath = "/v1/renew"
)

// fromMachine tells whether a path is called without an API token.
func fromMachine(path string) bool { return path == enrolPath || path == renewPath }

// enrolRequest is the body of an enrolment. Its size is limited as a whole.
type enrolRequest struct {
	Token string `json:"token" maxLength:"256" doc:"An enrolment token, ohe_…; it is good for one use."`
	CSR   string `json:"csr" doc:"A PKCS #10 request in PEM form, signed by its key: P-256 or Ed25519. Nothing but the key counts."`
}

// renewRequest is the body of a renewal.
type renewRequest struct {
	CSR string `json:"csr" doc:"A PKCS #10 request in PEM form, signed by its key: P-256 or Ed25519. Nothing but the key counts."`
}

// inviteRequest is the body of an invitation.
type inviteRequest struct {
	TTL string `json:"ttl,omitempty" nullable:"true" maxLength:"64" doc:"How long the token is good, at most 720h. Empty: 1h." example:"1h"`
}

type enrolInput struct{ Body enrolRequest }

type renewInput struct{ Body renewRequest }

type certificateOutput struct{ Body ohrouter.Certificate }

type inviteInput struct {
	Name string `path:"name" doc:"What the proxy is to be called: up to 63 of a-z, 0-9 and hyphen." example:"east"`
	Body inviteRequest
}

type inviteOutput struct{ Body ohrouter.NewInvitation }

type revokeProxyInput struct {
	Name string `path:"name" doc:"The proxy's name." example:"east"`
}

// addEnrolment adds the calls about the certificates of proxies.
func (a *api) addEnrolment(h huma.API) {
	enrol := operation(http.MethodPost, enrolPath, "enrol-proxy", "proxies")
	enrol.Summary = "Become a proxy"
	enrol.Description = "Gives the machine that has an enrolment token a certificate for its key. The token says which proxy it is; " +
		"a token that was used, has ended or was made before a revocation is refused. Needs no API token. `oh-router proxy enroll` makes this call."
	enrol.Security = []map[string][]string{{}}
	enrol.Responses = problems(h, ohrouter.InvalidRequest, ohrouter.NotFound, ohrouter.Internal)
	bodyProblems(enrol.Responses, maxMachineBody)
	huma.Register(h, enrol, a.enrol)

	renew := operation(http.MethodPost, renewPath, "renew-certificate", "proxies")
	renew.Summary = "Renew a proxy's certificate"
	renew.Description = "Gives the proxy whose certificate the TLS connection has a new one, for another key. Needs no API token. " +
		"Proxies make this call by themselves."
	renew.Security = []map[string][]string{{}}
	renew.Responses = problems(h, ohrouter.InvalidRequest, ohrouter.NotFound, ohrouter.Internal)
	bodyProblems(renew.Responses, maxMachineBody)
	huma.Register(h, renew, a.renew)

	invite := operation(http.MethodPost, "/v1/proxies/{name}/invitations", "invite-proxy", "proxies")
	invite.Summary = "Make an enrolment token"
	invite.Description = "Whoever has the token becomes the proxy of this name, once. The answer has it, this once: the router keeps its hash alone. For an admin."
	invite.DefaultStatus = http.StatusCreated
	invite.Responses = problems(h, ohrouter.InvalidRequest, ohrouter.NotFound, ohrouter.Internal)
	bodyProblems(invite.Responses, maxBody)
	huma.Register(h, invite, a.invite)

	revoke := operation(http.MethodDelete, "/v1/proxies/{name}/certificate", "revoke-certificate", "proxies")
	revoke.Summary = "Revoke a proxy's certificates"
	revoke.Description = "From now on none that the proxy of this name has is accepted, nor an enrolment token for it that was made before; " +
		"its links end, and sessions with them. A new enrolment token lets it come back. For an admin."
	revoke.Responses = problems(h, ohrouter.InvalidRequest, ohrouter.NotFound, ohrouter.Internal)
	huma.Register(h, revoke, a.revokeProxy)
}

// enrol counts no wrong tokens: nobody can try 256 random bits, and whoever had
// used a limit up would keep honest machines out.
func (a *api) enrol(ctx context.Context, in *enrolInput) (*certificateOutput, error) {
	if a.Authority == nil {
		return nil, a.fault(ctx, "enrol", errNoAuthority())
	}
	from := callerOf(ctx).addr
	made, err := a.Authority.Enrol(ctx, ohrouter.Enrolment{Token: in.Body.Token, Request: in.Body.CSR})
	if err != nil {
		if made.Proxy != "" { // it had a token of ours: somebody may have copied it
			a.Log.Warn("enrolment refused", "proxy", made.Proxy, "client", audit.Stranger(audit.By(ctx).From), "err", err)
		}
		if code := ohrouter.CodeOf(err); code == ohrouter.Unauthorized {
			a.record(ctx, audit.Entry{Event: audit.EnrolmentRefused, Proxy: made.Proxy, Code: code, Reason: err.Error()})
		}
		return nil, a.told(ctx, "enrol", err)
	}
	a.record(ctx, audit.Entry{Event: audit.EnrolmentUsed, Proxy: made.Proxy, Expires: made.ExpiresAt})
	a.Log.Info("proxy enrolled", "proxy", made.Proxy, "client", from, "expires_at", made.ExpiresAt)
	return &certificateOutput{made}, nil
}

func (a *api) renew(ctx context.Context, in *renewInput) (*certificateOutput, error) {
	if a.Authority == nil {
		return nil, a.fault(ctx, "renew", errNoAuthority())
	}
	who := callerOf(ctx)
	if who.certificate == nil { // the guard has seen to it
		return nil, a.fault(ctx, "renew", errNoCertificate())
	}
	made, err := a.Authority.Renew(who.certificate, ohrouter.Enrolment{Request: in.Body.CSR})
	if err != nil {
		return nil, a.fault(ctx, "renew", err)
	}
	a.Log.Info("certificate renewed", "proxy", made.Proxy, "client", who.addr, "expires_at", made.ExpiresAt)
	a.record(ctx, audit.Entry{Event: audit.ProxyRenewed, Proxy: made.Proxy, Expires: made.ExpiresAt})
	return &certificateOutput{made}, nil
}

func (a *api) invite(ctx context.Context, in *inviteInput) (*inviteOutput, error) {
	who := callerOf(ctx)
	if err := who.ManagesProxies(); err != nil {
		return nil, a.fault(ctx, "invite", err)
	}
	if a.Authority == nil {
		return nil, a.fault(ctx, "invite", errNoAuthority())
	}
	f := fields{at: "body."}
	ttl := f.duration("ttl", in.Body.TTL, maxDuration)
	if len(f.wrong) > 0 {
		return nil, invalidFields(http.StatusUnprocessableEntity, f.wrong)
	}
	made, err := a.Authority.Invite(ctx, in.Name, ttl)
	if err != nil {
		return nil, a.fault(ctx, "invite", err)
	}
	a.Log.Info("proxy invited", "proxy", made.Proxy, "by", who.Owner(), "expires_at", made.ExpiresAt)
	a.record(ctx, audit.Entry{Event: audit.EnrolmentMade, Proxy: made.Proxy, Expires: made.ExpiresAt})
	return &inviteOutput{made}, nil
}

func (a *api) revokeProxy(ctx context.Context, in *revokeProxyInput) (*struct{}, error) {
	who := callerOf(ctx)
	if err := who.ManagesProxies(); err != nil {
		return nil, a.fault(ctx, "revoke certificate", err)
	}
	if a.Revoke == nil {
		return nil, a.fault(ctx, "revoke certificate", ohrouter.Errorf(ohrouter.NotFound, "the links of this router have no certificates: there is nothing to revoke"))
	}
	// Not to be stopped half-way by a caller that goes.
	if err := a.Revoke(context.WithoutCancel(ctx), in.Name); err != nil {
		return nil, a.fault(ctx, "revoke certificate", err)
	}
	a.Log.Info("certificate revoked", "proxy", in.Name, "by", who.Owner())
	a.record(ctx, audit.Entry{Event: audit.ProxyRevoked, Proxy: in.Name})
	return nil, nil
}

func errNoAuthority() error {
	return ohrouter.Errorf(ohrouter.NotFound,
		"this router has no CA to give certificates with: stop it, run 'oh-router ca init' on its machine, and start it again; or give router and proxies certificates of your own")
}

func errNoCertificate() error {
	return ohrouter.Errorf(ohrouter.Unauthorized,
		"the call needs the certificate of a proxy, over TLS: one that has none, or whose has ended, enrols with 'oh-router proxy enroll'")
}
