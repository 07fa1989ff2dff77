package gate

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"io"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
)

// wire is a connection of which one direction is known.
type wire struct {
	io.Reader
	asked   int // the most bytes that a read asked for
	written bytes.Buffer
}

func (w *wire) Read(b []byte) (int, error) {
	w.asked = max(w.asked, len(b))
	return w.Reader.Read(b)
}

func (w *wire) Write(b []byte) (int, error) { return w.written.Write(b) }

// tlsRecord returns a record of a handshake with so many bytes.
func tlsRecord(size int) []byte {
	b := append([]byte{22, 3, 1, 0, 0}, make([]byte, size)...)
	binary.BigEndian.PutUint16(b[3:], uint16(size))
	return b
}

func TestHandshakeIsBounded(t *testing.T) {
	const answer = -1
	for _, tt := range []struct {
		name string
		come []int // records, or the server's answer
		want bool  // all of it comes through
	}{
		{"a hello", []int{1500}, true},
		{"the largest hello", []int{MaxHello - 5}, true},
		{"a larger hello", []int{MaxHello - 4}, false},
		{"a hello in pieces", []int{2000, 2000, 20}, true},
		{"a large hello in pieces", []int{2000, 2000, 100}, false},
		{"a large hello in small pieces", append([]int{4080}, 0, 1, 1), false},
		{"certificates", []int{1500, answer, 1, 14000, 300, 64}, true},
		{"too many certificates", []int{1500, answer, 1, 15000}, false},
		{"a length bomb", []int{65535}, false},
		{"a length bomb behind the hello", []int{1500, answer, 65535}, false},
	} {
		for _, step := range []func(io.Reader) io.Reader{func(r io.Reader) io.Reader { return r }, iotest.OneByteReader, iotest.HalfReader} {
			w := &wire{}
			h := NewHandshake(w, 16<<10)
			var err error
			for _, size := range tt.come {
				if size == answer {
					_, _ = h.Write([]byte("answer"))
					continue
				}
				r := tlsRecord(size)
				w.Reader = step(bytes.NewReader(r))
				got := make([]byte, len(r))
				if _, err = io.ReadFull(h, got); err != nil {
					break
				}
				if !bytes.Equal(got, r) {
					t.Fatalf("%s: other bytes come than were sent", tt.name)
				}
			}
			switch {
			case tt.want && err != nil:
				t.Errorf("%s: %v", tt.name, err)
			case !tt.want && ohrouter.CodeOf(err) != ohrouter.InvalidRequest:
				t.Errorf("%s: %v, want it refused", tt.name, err)
			case !tt.want && w.asked > 4080:
				t.Errorf("%s: %d bytes were asked for", tt.name, w.asked)
			}
		}
	}
}

// TestHandshakeTakesNothingBehindIt has what follows in the same segment.
func TestHandshakeTakesNothingBehindIt(t *testing.T) {
	r := tlsRecord(100)
	rest := strings.NewReader(string(r) + "behind it")
	h := NewHandshake(&wire{Reader: rest}, 16<<10)
	for got := 0; got < len(r); {
		n, err := h.Read(make([]byte, 4096))
		if err != nil {
			t.Fatal(err)
		}
		got += n
	}
	if b, _ := io.ReadAll(rest); string(b) != "behind it" {
		t.Errorf("behind the record there is %q", b)
	}
}

func TestRefill(t *testing.T) {
	w := &wire{Reader: bytes.NewReader(append(tlsRecord(3000), tlsRecord(3000)...))}
	h := NewHandshake(w, 16<<10)
	_, _ = io.CopyN(io.Discard, h, 3005)
	h.Refill(3000)
	if n, err := io.CopyN(io.Discard, h, 3005); err == nil {
		t.Errorf("%d bytes came where 3000 were allowed", n)
	}

	reader, writer := io.Pipe()
	h = NewHandshake(&wire{Reader: reader}, 16<<10)
	got := make(chan error)
	go func() {
		_, err := io.CopyN(io.Discard, h, 20005)
		got <- err
	}()
	first := tlsRecord(20000)
	_, _ = writer.Write(first[:2]) // it reads
	h.Lift()
	_, _ = writer.Write(first[2:])
	if err := <-got; err != nil {
		t.Errorf("lifted while it reads: %v", err)
	}
}

