package identity

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
)

// authority makes a CA with a state directory and a store.
func authority(t testing.TB) (a *Authority, state string, store *memory) {
	t.Helper()
	state, store = t.TempDir(), newMemory()
	if _, err := Init(state, nil); err != nil {
		t.Fatalf("Init() = %v", err)
	}
	return openAuthority(t, state, store), state, store
}

func openAuthority(t testing.TB, state string, store Store) *Authority {
	t.Helper()
	list, err := LoadRevocations(t.Context(), store)
	if err != nil {
		t.Fatal(err)
	}
	var log record
	a, err := OpenAuthority(state, store, list, log.log())
	if err != nil {
		t.Fatalf("OpenAuthority() = %v", err)
	}
	return a
}

// ask makes a request for a certificate.
func ask(t testing.TB, token string) (ohrouter.Enrolment, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := newRequest(key)
	if err != nil {
		t.Fatal(err)
	}
	return ohrouter.Enrolment{Token: token, Request: csr}, key
}

func invite(t testing.TB, a *Authority, proxy string) string {
	t.Helper()
	made, err := a.Invite(t.Context(), proxy, 0)
	if left := time.Until(made.ExpiresAt); err != nil || made.Proxy != proxy || left <= 0 || left > DefaultInvitation {
		t.Fatalf("Invite(%s) = one for %s with %v left, %v", proxy, made.Proxy, left, err)
	}
	return made.Token
}

// enrolled gets a proxy's certificate.
func enrolled(t testing.TB, a *Authority, proxy string) *x509.Certificate {
	t.Helper()
	e, key := ask(t, invite(t, a, proxy))
	answer, err := a.Enrol(t.Context(), e)
	if err != nil {
		t.Fatalf("Enrol() = %v", err)
	}
	c, _, err := accept(answer, key, fingerprintOf(a.ca.cert))
	if err != nil {
		t.Fatalf("the answer is not good: %v", err)
	}
	return c
}

func TestInit(t *testing.T) {
	state := filepath.Join(t.TempDir(), "not", "there", "yet")
	first, err := Init(state, []string{"Router.example.", "10.0.0.5"})
	if err != nil || !first.Created {
		t.Fatalf("Init() = %v, created %v", err, first.Created)
	}
	wantMode(t, filepath.Join(state, folder), 0o700|os.ModeDir)
	for _, name := range []string{authorityFile, caFile, routerFile} {
		wantMode(t, filepath.Join(state, folder, name), 0o600)
	}
	if left, _ := os.ReadDir(filepath.Join(state, folder)); len(left) != 3 {
		t.Errorf("%d files, want 3: %v", len(left), left)
	}
	for _, host := range []string{"localhost", "127.0.0.1", "::1", "router.example", "10.0.0.5"} {
		if !slices.Contains(first.Hosts, host) {
			t.Errorf("the router has hosts %q, want %s among them", first.Hosts, host)
		}
		if err := first.Router.VerifyHostname(host); err != nil {
			t.Errorf("the router's certificate: %v", err)
		}
	}
	c := first.CA
	if !c.IsCA || !c.MaxPathLenZero || c.MaxPathLen != 0 || len(c.PermittedURIDomains) != 1 || !c.PermittedDNSDomainsCritical || len(c.ExtKeyUsage) != 2 {
		t.Errorf("the CA is not limited as it should be: %+v", c)
	}
	if key, ok := c.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve.Params().Name != "P-256" {
		t.Errorf("the CA's key is %T, want P-256", c.PublicKey)
	}

	again, err := Init(state, nil)
	if err != nil || again.Created || !again.CA.Equal(first.CA) || !again.Router.Equal(first.Router) {
		t.Errorf("a second Init changes something, or is an error: %v", err)
	}
	more, err := Init(state, []string{"10.0.0.6"})
	if err != nil || !more.CA.Equal(first.CA) || !slices.Equal(more.Hosts, append(slices.Clone(first.Hosts), "10.0.0.6")) {
		t.Errorf("Init with one more host = %q, %v", more.Hosts, err)
	}
	shown, err := Show(state)
	if err != nil || !shown.Router.Equal(more.Router) || shown.ID.Role != Router {
		t.Errorf("Show() = %v, %v", shown.ID, err)
	}
	for _, host := range []string{"a:1", "0.0.0.0", "", "a b"} {
		if _, err := Init(state, []string{host}); err == nil {
			t.Errorf("Init with host %q = nil, want an error", host)
		}
	}
	if _, err := Show(t.TempDir()); err == nil || !strings.Contains(err.Error(), "oh-router ca init") {
		t.Errorf("Show of nothing = %v, want it to say what to do", err)
	}
}

