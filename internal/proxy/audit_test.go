package proxy_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"math/big"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/audit"
	"github.com/ohrouter/oh-router/internal/audit/audittest"
	"github.com/ohrouter/oh-router/internal/link"
	"github.com/ohrouter/oh-router/internal/proxy"
	"github.com/ohrouter/oh-router/internal/socket"
)

func TestAudit(t *testing.T) {
	log := audittest.New(t)
	f := startWith(t, proxy.Config{Audit: log.Log}, patient, "127.0.0.1:*")
	f.names.resolve = is("127.0.0.1")
	x := listen(t, "127.0.0.1", 0)
	n := 0
	ends := func() { // one after the other, for their order
		n++
		until(t, "the session's end is recorded", func() bool { return len(f.log.lines("session ended")) == n })
	}

	l, server := f.link(x, false) // on a loop
	say(t, l.Conn(), server, "up")
	server.Close()
	if _, err := io.Copy(io.Discard, l.Conn()); err != nil {
		t.Fatal(err)
	}
	l.Close()
	ends()
	l, server = f.link(x.named("db"), false) // in a goroutine
	say(t, server, l.Conn(), "down")
	socket.Abort(server)
	wantReset(t, "router", l.Conn())
	ends()
	f.wantCode(ohrouter.Target{Host: "10.0.0.1", Port: 1}, ohrouter.TargetDenied)
	f.wantCode(ohrouter.Target{Host: "127.0.0.1", Port: 1}, ohrouter.TargetRefused)
	l, _ = f.link(x, false)
	f.SetAllow(list(t, "127.0.0.2:*"))
	wantReset(t, "router", l.Conn())
	ends()
	f.Shutdown(ended())

	got := log.Lines(t, "session", "target", "resolved", "bytes_up", "bytes_down", "outcome", "code")
	changed := slices.Index(got, "allow_list_changed session= target= resolved= bytes_up= bytes_down= outcome= code=")
	if changed < 0 {
		t.Fatalf("the audit log has no new allow-list:\n%s", strings.Join(got, "\n"))
	}
	got = slices.Delete(got, changed, changed+1)
	direct, named := "session=s-1 target="+x.String()+" resolved="+x.String(), "session=s-1 target="+x.named("db").String()+" resolved="+x.String()
	want := []string{
		"session_opened " + direct + " bytes_up= bytes_down= outcome= code=",
		"session_closed " + direct + " bytes_up=2 bytes_down=0 outcome=target_closed code=",
		"session_opened " + named + " bytes_up= bytes_down= outcome= code=",
		"session_closed " + named + " bytes_up=0 bytes_down=4 outcome=target_reset code=",
		"session_refused session=s-1 target=10.0.0.1:1 resolved= bytes_up= bytes_down= outcome= code=target_denied",
		"session_refused session=s-1 target=127.0.0.1:1 resolved= bytes_up= bytes_down= outcome= code=target_refused",
		"session_opened " + direct + " bytes_up= bytes_down= outcome= code=",
		"session_closed " + direct + " bytes_up=0 bytes_down=0 outcome=target_denied code=",
	}
	if !slices.Equal(got, want) {
		t.Errorf("the audit log has\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for _, name := range []string{"router", "duration"} {
		if fields := log.Fields(t, audit.SessionClosed); !slices.Contains(fields, name) {
			t.Errorf("session_closed has %v, want %s among them", fields, name)
		}
	}
}

func TestAuditOfAllowLists(t *testing.T) {
	log := audittest.New(t)
	f := startWith(t, proxy.Config{Audit: log.Log}, patient, "127.0.0.1:*", "10.0.0.0/8:80")
	f.SetAllow(list(t, "127.0.0.1:*", "10.0.0.0/8:80")) // the same
	f.SetAllow(list(t, "10.0.0.0/8:80", "*.internal:443", "any"))
	f.SetAllow(nil)
	f.Shutdown(ended())
	want := []string{
		"allow_list_changed reason=patterns: 3, and 2 before; new: *.internal:443,any; gone: 127.0.0.1:*",
		"allow_list_changed reason=patterns: 0, and 3 before; new: none; gone: 10.0.0.0/8:80,*.internal:443,any",
	}
	if got := log.Lines(t, "reason"); !slices.Equal(got, want) {
		t.Errorf("the audit log has\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestAuditNamesTheRouter(t *testing.T) {
	pair := selfSigned(t, "main")
	log := audittest.New(t)
	f := startWith(t, proxy.Config{
		Audit: log.Log, TLS: &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAnyClientCert},
		Name: func(leaf *x509.Certificate) string { return leaf.Subject.CommonName },
	}, patient, "127.0.0.1:*")
	f.TLS = func(link.Proxy, bool) (*tls.Config, bool) {
		return &tls.Config{Certificates: []tls.Certificate{pair}, InsecureSkipVerify: true}, false
	}
	x := listen(t, "127.0.0.1", 0)
	l, server := f.link(x, false)
	say(t, l.Conn(), server, "up")
	f.wantCode(ohrouter.Target{Host: "10.0.0.1", Port: 1}, ohrouter.TargetDenied)
	f.Shutdown(ended())
	want := []string{"session_opened router_name=main", "session_refused router_name=main", "session_closed router_name=main"}
	if got := log.Lines(t, "router_name"); !slices.Equal(got, want) {
		t.Errorf("the audit log has %q, want %q", got, want)
	}
}

func TestAuditOfLinksRefused(t *testing.T) {
	pair := selfSigned(t, "main")
	secured := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS13, NextProtos: []string{"ours"}}
	shake := func(version uint16, protocol string) func(net.Conn) {
		return func(c net.Conn) {
			_ = tls.Client(c, &tls.Config{InsecureSkipVerify: true, MaxVersion: version, NextProtos: []string{protocol}}).Handshake()
		}
	}
	garbage := func(c net.Conn) { _, _ = c.Write([]byte("GET / HTTP/1.1\r\nHost: \x1b[2J\r\n\r\n")) }
	for name, tt := range map[string]struct {
		settings *tls.Config
		say      func(net.Conn)
		reason   string // "" none is refused
	}{
		"plain garbage":   {nil, garbage, "it looks like HTTP"},
		"garbage":         {secured, garbage, "first record does not look like a TLS handshake"},
		"TLS 1.2":         {secured, shake(tls.VersionTLS12, "ours"), "unsupported versions"},
		"another ALPN":    {secured, shake(tls.VersionTLS13, "h2"), "unsupported application protocols"},
		"half a frame":    {nil, func(c net.Conn) { _, _ = c.Write([]byte{0, 9}) }, "peer broke off"},
		"a look and gone": {nil, func(net.Conn) {}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			log := audittest.New(t)
			f := startWith(t, proxy.Config{Audit: log.Log, TLS: tt.settings}, patient, "127.0.0.1:*")
			for range 3 {
				c, err := net.Dial("tcp", f.addr)
				if err != nil {
					t.Fatal(err)
				}
				tt.say(c)
				_ = c.(*net.TCPConn).CloseWrite()
				_, _ = io.Copy(io.Discard, c)
				c.Close()
			}
			until(t, "links are over", func() bool { return len(f.log.lines("link refused"))+len(f.log.lines("link closed before")) == 3 })
			f.Shutdown(ended())
			got := log.Lines(t, "code", "reason", "count")
			if tt.reason == "" {
				if len(got) != 0 {
					t.Errorf("the audit log has %q, want nothing", got)
				}
				return
			}
			if len(got) != 2 || !strings.Contains(got[0], tt.reason) || !strings.HasSuffix(got[0], "count=") || !strings.HasSuffix(got[1], "count=2") {
				t.Errorf("the audit log has %q, want %q, and two more", got, tt.reason)
			}
			if fields := log.Fields(t, audit.LinkRefused); !slices.Contains(fields, "router") {
				t.Errorf("link_refused has %v, want router among them", fields)
			}
		})
	}
}

func TestAuditOfLinksDropped(t *testing.T) {
	log := audittest.New(t)
	f := startWith(t, proxy.Config{Audit: log.Log, Handshakes: 4, HandshakesPerSource: 4, HandshakeTimeout: time.Minute}, patient, "127.0.0.1:*")
	crowd := f.silent(10, "127.0.0.2")
	until(t, "six are dropped", func() (over bool) { // in the order in which loops took them
		n := 0
		for _, c := range crowd {
			if reset(c) {
				n++
			}
		}
		return n == 6
	})
	f.Shutdown(ended())
	want := []string{"link_refused code=quota_exceeded count=", "link_refused code=quota_exceeded count=5"}
	if got := log.Lines(t, "code", "count"); !slices.Equal(got, want) {
		t.Errorf("the audit log has %q, want %q", got, want)
	}
}

// selfSigned returns a certificate of that name.
func selfSigned(t testing.TB, name string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
