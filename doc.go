// Package ohrouter holds the nouns of oh-router: targets, bindings, sessions,
// proxies, and the closed lists of codes and outcomes that name what happened
// to them. It does no I/O and every other package of the module speaks in its
// terms.
//
// A client asks the router for a target that it cannot reach itself. The
// router answers with a binding: a port of its own that leads there. Each
// connection to that port is a session, carried over a link to a proxy, which
// dials the target.
//
// The JSON shapes of the REST API are the struct tags of the types here.
package ohrouter
