package router

import (
	"net"
	"net/netip"

	"github.com/pires/go-proxyproto"
)

// preamble returns the header of the PROXY protocol, version 2, that tells a
// target which client has connected to which address of the router.
func preamble(client, mapped netip.AddrPort) []byte {
	b, err := proxyproto.HeaderProxyFromAddrs(2, net.TCPAddrFromAddrPort(client), net.TCPAddrFromAddrPort(mapped)).Format()
	if err != nil {
		panic(err) // two TCP addresses can always be told
	}
	return b
}

// sent sends a preamble, if there is one, on a link that was acknowledged just
// now, and tells whether the link took it. It is a few bytes on a connection
// that has nothing to send: this does not wait.
func sent(l Link, preamble []byte) bool {
	if len(preamble) == 0 {
		return true
	}
	_, err := l.Conn().Write(preamble)
	return err == nil
}
