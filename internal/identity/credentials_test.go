package identity

import (
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
)

func TestOpenRefuses(t *testing.T) {
	by, other := ca(t), ca(t)
	good, key := leaf(t, by, east, nil)
	_, otherKey := leaf(t, by, east, nil)
	asRouter, routerKey := leaf(t, by, main1, nil)
	clientOnly, clientKey := leaf(t, by, east, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} })
	nameless, namelessKey := leaf(t, by, east, func(c *x509.Certificate) { c.URIs = nil })
	ended, endedKey := leaf(t, by, east, func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	})
	theirs := organisation(t)
	endedTheirs, endedTheirsKey := leaf(t, theirs, east, func(c *x509.Certificate) { c.NotBefore, c.NotAfter = ended.NotBefore, ended.NotAfter })
	write := func(text string) string {
		path := filepath.Join(t.TempDir(), "x.pem")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	part := func(f Files, change func(*Files)) Files {
		change(&f)
		return f
	}
	whole := bundle(t, key, good, by.cert)
	tests := []struct {
		name  string
		files Files
		say   string
	}{
		{"no file", part(whole, func(f *Files) { f.Cert = filepath.Join(t.TempDir(), "none") }), "oh-router proxy enroll"},
		{"no CA", bundle(t, key, good), "no certificate in it is that of a CA"},
		{"another CA", bundle(t, key, good, other.cert), "not signed by the CA that is trusted here"},
		{"another key", bundle(t, otherKey, good, by.cert), "do not make a pair"},
		{"a router's", bundle(t, routerKey, asRouter, by.cert), "it is the certificate of router/main, and this is a proxy"},
		{"for clients", bundle(t, clientKey, clientOnly, by.cert), "not for this use"},
		{"without a name", bundle(t, namelessKey, nameless, by.cert), "0 URI names"},
		{"ended", bundle(t, endedKey, ended, by.cert), "enrol it again"},
		{"ended, of an organisation's CA", bundle(t, endedTheirsKey, endedTheirs, theirs.cert), "replace it"},
		{"the CA first", bundle(t, by.key, by.cert, good), "0 URI names"},
		{"garbage", part(whole, func(f *Files) { f.Cert = write("garbage") }), "no certificate in PEM form"},
		{"no key", part(whole, func(f *Files) { f.Key = write("garbage") }), "do not make a pair"},
		{"damaged", part(whole, func(f *Files) { f.Cert = write("-----BEGIN CERTIFICATE-----\nMAAA\n-----END CERTIFICATE-----\n") }), "certificate 1 in it"},
		{"huge", part(whole, func(f *Files) { f.CA = write(strings.Repeat("x", maxPEM+1)) }), "more than 256 KiB"},
		{"many", part(whole, func(f *Files) { f.CA = write(strings.Repeat("-----BEGIN A-----\n-----END A-----\n", maxBlocks+1)) }), "more than 256 PEM blocks"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Open(Config{Files: tt.files, Role: Proxy})
			if err == nil || !strings.Contains(err.Error(), tt.say) {
				t.Errorf("Open() = %v, want it to say %q", err, tt.say)
			}
		})
	}
	if c, err := Open(Config{Files: whole, Role: Proxy}); err != nil || c.ID() != east {
		t.Errorf("Open of a good one = %v", err)
	}
}

// TestUnreadable has a state directory of another user: it is not as if there
// were no identity.
func TestUnreadable(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("root may read everything")
	}
	state := t.TempDir()
	dir := filepath.Join(state, folder)
	if HasProxy(state) {
		t.Error("HasProxy of an empty directory = true, want false")
	}
	if err := os.Mkdir(dir, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(dir, 0o700) }) //nolint:gosec // it is a directory
	if !HasProxy(state) {
		t.Error("HasProxy of a directory that may not be searched = false, want true")
	}
	_, err := Open(Config{Files: In(state, Proxy), Role: Proxy})
	if err == nil || !strings.Contains(err.Error(), "run as a user who may read it") {
		t.Errorf("Open() = %v, want it to say who may read", err)
	}
}

