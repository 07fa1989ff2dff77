package identity

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
)

// Summary is what a state directory knows of its CA and its router.
type Summary struct {
	CA      *x509.Certificate
	Router  *x509.Certificate
	ID      ID
	Hosts   []string // what clients may call the router
	Created bool     // the CA is new
}

// Init makes a CA in a state directory, and a certificate for its router that
// is good for this machine's own names and for hosts, names or addresses. A CA
// that is there stays, and so do the hosts of its router.
func Init(state string, hosts []string) (Summary, error) {
	added, err := parseHosts(hosts)
	if err != nil {
		return Summary{}, err
	}
	dir, err := makeFolder(state)
	if err != nil {
		return Summary{}, err
	}
	created, err := makeAuthority(dir)
	if err != nil {
		return Summary{}, fmt.Errorf("make the CA: %w", err)
	}
	ca, err := loadIssuer(filepath.Join(dir, authorityFile))
	if err != nil {
		return Summary{}, err
	}
	// What others are to trust may have been lost, or not been written.
	if err := writeFile(filepath.Join(dir, caFile), certificatePEM(ca.cert)); err != nil {
		return Summary{}, fmt.Errorf("write the CA's certificate: %w", err)
	}
	leaf, err := ca.equip(dir, added)
	if err != nil {
		return Summary{}, err
	}
	s, err := summary(ca.cert, leaf)
	s.Created = created
	return s, err
}

// Show returns what a state directory has.
func Show(state string) (Summary, error) {
	ca, err := loadIssuer(filepath.Join(state, folder, authorityFile))
	if err != nil {
		return Summary{}, err
	}
	leaf, err := readLeaf(filepath.Join(state, folder, routerFile))
	if err != nil {
		return Summary{}, err
	}
	return summary(ca.cert, leaf)
}

func summary(ca, leaf *x509.Certificate) (Summary, error) {
	id, err := Of(leaf)
	s := Summary{CA: ca, Router: leaf, ID: id}
	h := hostsOf(leaf)
	s.Hosts = append(s.Hosts, h.names...)
	for _, a := range h.addresses {
		s.Hosts = append(s.Hosts, a.String())
	}
	return s, err
}

// makeAuthority makes a CA unless there is one.
func makeAuthority(dir string) (created bool, err error) {
	path := filepath.Join(dir, authorityFile)
	if _, err := readFile(path); !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	ca, err := newIssuer(machineName())
	if err != nil {
		return false, err
	}
	key, err := keyPEM(ca.key)
	if err != nil {
		return false, err
	}
	err = createFile(path, append(key, certificatePEM(ca.cert)...))
	if errors.Is(err, fs.ErrExist) { // somebody was faster
		return false, nil
	}
	return err == nil, err
}

// loadIssuer reads the key and the certificate of a CA.
func loadIssuer(path string) (*issuer, error) {
	text, err := readFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no CA: %w; make one with 'oh-router ca init'", err)
	}
	if err != nil {
		return nil, fmt.Errorf("read the CA's key: %w", err)
	}
	pair, err := tls.X509KeyPair(text, text)
	if err != nil {
		return nil, unusable(path, err)
	}
	key, ok := pair.PrivateKey.(crypto.Signer)
	if !ok || !pair.Leaf.IsCA {
		return nil, unusable(path, errors.New("it is not the key and certificate of a CA"))
	}
	return &issuer{pair.Leaf, key}, nil
}

// equip sees to it that the router has a certificate with the hosts that it
// has, or this machine's own if it has none, and added; and that it has a third
// of its life left.
func (i *issuer) equip(dir string, added hosts) (*x509.Certificate, error) {
	path := filepath.Join(dir, routerFile)
	id, want := ID{Router, machineName()}, ownHosts()
	former, err := readLeaf(path)
	if err == nil {
		if old, err := Of(former); err == nil && old.Role == Router {
			id, want = old, hostsOf(former)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	want = want.with(added)
	if want.count() > maxHosts {
		return nil, ohrouter.Errorf(ohrouter.InvalidRequest, "the router's certificate would have %d hosts: %d at most", want.count(), maxHosts)
	}
	if former != nil && hostsOf(former).count() == want.count() && !i.due(former) {
		return former, nil
	}
	key, err := newKey()
	if err != nil {
		return nil, fmt.Errorf("make the router's key: %w", err)
	}
	leaf, err := i.issue(order{id: id, key: key.Public(), life: RouterLife, hosts: want})
	if err != nil {
		return nil, fmt.Errorf("sign the router's certificate: %w", err)
	}
	text, err := keyPEM(key)
	if err != nil {
		return nil, fmt.Errorf("write the router's key: %w", err)
	}
	if err := writeFile(path, append(text, certificatePEM(leaf, i.cert)...)); err != nil {
		return nil, fmt.Errorf("write the router's certificate: %w", err)
	}
	return leaf, nil
}

// due tells whether a leaf is to be replaced: it has spent two thirds of its
// life, or is another CA's.
func (i *issuer) due(leaf *x509.Certificate) bool {
	return time.Now().After(renewAfter(leaf)) || leaf.CheckSignatureFrom(i.cert) != nil
}

// readLeaf returns the first certificate of a file.
func readLeaf(path string) (*x509.Certificate, error) {
	text, err := readFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the certificate: %w", err)
	}
	certs, err := parseCertificates(text)
	if err != nil {
		return nil, unusable(path, err)
	}
	return certs[0], nil
}
