// Package identity is the one place about who a machine is: the private CA,
// certificates, enrolment, renewal, revocation, and the TLS settings that all
// of this ends in.
//
// # Who is who
//
// A machine's identity is the one URI in its leaf certificate,
// spiffe://oh-router/router/NAME or spiffe://oh-router/proxy/NAME. Nothing else
// counts: no subject, no host name, no other certificate that a peer sends, no
// name in a message. A leaf with more URIs, or none, is nobody's. Both sides of
// a link prove who they are, with TLS 1.3 and a protocol name of its own
// ([ALPN]).
//
// Every connection is checked as a whole, a resumed one, too: the chain up to
// the CA that is trusted now, the time, the identity, and whether it has been
// revoked since. The check is tls.Config.VerifyConnection, as
// VerifyPeerCertificate does not run when a session is resumed. The proof of a
// chain is remembered while both the chain is valid and the trusted CAs stay the
// same, so that resumption stays cheap.
//
// # What revocation covers
//
// The router has the list ([Revocations]). It dials all links and serves the
// API, so that it sees every certificate of a proxy: from the moment of a
// revocation none that was issued earlier passes, and whoever owns links asks
// for those that stand. An invitation that was made earlier is void. A new
// invitation for the name gives a certificate that is good again.
//
// Proxies have no list. A stolen key of a router is good for what is left of
// its certificate, [RouterLife] at most; to be rid of it at once, make a new CA
// and enrol the proxies with it.
package identity
