package identity

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"reflect"
	"slices"

	ohrouter "github.com/ohrouter/oh-router"
)

// ALPN is the name under which TLS knows the protocol of links. A connection
// that has not agreed on it is refused by both sides.
const ALPN = "oh-router/1"

// sessions is how many TLS sessions a side that dials remembers.
const sessions = 256

// LinkClient returns the settings of a router that makes links to the proxy of
// a name, or to any proxy of the CA for "". The settings are to be kept, one for
// each proxy: they hold the sessions that make later handshakes short.
func (c *Credentials) LinkClient(proxy string) *tls.Config {
	return c.client(demand{role: Proxy, name: proxy, usage: x509.ExtKeyUsageServerAuth, protocol: ALPN}, ALPN)
}

// LinkServer returns the settings of a proxy that takes links from routers.
func (c *Credentials) LinkServer() *tls.Config {
	cfg := c.server(demand{role: Router, usage: x509.ExtKeyUsageClientAuth, protocol: ALPN}, ALPN)
	cfg.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &c.current.Load().link, nil }
	return cfg
}

// HTTPSServer returns the settings of an API. A caller may send a certificate;
// one that is not good is refused, and [Of] tells whose it is. HTTP/2 would
// let strangers open hundreds of calls, each with a buffer, on one connection.
func (c *Credentials) HTTPSServer() *tls.Config {
	cfg := c.server(demand{usage: x509.ExtKeyUsageClientAuth, optional: true}, "http/1.1")
	cfg.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &c.current.Load().http, nil }
	// A browser asks its user which certificate to send, unless it has none of
	// these CAs.
	cfg.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		now := cfg.Clone()
		now.ClientCAs = c.current.Load().roots
		return now, nil
	}
	return cfg
}

// HTTPSClient returns the settings for calls to the API of a router, which
// prove who calls. The router may have any name and address: its identity
// counts. HTTP/2 would hide why a router refuses a certificate.
func (c *Credentials) HTTPSClient() *tls.Config {
	return c.client(demand{role: Router, usage: x509.ExtKeyUsageServerAuth}, "http/1.1")
}

// ClientTLS returns the settings for calls to the API of a router whose CA is
// in ca, in PEM form, without a certificate of the caller's own. If [Init] has
// made the CA, the router may have any name and address: its identity counts,
// and nothing else gets one from there. Any other CA signs for other servers,
// too, so that its certificate has to be for the host that is called.
func ClientTLS(ca []byte) (*tls.Config, error) {
	certs, err := parseCertificates(ca)
	if err != nil {
		return nil, ohrouter.Errorf(ohrouter.InvalidRequest, "the CA cannot be used: %v", err)
	}
	cas := onlyCAs(certs)
	if len(cas) == 0 {
		return nil, ohrouter.Errorf(ohrouter.InvalidRequest, "the CA cannot be used: no certificate in it is that of a CA")
	}
	t := newTrust(cas)
	t.named = true
	if slices.ContainsFunc(cas, func(c *x509.Certificate) bool { return !ours(c) }) {
		return &tls.Config{RootCAs: t.roots, MinVersion: tls.VersionTLS13}, nil
	}
	return dialling(func(s tls.ConnectionState) error {
		return t.check(s, demand{role: Router, usage: x509.ExtKeyUsageServerAuth}, nil)
	}, "http/1.1"), nil
}

func (c *Credentials) client(d demand, protocols ...string) *tls.Config {
	cfg := dialling(func(s tls.ConnectionState) error { return c.current.Load().check(s, d, c.cfg.Revoked) }, protocols...)
	cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &c.current.Load().link, nil }
	return cfg
}

func (c *Credentials) server(d demand, protocols ...string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: protocols,

		DynamicRecordSizingDisabled: true, // see dialling

		ClientAuth:       tls.RequestClientCert, // what is required, and why not, VerifyConnection says
		VerifyConnection: func(s tls.ConnectionState) error { return c.current.Load().check(s, d, c.cfg.Revoked) },
	}
}

// dialling returns the settings of the side that dials, with a check that
// every connection has to pass.
func dialling(check func(tls.ConnectionState) error, protocols ...string) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		NextProtos:         protocols,
		ServerName:         domain, // the key of sessions, and no check; clients of HTTP set theirs
		ClientSessionCache: tls.NewLRUClientSessionCache(sessions),
		// What is skipped is a check of the host's name against CAs that were
		// fixed beforehand. check verifies the chain, and an identity instead.
		InsecureSkipVerify: true,
		VerifyConnection:   check,
		// Small records at the beginning are for browsers that show a page as
		// it comes; each costs a write.
		DynamicRecordSizingDisabled: true,
	}
}

// The alerts of TLS that tell why a peer gives up (RFC 8446, section 6).
const (
	alertBadCertificate  = 42
	alertProtocolVersion = 70
	alertNoProtocol      = 120
)

// Explain returns err with a sentence about what to do where it is a peer's
// refusal to speak TLS with this machine, and as it is otherwise. A refusal of
// the side that was dialled comes with the first read after the handshake.
func Explain(err error) error {
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok || errors.Is(err, http.ErrSchemeMismatch) {
		return &ohrouter.Error{
			Code: ohrouter.Unauthorized, Err: err,
			Message: "the peer does not speak TLS: look at the address, and whether the peer has a certificate",
		}
	}
	op, ok := errors.AsType[*net.OpError](err)
	if !ok || op.Op != "remote error" || op.Err == nil {
		return err
	}
	// The type of these errors is not exported; it is the alert's number.
	alert := reflect.ValueOf(op.Err)
	if alert.Kind() != reflect.Uint8 {
		return err
	}
	e := &ohrouter.Error{Code: ohrouter.Unauthorized, Err: err}
	switch alert.Uint() {
	case alertBadCertificate:
		e.Message = "the peer does not accept the certificate of this machine: the log there says why"
	case alertProtocolVersion:
		e.Message = "the peer does not speak the same version of TLS: 1.3 is needed"
	case alertNoProtocol:
		e.Message = "the peer serves something else there: look at the port, a router's and a proxy's are easily exchanged"
	default:
		return err
	}
	return e
}
