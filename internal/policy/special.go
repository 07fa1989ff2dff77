package policy

import "net/netip"

// special is a range of addresses that only addresses within it open.
type special struct {
	kind   string
	prefix netip.Prefix
}

// specials are the ranges. An address belongs to the narrowest that holds it:
// 169.254.0.0/16 opens link-local addresses, but not the metadata services that
// live among them. docs/allow-list.md has the same table.
var specials = []special{
	{"loopback", netip.MustParsePrefix("127.0.0.0/8")}, // RFC 1122
	{"loopback", netip.MustParsePrefix("::1/128")},     // RFC 4291
	// RFC 6890: "this host on this network". Linux connects 0.0.0.0 to itself,
	// and takes the rest for addresses like others since 5.3.
	{"unspecified", netip.MustParsePrefix("0.0.0.0/8")},
	{"unspecified", netip.MustParsePrefix("::/128")},           // RFC 4291; connects to itself, too
	{"link-local", netip.MustParsePrefix("169.254.0.0/16")},    // RFC 3927
	{"link-local", netip.MustParsePrefix("fe80::/10")},         // RFC 4291
	{"multicast", netip.MustParsePrefix("224.0.0.0/4")},        // RFC 5771
	{"multicast", netip.MustParsePrefix("ff00::/8")},           // RFC 4291
	{"broadcast", netip.MustParsePrefix("255.255.255.255/32")}, // RFC 919

	// Each as its vendor documents it.
	{"cloud metadata", netip.MustParsePrefix("169.254.169.254/32")},     // AWS, Azure, Google, Oracle and most others
	{"cloud metadata", netip.MustParsePrefix("fd00:ec2::254/128")},      // AWS, EC2 instance metadata
	{"cloud metadata", netip.MustParsePrefix("169.254.170.2/32")},       // AWS, ECS task metadata and credentials
	{"cloud metadata", netip.MustParsePrefix("169.254.170.23/32")},      // AWS, EKS Pod Identity Agent
	{"cloud metadata", netip.MustParsePrefix("fd00:ec2::23/128")},       // the same
	{"cloud metadata", netip.MustParsePrefix("168.63.129.16/32")},       // Azure, wire server
	{"cloud metadata", netip.MustParsePrefix("fd20:ce::254/128")},       // Google, Compute Engine with IPv6 alone
	{"cloud metadata", netip.MustParsePrefix("169.254.169.252/32")},     // Google, GKE metadata server
	{"cloud metadata", netip.MustParsePrefix("fd00:c1::a9fe:a9fe/128")}, // Oracle, OCI instance metadata
	{"cloud metadata", netip.MustParsePrefix("192.0.0.192/32")},         // Oracle, Compute Classic and Cloud at Customer
	{"cloud metadata", netip.MustParsePrefix("100.100.100.200/32")},     // Alibaba, ECS instance metadata
	{"cloud metadata", netip.MustParsePrefix("fd00:100::100:200/128")},  // the same
	{"cloud metadata", netip.MustParsePrefix("169.254.0.23/32")},        // Tencent, CVM instance metadata
	{"cloud metadata", netip.MustParsePrefix("169.254.42.42/32")},       // Scaleway, Instances
	{"cloud metadata", netip.MustParsePrefix("fd00:42::42/128")},        // the same
	{"cloud metadata", netip.MustParsePrefix("fd00:a9fe:a9fe::1/128")},  // Akamai (Linode), metadata service
	{"cloud metadata", netip.MustParsePrefix("fe80::a9fe:a9fe/128")},    // the same, and OpenStack's nova
}

// embedding is a range of IPv6 addresses that carry an IPv4 address, to which
// a gateway on the way may deliver. docs/allow-list.md has the same table.
type embedding struct {
	prefix   netip.Prefix
	at       [4]int // where the bytes of the IPv4 address are
	inverted bool   // its bits are
	// padded is for a range with several forms: the padding of the usual one
	// looks like 0.0.0.0 in this one, so that is no reason to deny.
	padded bool
}

// Where RFC 6052 puts the IPv4 address behind a prefix of a length. Byte 8 is
// not used.
var (
	behind16 = [4]int{2, 3, 4, 5} // 6to4's
	behind32 = [4]int{4, 5, 6, 7} // Teredo's server
	behind48 = [4]int{6, 7, 9, 10}
	behind56 = [4]int{7, 9, 10, 11}
	behind64 = [4]int{9, 10, 11, 12}
	behind96 = [4]int{12, 13, 14, 15}
)

// embeddings are judged by what they carry. IPv4-mapped addresses are not
// among them: they are IPv4 addresses.
var embeddings = []embedding{
	{prefix: netip.MustParsePrefix("::/96"), at: behind96},           // IPv4-compatible, RFC 4291
	{prefix: netip.MustParsePrefix("::ffff:0:0:0/96"), at: behind96}, // IPv4-translated, RFC 2765
	{prefix: netip.MustParsePrefix("64:ff9b::/96"), at: behind96},    // NAT64, RFC 6052
	// NAT64 of one's own, RFC 8215: a network may use any form of RFC 6052 that
	// fits in.
	{prefix: netip.MustParsePrefix("64:ff9b:1::/48"), at: behind96},
	{prefix: netip.MustParsePrefix("64:ff9b:1::/48"), at: behind64, padded: true},
	{prefix: netip.MustParsePrefix("64:ff9b:1::/48"), at: behind56, padded: true},
	{prefix: netip.MustParsePrefix("64:ff9b:1::/48"), at: behind48, padded: true},
	{prefix: netip.MustParsePrefix("2002::/16"), at: behind16},                 // 6to4, RFC 3056
	{prefix: netip.MustParsePrefix("2001::/32"), at: behind32},                 // Teredo's server, RFC 4380
	{prefix: netip.MustParsePrefix("2001::/32"), at: behind96, inverted: true}, // Teredo's client
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
		v4 := e.carried(addr)
		if e.padded && v4.As4()[0] == 0 {
			continue
		}
		if carried, is := specialRange(v4); is {
			take(special{carried.kind, e.form(addr, carried.prefix.Bits())})
		}
	}
	return narrowest, ok
}

// carried returns the IPv4 address inside addr.
func (e embedding) carried(addr netip.Addr) netip.Addr {
	b := addr.As16()
	var v4 [4]byte
	for i, at := range e.at {
		v4[i] = b[at]
		if e.inverted {
			v4[i] = ^v4[i]
		}
	}
	return netip.AddrFrom4(v4)
}

// form returns the range of addresses that are like addr up to so many bits,
// one at least, of what it carries.
func (e embedding) form(addr netip.Addr, bits int) netip.Prefix {
	last := bits - 1
	return netip.PrefixFrom(addr, e.at[last/8]*8+last%8+1).Masked()
}
