// Package link is the leg between router and proxy: a TCP connection that
// begins with a handshake of three frames, or five, and then carries one session
// as raw bytes. PROTOCOL.md beside it specifies the format; testdata has vectors.
//
// A [Dialer] is the router's end and an [Acceptor] the proxy's. A link carries
// one session and is never used again.
package link
