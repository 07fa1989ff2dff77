package identity

import (
	"crypto/x509"
	"net/url"
	"strings"

	ohrouter "github.com/ohrouter/oh-router"
)

// Role is what a machine does.
type Role string

// The roles.
const (
	Router Role = "router"
	Proxy  Role = "proxy"
)

// domain is the host of every identity's URI. The CA may sign no other.
const domain = "oh-router"

// ID is who a machine is. The zero ID is nobody.
type ID struct {
	Role Role
	Name string // as [CheckName] permits
}

// String returns "ROLE/NAME".
func (id ID) String() string { return string(id.Role) + "/" + id.Name }

// URI returns the name that stands in a certificate.
func (id ID) URI() string { return id.url().String() }

func (id ID) url() *url.URL { return &url.URL{Scheme: "spiffe", Host: domain, Path: "/" + id.String()} }

// CheckName tells what is wrong with the name of a router or proxy.
func CheckName(name string) error {
	if name == "" || len(name) > 63 || name[0] == '-' || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return ohrouter.Errorf(ohrouter.InvalidRequest,
			"%.100q is not a name for a router or proxy: up to 63 of a-z, 0-9 and hyphen, a hyphen not first", name)
	}
	return nil
}

// Of returns whose certificate leaf says that it is: that of its one URI. It
// does not check that this is true; [Credentials] do.
func Of(leaf *x509.Certificate) (ID, error) {
	if n := len(leaf.URIs); n != 1 {
		return ID{}, ohrouter.Errorf(ohrouter.Unauthorized,
			"the certificate of %s has %d URI names: exactly one is needed, such as %s", subject(leaf), n, ID{Proxy, "NAME"}.URI())
	}
	role, name, _ := strings.Cut(strings.TrimPrefix(leaf.URIs[0].Path, "/"), "/")
	id := ID{Role(role), name}
	// Whatever else the URI has (user, port, query, escapes) makes it another text.
	if id.Role != Router && id.Role != Proxy || CheckName(name) != nil || leaf.URIs[0].String() != id.URI() {
		return ID{}, ohrouter.Errorf(ohrouter.Unauthorized,
			"the URI name %.100q of a certificate is not of oh-router: one is needed such as %s", leaf.URIs[0], ID{Proxy, "NAME"}.URI())
	}
	return id, nil
}

// claimed returns whom a certificate is about, for a sentence: it need not be
// true.
func claimed(leaf *x509.Certificate) string {
	if id, err := Of(leaf); err == nil {
		return id.String()
	}
	return subject(leaf)
}