// TestFollow changes files under credentials that are in use.
func TestFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		by := ca(t)
		first, firstKey := leaf(t, by, east, nil)
		second, secondKey := leaf(t, by, east, nil)
		whole := bundle(t, firstKey, first, by.cert)
		key := bundle(t, firstKey, first)
		var log record
		c := opened(t, Config{Files: Files{Cert: whole.Cert, Key: key.Key, CA: whole.CA}, Role: Proxy, Log: log.log()})
		go c.Run(t.Context())
		want := func(what string, leaf *x509.Certificate, errors int, trouble bool) {
			t.Helper()
			time.Sleep(3 * pollInterval)
			synctest.Wait()
			if !c.Leaf().Equal(leaf) || log.count("level=ERROR") != errors || (c.Trouble() != nil) != trouble {
				t.Errorf("%s: the first in use: %v, %d errors logged, trouble %v; want %v, %d, %v", what,
					c.Leaf().Equal(first), log.count("level=ERROR"), c.Trouble(), leaf.Equal(first), errors, trouble)
			}
		}
		want("nothing changed", first, 0, false)
		changed := c.Changed()
		writeBundle(t, whole.Cert, secondKey, second, by.cert)
		want("certificate without its key", first, 1, true)
		writeBundle(t, key.Key, secondKey, second)
		want("both", second, 1, false)
		select {
		case <-changed:
		default:
			t.Error("nobody was told of the change")
		}
		if err := os.Remove(whole.Cert); err != nil {
			t.Fatal(err)
		}
		want("certificate gone", second, 2, true)
		writeBundle(t, whole.Cert, firstKey, first, by.cert)
		want("another certificate", second, 3, true)
		writeBundle(t, whole.Cert, secondKey, second, by.cert)
		want("the former one back", second, 3, false)
		if n := log.count("certificate in use"); n != 1 {
			t.Errorf("%d lines about a certificate in use, want 1", n)
		}
		ended, endedKey := leaf(t, by, east, func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
		})
		writeBundle(t, key.Key, endedKey, ended)
		writeBundle(t, whole.Cert, endedKey, ended, by.cert)
		want("one that has ended", second, 4, true)
		later, laterKey := leaf(t, by, east, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(10 * pollInterval) })
		writeBundle(t, key.Key, laterKey, later)
		writeBundle(t, whole.Cert, laterKey, later, by.cert)
		want("one that begins later", second, 5, true)
		time.Sleep(10 * pollInterval)
		want("when it has begun", later, 5, false)
	})
}

// TestEndsSoon has a certificate that nobody renews.
func TestEndsSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		by := ca(t)
		cert, key := leaf(t, by, east, nil) // for two hours, one of which is over
		var log record
		c := opened(t, Config{Files: bundle(t, key, cert, by.cert), Role: Proxy, Log: log.log()})
		go c.Run(t.Context())
		time.Sleep(29 * time.Minute)
		if n := log.count("ends soon"); n != 0 {
			t.Errorf("%d warnings with a quarter of the life left, want 0", n)
		}
		time.Sleep(20 * time.Minute)
		if n := log.count("level=WARN msg=\"certificate ends soon"); n != 1 {
			t.Errorf("%d warnings, want 1", n)
		}
	})
}

func TestOf(t *testing.T) {
	by := ca(t)
	for _, id := range []ID{east, main1, {Proxy, strings.Repeat("a", 63)}} {
		c, _ := leaf(t, by, id, nil)
		if got, err := Of(c); got != id || err != nil {
			t.Errorf("Of(%v) = %v, %v", id, got, err)
		}
	}
	for _, id := range []ID{{Proxy, ""}, {Proxy, "East"}, {Proxy, "-a"}, {Proxy, "a/b"}, {Proxy, "ä"}, {Proxy, strings.Repeat("a", 64)}, {"", "east"}, {"admin", "east"}} {
		c, _ := leaf(t, by, id, nil)
		if got, err := Of(c); err == nil {
			t.Errorf("Of(%q) = %v, want an error", id, got)
		} else {
			wantSentence(t, err, ohrouter.Unauthorized, "proxy/NAME")
		}
	}
}