// TestInitAtOnce has several who make the CA at the same time.
func TestInitAtOnce(t *testing.T) {
	state := t.TempDir()
	var created atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			s, err := Init(state, nil)
			if err != nil {
				t.Errorf("Init() = %v", err)
			}
			if s.Created {
				created.Add(1)
			}
		})
	}
	wg.Wait()
	if n := created.Load(); n != 1 {
		t.Errorf("%d made the CA, want 1", n)
	}
	opened(t, Config{Files: In(state, Router), Role: Router})
}

func TestEnrol(t *testing.T) {
	a, state, store := authority(t)
	c := enrolled(t, a, "east")
	if id, err := Of(c); id != east || err != nil {
		t.Errorf("the certificate is of %v, %v", id, err)
	}
	if life := time.Until(c.NotAfter); life > ProxyLife || life < ProxyLife-time.Minute {
		t.Errorf("the certificate is good for %v, want %v", life, ProxyLife)
	}
	router := opened(t, Config{Files: In(state, Router), Role: Router})
	if err := router.current.Load().chain([]*x509.Certificate{c}, x509.ExtKeyUsageServerAuth); err != nil {
		t.Errorf("the router does not trust it: %v", err)
	}
	token := invite(t, a, "east")
	for hash := range store.invitations {
		if strings.Contains(token, hash) {
			t.Error("the token is stored")
		}
	}
	if _, err := a.Invite(t.Context(), "East", 0); ohrouter.CodeOf(err) != ohrouter.InvalidRequest {
		t.Errorf("Invite(East) = %v", err)
	}
	for _, ttl := range []time.Duration{-1, MaxInvitation + 1} {
		if _, err := a.Invite(t.Context(), "east", ttl); ohrouter.CodeOf(err) != ohrouter.InvalidRequest {
			t.Errorf("Invite for %v = %v", ttl, err)
		}
	}
}

// TestEnrolNames has a request that names somebody else, and wants to be a CA.
func TestEnrolNames(t *testing.T) {
	a, _, _ := authority(t)
	key, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "router/main"}, DNSNames: []string{"example"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		URIs:            []*url.URL{main1.url(), west.url()},
		ExtraExtensions: []pkix.Extension{{Id: []int{2, 5, 29, 19}, Critical: true, Value: []byte{0x30, 3, 1, 1, 0xff}}},
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := a.Enrol(t.Context(), ohrouter.Enrolment{
		Token: invite(t, a, "east"), Request: string(pem.EncodeToMemory(&pem.Block{Type: requestBlock, Bytes: der})),
	})
	if err != nil {
		t.Fatal(err)
	}
	c, _, err := accept(answer, key, fingerprintOf(a.ca.cert))
	if err != nil {
		t.Fatal(err)
	}
	if id, err := Of(c); id != east || err != nil || c.IsCA || len(c.DNSNames)+len(c.IPAddresses) > 0 || c.Subject.CommonName != "proxy/east" {
		t.Errorf("the certificate is of %v (%v), CA %v, with hosts %v %v", id, err, c.IsCA, c.DNSNames, c.IPAddresses)
	}
}

func TestEnrolRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, state, store := authority(t)
		used, late, revoked := invite(t, a, "east"), invite(t, a, "late"), invite(t, a, "west")
		e, _ := ask(t, used)
		if _, err := a.Enrol(t.Context(), ohrouter.Enrolment{Token: used, Request: "no CSR"}); ohrouter.CodeOf(err) != ohrouter.InvalidRequest {
			t.Errorf("Enrol without a CSR = %v", err)
		}
		if _, err := a.Enrol(t.Context(), e); err != nil {
			t.Fatalf("Enrol after a mistake = %v", err)
		}
		time.Sleep(time.Minute)
		if err := a.revocations.Revoke(t.Context(), "west"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		for name, tt := range map[string]struct {
			token string
			err   error
			proxy string
			say   string
		}{
			"used":    {used, ErrTokenUsed, "east", "was used at"},
			"late":    {late, ErrTokenExpired, "late", "was good until"},
			"unknown": {newToken(fingerprintOf(a.ca.cert)).text(), ErrTokenUnknown, "", "knows no such enrolment token"},
			"damaged": {used[:50] + "xyz" + used[53:], nil, "", "copy it again"},
			"API":     {"ohr_0123", nil, "", "begins with ohe_"},
			"none":    {"", nil, "", "begins with ohe_"},
		} {
			for _, a := range []*Authority{a, openAuthority(t, state, store)} {
				e, _ := ask(t, tt.token)
				answer, err := a.Enrol(t.Context(), e)
				wantSentence(t, err, ohrouter.Unauthorized, tt.say)
				if tt.err != nil && !errors.Is(err, tt.err) || answer.Proxy != tt.proxy || answer.Certificate != "" {
					t.Errorf("%s: Enrol() = %+v, %v, want %q and %v", name, answer, err, tt.proxy, tt.err)
				}
			}
		}
		long, err := a.Invite(t.Context(), "west", MaxInvitation)
		if err != nil {
			t.Fatal(err)
		}
		_ = revoked
		if err := a.revocations.Revoke(t.Context(), "west"); err != nil {
			t.Fatal(err)
		}
		e, _ = ask(t, long.Token)
		if _, err := a.Enrol(t.Context(), e); !errors.Is(err, ErrRevoked) {
			t.Errorf("Enrol with a token from before a revocation = %v, want ErrRevoked", err)
		}
		store.err = errors.New("disk full")
		e, _ = ask(t, invite(t, openAuthority(t, state, newMemory()), "east"))
		if _, err := a.Enrol(t.Context(), e); err == nil {
			t.Error("Enrol without a store = nil, want an error")
		}
	})
}

// TestEnrolAtOnce has one token in many hands.
func TestEnrolAtOnce(t *testing.T) {
	a, _, _ := authority(t)
	token := invite(t, a, "east")
	var got atomic.Int32
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			e, _ := ask(t, token)
			_, err := a.Enrol(t.Context(), e)
			switch {
			case err == nil:
				got.Add(1)
			case !errors.Is(err, ErrTokenUsed):
				t.Errorf("Enrol() = %v, want ErrTokenUsed", err)
			}
		})
	}
	wg.Wait()
	if n := got.Load(); n != 1 {
		t.Errorf("%d certificates from one token, want 1", n)
	}
}

// TestRevoke revokes a proxy and lets it come back.
func TestRevoke(t *testing.T) {
	a, state, store := authority(t)
	old, bystander := enrolled(t, a, "east"), enrolled(t, a, "west")
	list := a.revocations
	if list.Revoked(old) {
		t.Fatal("revoked before it was")
	}
	if err := list.Revoke(t.Context(), "east"); err != nil {
		t.Fatal(err)
	}
	renewed := enrolled(t, a, "east") // by a new invitation
	for _, list := range []*Revocations{list, openAuthority(t, state, store).revocations} {
		if !list.Revoked(old) || list.Revoked(bystander) || list.Revoked(renewed) {
			t.Errorf("revoked: old %v, another proxy %v, new %v; want only the old", list.Revoked(old), list.Revoked(bystander), list.Revoked(renewed))
		}
	}
	if err := list.Revoke(t.Context(), "east"); err != nil || !list.Revoked(renewed) {
		t.Errorf("a second Revoke at once = %v, and the certificate between is revoked: %v, want true", err, list.Revoked(renewed))
	}
	if err := list.Revoke(t.Context(), "East"); ohrouter.CodeOf(err) != ohrouter.InvalidRequest {
		t.Errorf("Revoke(East) = %v", err)
	}
	store.err = errors.New("disk full")
	if err := list.Revoke(t.Context(), "west"); err == nil || list.Revoked(bystander) {
		t.Errorf("Revoke without a store = %v, and revoked %v", err, list.Revoked(bystander))
	}
	if _, err := LoadRevocations(t.Context(), store); err == nil {
		t.Error("LoadRevocations without a store = nil")
	}
}

