package access

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"hash/crc32"
	"math/big"
	"strings"

	ohrouter "github.com/ohrouter/oh-router"
)

// A secret is "ohr_", 256 random bits as 43 base-62 digits, and the CRC-32 of
// both as 6 more. The prefix lets scanners find it where it should not be, and
// the checksum tells a mistyped one, or one that is only alike, from a real one
// without asking anybody.
const (
	prefix         = "ohr_"
	digits         = 43
	checksumDigits = 6
	secretSize     = len(prefix) + digits + checksumDigits
	hashSize       = sha256.Size
)

// newSecret returns a secret that nobody has had before.
func newSecret() string {
	var random [32]byte
	_, _ = rand.Read(random[:]) // it never fails
	body := prefix + base62(new(big.Int).SetBytes(random[:]), digits)
	return body + checksum(body)
}

// parseSecret returns the hash of something that looks like a secret. The error
// has code [ohrouter.Unauthorized] and nothing of the text in it.
func parseSecret(text string) (hash [hashSize]byte, err error) {
	bad := func(why string) ([hashSize]byte, error) {
		return hash, ohrouter.Errorf(ohrouter.Unauthorized, "what the call shows is not an API token: %s", why)
	}
	switch {
	case len(text) < len(prefix) || text[:len(prefix)] != prefix:
		return bad("one begins with " + prefix)
	case len(text) != secretSize:
		return bad("its length is wrong; was it cut or run together with something else?")
	case strings.ContainsFunc(text[len(prefix):], notDigit):
		return bad("it has characters that none has")
	case checksum(text[:secretSize-checksumDigits]) != text[secretSize-checksumDigits:]:
		return bad("its checksum is wrong; was it mistyped?")
	}
	return hashOf(text), nil
}

// hashOf returns what is kept of a secret. A plain hash is enough: nobody can
// try 256 random bits.
func hashOf(secret string) [hashSize]byte { return sha256.Sum256([]byte(secret)) }

// idOf returns the id of the token with a hash: 60 bits of it.
func idOf(hash [hashSize]byte) string {
	return "t-" + strings.ToLower(base32.StdEncoding.EncodeToString(hash[:10]))[:12]
}

func checksum(body string) string {
	return base62(big.NewInt(int64(crc32.ChecksumIEEE([]byte(body)))), checksumDigits)
}

// base62 returns a number in n digits.
func base62(number *big.Int, n int) string {
	text := number.Text(62)
	return strings.Repeat("0", n-len(text)) + text
}

func notDigit(r rune) bool {
	return !('0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z')
}
