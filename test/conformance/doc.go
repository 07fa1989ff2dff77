// Package conformance drives oh-router processes from outside, by what their
// users are promised: bytes, half-closes and resets of sessions, the life of
// bindings and of ports, signals and crashes, REST API, metrics and command line.
//
// The tests build the program once (or take the one that OH_ROUTER_BINARY names)
// and run router, proxy and up as processes of their own on loopback addresses.
// TestOverTLS runs those about sessions a second time, between two that have
// certificates. They know nothing of the inside. They need Linux, where /proc
// tells what a process holds. -short leaves out those that move or open much.
package conformance