// A revocation between the check and the signature is not outlived.
func TestSignedWhileRevoked(t *testing.T) {
	a, _, _ := authority(t)
	_, key := ask(t, "")
	checked, _ := a.revocations.last("east")
	if err := a.revocations.Revoke(t.Context(), "east"); err != nil {
		t.Fatal(err)
	}
	if _, err := a.sign("east", key.Public(), checked); !errors.Is(err, ErrRevoked) {
		t.Errorf("sign = %v, want %v", err, ErrRevoked)
	}
}

func TestRenew(t *testing.T) {
	a, state, _ := authority(t)
	router := opened(t, Config{Files: In(state, Router), Role: Router})
	c := enrolled(t, a, "east")
	e, key := ask(t, "")
	answer, err := a.Renew(c, e)
	if err != nil {
		t.Fatal(err)
	}
	again, _, err := accept(answer, key, fingerprintOf(a.ca.cert))
	if err != nil {
		t.Fatal(err)
	}
	if id, _ := Of(again); id != east {
		t.Errorf("the new certificate is of %v", id)
	}
	if _, err := a.Renew(c, ohrouter.Enrolment{}); ohrouter.CodeOf(err) != ohrouter.InvalidRequest {
		t.Errorf("Renew without a CSR = %v", err)
	}
	stranger, _ := leaf(t, ca(t), east, nil)
	ended, _ := leaf(t, a.ca, east, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) })
	if err := a.revocations.Revoke(t.Context(), "east"); err != nil {
		t.Fatal(err)
	}
	for say, c := range map[string]*x509.Certificate{
		"not signed by": stranger, "ended at": ended, "has been revoked": c, "a proxy is wanted": router.Leaf(),
	} {
		_, err := a.Renew(c, e)
		wantSentence(t, err, ohrouter.Unauthorized, say)
	}
}

// TestRouterRenews lets a router run for a month, and be off for another.
func TestRouterRenews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, state, store := authority(t)
		c := opened(t, Config{Files: In(state, Router), Role: Router})
		hosts := hostsOf(c.Leaf())
		go a.Run(t.Context())
		seen := map[string]bool{}
		for range 30 * 24 {
			time.Sleep(time.Hour)
			c.refresh()
			leaf := c.Leaf()
			seen[leaf.SerialNumber.String()] = true
			if left := time.Until(leaf.NotAfter); left < RouterLife/3-time.Hour {
				t.Fatalf("%v left of the router's certificate", left)
			}
			if hostsOf(leaf).count() != hosts.count() || c.ID().Role != Router {
				t.Fatalf("the new certificate is of %v, with %v", c.ID(), hostsOf(leaf))
			}
		}
		if len(seen) < 6 || len(seen) > 8 {
			t.Errorf("%d certificates in 30 days, want 7", len(seen))
		}

		off := t.TempDir()
		if _, err := Init(off, nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(30 * 24 * time.Hour)
		openAuthority(t, off, store)
		opened(t, Config{Files: In(off, Router), Role: Router})
	})
}

// TestLeafEndsWithItsCA: a certificate that outlived its CA would look good when
// nobody trusts it any more.
func TestLeafEndsWithItsCA(t *testing.T) {
	by, err := newIssuer("main")
	if err != nil {
		t.Fatal(err)
	}
	key, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	by.cert.NotAfter = by.cert.NotBefore.Add(2 * time.Hour)
	c, err := by.issue(order{id: east, key: key.Public(), life: ProxyLife})
	if err != nil || !c.NotAfter.Equal(by.cert.NotAfter) {
		t.Errorf("issue() = a certificate until %v, %v, want it until its CA's end, %v", c.NotAfter, err, by.cert.NotAfter)
	}
}
