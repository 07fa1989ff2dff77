package api

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode"

	ohrouter "github.com/ohrouter/oh-router"
)

// Limits of a binding's fields.
const (
	maxDuration   = 10 * 365 * 24 * time.Hour
	maxLabelKey   = 63
	maxLabelValue = 255
)

// requesterWord stands in an allow for the address that makes the call.
const requesterWord = "requester"

// bindRequest is the body of a bind. Durations are strings here, so that a
// wrong one is named by its field.
type bindRequest struct {
	Target      string            `json:"target" maxLength:"1024" doc:"The service to reach, as HOST:PORT. The proxy resolves the name. IPv6 addresses stand in brackets." example:"db.internal:3306"`
	Proxy       string            `json:"proxy,omitempty" nullable:"true" maxLength:"253" doc:"Name of the proxy to use. Empty: any that serves the target."`
	Port        int               `json:"port,omitempty" nullable:"true" minimum:"0" maximum:"65535" doc:"Mapped port to have; it must lie in the router's range. 0: any that is free."`
	IdleTimeout string            `json:"idle_timeout,omitempty" nullable:"true" maxLength:"64" doc:"Recycle the binding this long after its last session ended or its last bind call, whichever is later. 0s: never. Empty: the router's default." example:"5m"`
	TTL         string            `json:"ttl,omitempty" nullable:"true" maxLength:"64" doc:"End the binding, sessions included, this long from now. Empty: no end." example:"8h"`
	Allow       []string          `json:"allow,omitempty" nullable:"true" maxItems:"256" doc:"Addresses and CIDRs that may connect to the mapped port; the word requester is the address that makes the call. Empty: anybody, or, where the API is in reach of other machines, the requester." example:"[\"requester\",\"10.0.0.0/8\"]"`
	MaxSessions int               `json:"max_sessions,omitempty" nullable:"true" minimum:"0" maximum:"2147483647" doc:"Sessions that may be open at once. 0: no limit."`
	Labels      map[string]string `json:"labels,omitempty" nullable:"true" maxProperties:"32" doc:"Words of yours to find the binding by. Keys have 1 to 63 letters, digits and ._/-; values at most 255 printable bytes. The labels of an existing binding stay as they are." example:"{\"team\":\"web\"}"`
	Check       *bool             `json:"check,omitempty" nullable:"true" doc:"Connect to the target before answering. Absent or null: true."`

	ProxyProtocol string `json:"proxy_protocol,omitempty" nullable:"true" doc:"Have the target told the address of each client, with a PROXY protocol header of this version before the client's first byte. The target must expect it. Empty: none." enum:",v2" example:"v2"`
}

// patchRequest is the body of a patch.
type patchRequest struct {
	IdleTimeout string            `json:"idle_timeout,omitempty" nullable:"true" maxLength:"64" doc:"0s: never recycled." example:"1h"`
	TTL         string            `json:"ttl,omitempty" nullable:"true" maxLength:"64" doc:"Counted from now. 0s: no end." example:"8h"`
	Allow       []string          `json:"allow,omitempty" nullable:"true" maxItems:"256" doc:"Addresses and CIDRs that may connect from now on, and the word requester. An empty list means what it means for a new binding." example:"[\"10.0.0.0/8\"]"`
	MaxSessions *int              `json:"max_sessions,omitempty" nullable:"true" minimum:"0" maximum:"2147483647" doc:"0: no limit. Sessions above a lower limit go on."`
	Labels      map[string]string `json:"labels,omitempty" nullable:"true" maxProperties:"32" doc:"All labels, not only those that change." example:"{\"team\":\"web\"}"`
}

// spec returns what the request asks for, or each field that is wrong.
// The word requester in its allow stands for the prefixes given.
func (r *bindRequest) spec(requester []netip.Prefix) (ohrouter.BindingSpec, []FieldError) {
	f := fields{at: "body."}
	target, err := ohrouter.ParseTarget(r.Target)
	if err != nil {
		f.add("target", "%s", ohrouter.Message(err))
	}
	s := ohrouter.BindingSpec{
		Target:      target,
		Proxy:       r.Proxy,
		Port:        uint16(r.Port), // validated against the tags above, as the other numbers
		TTL:         ohrouter.Duration(f.duration("ttl", r.TTL, maxDuration)),
		Allow:       f.prefixes("allow", r.Allow, requester),
		MaxSessions: r.MaxSessions,
		Labels:      f.labels("labels", r.Labels),
		Check:       r.Check,

		ProxyProtocol: r.ProxyProtocol,
	}
	if r.IdleTimeout != "" {
		s.IdleTimeout = new(ohrouter.Duration(f.duration("idle_timeout", r.IdleTimeout, maxDuration)))
	}
	return s, f.wrong
}