// TestOtherProtocols leaves it to crypto/tls to say what is wrong.
func TestOtherProtocols(t *testing.T) {
	for _, first := range []string{"GET / HTTP/1.1\r\n\r\n", "SSH-2.0-OpenSSH\r\n", "\x00\x00\xff\xff\xff\xff", "\x80\xff\xff\xff\xff\xff"} {
		err := tls.Server(gated{h: NewHandshake(&wire{Reader: strings.NewReader(first)}, 16<<10)}, &tls.Config{}).Handshake()
		if err == nil || !strings.HasPrefix(err.Error(), "tls: ") {
			t.Errorf("%q: %v, want what crypto/tls says", first, err)
		}
	}
}

// gated is a connection behind a Handshake.
type gated struct {
	net.Conn
	h *Handshake
}

func (g gated) Read(b []byte) (int, error)  { return g.h.Read(b) }
func (g gated) Write(b []byte) (int, error) { return g.h.Write(b) }

// chain returns a leaf of an RSA key behind so many CAs.
func chain(t *testing.T, cas int) tls.Certificate {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	var out tls.Certificate
	out.PrivateKey = key
	var above *x509.Certificate
	for i := range cas + 1 {
		c := &x509.Certificate{
			SerialNumber: big.NewInt(int64(i + 1)), Subject: pkix.Name{CommonName: strings.Repeat("long ", 12) + string(rune('a'+i))},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
			IsCA: i < cas, BasicConstraintsValid: true, DNSNames: []string{"router.example"},
		}
		if above == nil {
			above = c
		}
		der, err := x509.CreateCertificate(rand.Reader, c, above, &key.PublicKey, key)
		if err != nil {
			t.Fatal(err)
		}
		out.Certificate = append([][]byte{der}, out.Certificate...)
		above = c
	}
	return out
}

// TestRealHandshakes are those of crypto/tls, the second one resumed.
func TestRealHandshakes(t *testing.T) {
	for _, tt := range []struct {
		name string
		cas  int
		most int
		want bool
	}{
		{"a leaf", 0, 16 << 10, true},
		{"a leaf, and little is allowed", 0, 8 << 10, true},
		{"9 KiB of certificates", 9, 16 << 10, true},
		{"9 KiB of certificates, and little is allowed", 9, 8 << 10, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			certificate := chain(t, tt.cas)
			server := &tls.Config{Certificates: []tls.Certificate{certificate}, ClientAuth: tls.RequireAnyClientCert, MinVersion: tls.VersionTLS13, SessionTicketsDisabled: tt.cas > 0}
			client := &tls.Config{Certificates: []tls.Certificate{certificate}, ServerName: "router.example", InsecureSkipVerify: true, ClientSessionCache: tls.NewLRUClientSessionCache(1)}
			for round := range 2 {
				resumed, err := shake(t, client, server, tt.most)
				if (err == nil) != tt.want || tt.want && resumed != (round > 0 && tt.cas == 0) {
					t.Errorf("round %d: resumed %v, %v; want %v", round, resumed, err, tt.want)
				}
			}
		})
	}
}

// shake has crypto/tls talk to itself, the server behind a Handshake.
func shake(t *testing.T, client, server *tls.Config, most int) (resumed bool, err error) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		c, err := tls.Dial("tcp", ln.Addr().String(), client)
		if err == nil {
			_, _ = io.Copy(io.Discard, c) // session tickets come with it
			c.Close()
		}
	})
	raw, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	s := tls.Server(gated{raw, NewHandshake(raw, most)}, server)
	if err := s.Handshake(); err != nil {
		return false, err
	}
	_ = s.CloseWrite()
	return s.ConnectionState().DidResume, nil
}
