package policy

import "net/netip"

// special is a range of addresses that only addresses within it open.
type special struct {
	kind   string
	prefix netip.Prefix
}

// specials are the ranges. An address belongs to the narrowest that holds it:
// 169.254.0.0/16 opens link-local addresses, but not the metadata service that
// lives among them.
var specials = []special{
	{"unspecified", netip.MustParsePrefix("0.0.0.0/8")}, // Linux connects 0.0.0.0 to itself
	{"unspecified", netip.MustParsePrefix("::/128")},
	{"loopback", netip.MustParsePrefix("127.0.0.0/8")},
	{"loopback", netip.MustParsePrefix("::1/128")},
	{"link-local", netip.MustParsePrefix("169.254.0.0/16")},
	{"link-local", netip.MustParsePrefix("fe80::/10")},
	{"multicast", netip.MustParsePrefix("224.0.0.0/4")},
	{"multicast", netip.MustParsePrefix("ff00::/8")},
	{"broadcast", netip.MustParsePrefix("255.255.255.255/32")},
	{"cloud metadata", netip.MustParsePrefix("169.254.169.254/32")}, // AWS, Azure, Google and most others
	{"cloud metadata", netip.MustParsePrefix("fd00:ec2::254/128")},  // AWS
	{"cloud metadata", netip.MustParsePrefix("100.100.100.200/32")}, // Alibaba
	{"cloud metadata", netip.MustParsePrefix("168.63.129.16/32")},   // Azure's host
}

// embedding is a range of IPv6 addresses that carry an IPv4 address, to which
// a gateway on the way may deliver.
type embedding struct {
	prefix   netip.Prefix
	at       int  // first byte of the IPv4 address
	inverted bool // its bits are
}

// embeddings are judged by what they carry. IPv4-mapped addresses are not
// among them: they are IPv4 addresses.
var embeddings = []embedding{
	{prefix: netip.MustParsePrefix("::/96"), at: 12},                     // IPv4-compatible, RFC 4291
	{prefix: netip.MustParsePrefix("::ffff:0:0:0/96"), at: 12},           // IPv4-translated, RFC 2765
	{prefix: netip.MustParsePrefix("64:ff9b::/96"), at: 12},              // NAT64, RFC 6052
	{prefix: netip.MustParsePrefix("64:ff9b:1::/48"), at: 12},            // NAT64 of one's own in its /96 form, RFC 8215
	{prefix: netip.MustParsePrefix("2002::/16"), at: 2},                  // 6to4, RFC 3056
	{prefix: netip.MustParsePrefix("2001::/32"), at: 4},                  // Teredo server, RFC 4380
	{prefix: netip.MustParsePrefix("2001::/32"), at: 12, inverted: true}, // Teredo client
}

// specialRange returns the narrowest special range that holds addr, if any
// does. For an address that carries a special one the range is its form of the
// carried one's: 64:ff9b::7f00:1 is held by 64:ff9b::7f00:0/104.
func specialRange(addr netip.Addr) (narrowest special, ok bool) {
	take := func(s special) {
		if !ok || s.prefix.Bits() > narrowest.prefix.Bits() {
			narrowest, ok = s, true
		}
	}
	for _, s := range specials {
		if s.prefix.Contains(addr) {
			take(s)
		}
	}
	if ok || addr.Is4() {
		return narrowest, ok
	}
	for _, e := range embeddings {
		if !e.prefix.Contains(addr) {
			continue
		}
		if carried, is := specialRange(e.carried(addr)); is {
			form := netip.PrefixFrom(addr, e.at*8+carried.prefix.Bits()).Masked()
			take(special{carried.kind, form})
		}
	}
	return narrowest, ok
}

// carried returns the IPv4 address inside addr.
func (e embedding) carried(addr netip.Addr) netip.Addr {
	b := addr.As16()
	v4 := [4]byte(b[e.at:])
	if e.inverted {
		for i := range v4 {
			v4[i] = ^v4[i]
		}
	}
	return netip.AddrFrom4(v4)
}