// patch returns what the request changes, or each field that is wrong.
func (r *patchRequest) patch(requester []netip.Prefix) (ohrouter.BindingPatch, []FieldError) {
	f := fields{at: "body."}
	p := ohrouter.BindingPatch{MaxSessions: r.MaxSessions}
	if r.IdleTimeout != "" {
		p.IdleTimeout = new(ohrouter.Duration(f.duration("idle_timeout", r.IdleTimeout, maxDuration)))
	}
	if r.TTL != "" {
		p.TTL = new(ohrouter.Duration(f.duration("ttl", r.TTL, maxDuration)))
	}
	if r.Allow != nil {
		p.Allow = new(f.prefixes("allow", r.Allow, requester))
	}
	if r.Labels != nil {
		p.Labels = new(f.labels("labels", r.Labels))
	}
	return p, f.wrong
}

// fields reads the fields of one request and collects what is wrong.
type fields struct {
	at    string // where the fields stand, with a dot
	wrong []FieldError
}

func (f *fields) add(name, format string, args ...any) {
	f.wrong = append(f.wrong, FieldError{Location: clip(f.at + name), Message: fmt.Sprintf(format, args...)})
}

// duration reads a duration from 0 to most; "" is 0.
func (f *fields) duration(name, text string, most time.Duration) time.Duration {
	var d ohrouter.Duration
	if err := d.UnmarshalText([]byte(text)); err != nil {
		f.add(name, "%s", ohrouter.Message(err))
		return 0
	}
	if d < 0 || time.Duration(d) > most {
		f.add(name, "%s is not between 0s and %v", d, most)
		return 0
	}
	return time.Duration(d)
}

// prefixes reads addresses and CIDRs, and the word requester. Host bits are
// masked off, so that one network has one spelling. The result of a list that is not nil is not, either.
func (f *fields) prefixes(name string, texts []string, requester []netip.Prefix) []netip.Prefix {
	if texts == nil {
		return nil
	}
	list := make([]netip.Prefix, 0, len(texts))
	for i, text := range texts {
		if text == requesterWord {
			list = append(list, requester...)
			continue
		}
		p, ok := parsePrefix(text)
		if !ok {
			f.add(fmt.Sprintf("%s[%d]", name, i), "%.60q is not an address, a CIDR such as 10.0.0.0/8, or the word %s", text, requesterWord)
			continue
		}
		if !slices.Contains(list, p) {
			list = append(list, p)
		}
	}
	return list
}

// parsePrefix reads a CIDR or an address without a zone. IPv4-mapped ones are
// their IPv4 form, as that is what clients are compared with.
func parsePrefix(text string) (netip.Prefix, bool) {
	p, err := netip.ParsePrefix(text)
	if err != nil {
		a, err := netip.ParseAddr(text)
		if err != nil || a.Zone() != "" {
			return netip.Prefix{}, false
		}
		p = netip.PrefixFrom(a, a.BitLen())
	}
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked(), true
}

// labels checks labels and returns them.
func (f *fields) labels(name string, labels map[string]string) map[string]string {
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		at, v := name+"."+k, labels[k]
		switch {
		case k == "" || len(k) > maxLabelKey || strings.IndexFunc(k, notInKey) >= 0:
			f.add(at, "%.80q is not a label key: 1 to %d letters, digits and ._/-", k, maxLabelKey)
		case len(v) > maxLabelValue:
			f.add(at, "the value is %d bytes long: at most %d", len(v), maxLabelValue)
		case strings.IndexFunc(v, func(r rune) bool { return !unicode.IsPrint(r) }) >= 0:
			f.add(at, "the value %.80q has a character that cannot be printed", v)
		}
	}
	return labels
}

// notInKey tells whether a label's key must not have r.
func notInKey(r rune) bool {
	return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("._/-", r))
}
