package relay_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/ohrouter/oh-router/internal/relay"
	"github.com/ohrouter/oh-router/internal/socket"
)

// updater writes the records of a TLS 1.3 client itself, as crypto/tls sends no
// key updates (RFC 8446, sections 4.6.3, 5.2 and 7.2).
type updater struct {
	secret []byte
	aead   cipher.AEAD
	iv     []byte
	seq    uint64
	out    bytes.Buffer
}

// newUpdater takes over from a client whose handshake is complete, and who has
// sent nothing yet.
func newUpdater(t *testing.T, keyLog string) *updater {
	t.Helper()
	for line := range strings.Lines(keyLog) {
		if f := strings.Fields(line); f[0] == "CLIENT_TRAFFIC_SECRET_0" {
			secret, err := hex.DecodeString(f[2])
			if err != nil {
				t.Fatal(err)
			}
			u := &updater{}
			u.use(t, secret)
			return u
		}
	}
	t.Fatal("no secret in the key log")
	return nil
}

func expand(t *testing.T, secret []byte, label string, length int) []byte {
	t.Helper()
	label = "tls13 " + label
	info := append([]byte{0, byte(length), byte(len(label))}, label...)
	b, err := hkdf.Expand(sha256.New, secret, string(append(info, 0)), length)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (u *updater) use(t *testing.T, secret []byte) {
	t.Helper()
	block, err := aes.NewCipher(expand(t, secret, "key", 16))
	if err != nil {
		t.Fatal(err)
	}
	if u.aead, err = cipher.NewGCM(block); err != nil {
		t.Fatal(err)
	}
	u.secret, u.iv, u.seq = secret, expand(t, secret, "iv", 12), 0
}

// record writes one record of a type.
func (u *updater) record(kind byte, b ...byte) {
	nonce := bytes.Clone(u.iv)
	binary.BigEndian.PutUint64(nonce[4:], binary.BigEndian.Uint64(nonce[4:])^u.seq)
	u.seq++
	header := []byte{23, 3, 3, 0, byte(len(b) + 1 + u.aead.Overhead())}
	u.out.Write(u.aead.Seal(header, nonce, append(b, kind), header))
}

// update asks for a key update, and makes one.
func (u *updater) update(t *testing.T) {
	u.record(22, 24, 0, 0, 1, 1)
	u.use(t, expand(t, u.secret, "traffic upd", sha256.Size))
}

// A peer that asks for key updates and reads none of the answers is cut before
// they take much memory.
func TestKeyUpdatesThatNobodyReads(t *testing.T) {
	near, far := tcpPair(t)
	near.(*net.TCPConn).SetWriteBuffer(32 << 10)
	var secrets strings.Builder
	server := tls.Server(socket.NewTransport(near.(*net.TCPConn)), &tls.Config{Certificates: []tls.Certificate{certificate(t)}})
	client := tls.Client(far, &tls.Config{InsecureSkipVerify: true, KeyLogWriter: &secrets})
	var wg sync.WaitGroup
	wg.Go(func() { client.Handshake() })
	if err := server.Handshake(); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	if id := client.ConnectionState().CipherSuite; id != tls.TLS_AES_128_GCM_SHA256 {
		t.Skipf("this machine uses %s, the test has AES only", tls.CipherSuiteName(id))
	}
	f := &fixture{end: make(chan relay.End, 1), t: t, side: [2]relay.Side{relay.A, relay.B}}
	f.near[0], f.far[0] = server, far
	f.near[1], f.far[1] = tcpPair(t)
	withEngine(t, f)
	u := newUpdater(t, secrets.String())
	const updates = 40_000 // whose answers take a megabyte
	for i := range updates {
		u.update(t)
		if i%10 < 9 {
			continue
		}
		u.record(23, 'x') // without, crypto/tls ends the connection after 16
		if _, err := u.out.WriteTo(far); err != nil {
			break
		}
	}
	buf := make([]byte, 64<<10)
	for {
		n, err := f.far[1].Read(buf)
		if err == nil && strings.Trim(string(buf[:n]), "x") == "" {
			continue
		}
		if !isReset(err) {
			t.Errorf("the other side reads %q, %v, want a reset", buf[:n], err)
		}
		break
	}
	if end := f.wait(); end.Side != relay.A || end.Err == nil || !strings.Contains(end.Err.Error(), "does not read") {
		t.Errorf("end = %+v, want that A does not read", end)
	}
}
