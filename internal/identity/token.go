package identity

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"hash/crc32"
	"strings"

	ohrouter "github.com/ohrouter/oh-router"
)

// tokenPrefix begins every enrolment token, so that people and scanners for
// lost secrets know one when they see it.
const tokenPrefix = "ohe_"

// An enrolment token is the prefix and, in base64url, 256 random bits, the
// SHA-256 of the CA's certificate, and a CRC-32 of both. With the fingerprint
// the machine that enrols knows its router before it has anything else.
const (
	secretSize = 32
	tokenSize  = secretSize + sha256.Size + crc32.Size
)

var tokenEncoding = base64.RawURLEncoding.Strict() // one spelling for each

// token is an enrolment token. It is a secret: it has no String.
type token struct {
	secret [secretSize]byte
	ca     fingerprint
}

// newToken makes a token for the CA.
func newToken(ca fingerprint) token {
	t := token{ca: ca}
	_, _ = rand.Read(t.secret[:]) // it never fails
	return t
}

// text returns the token as its user gets it.
func (t token) text() string {
	b := make([]byte, 0, tokenSize)
	b = append(append(b, t.secret[:]...), t.ca[:]...)
	b = binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
	return tokenPrefix + tokenEncoding.EncodeToString(b)
}

// hash is all of the token that is stored.
func (t token) hash() string {
	sum := sha256.Sum256([]byte(t.text()))
	return hex.EncodeToString(sum[:])
}

// parseToken reads what text returned. Errors never show the text.
func parseToken(s string) (token, error) {
	var t token
	encoded, ok := strings.CutPrefix(s, tokenPrefix)
	if !ok || len(encoded) != tokenEncoding.EncodedLen(tokenSize) {
		return t, ohrouter.Errorf(ohrouter.Unauthorized,
			"this is not an enrolment token: one begins with %s and has %d characters", tokenPrefix, len(tokenPrefix)+tokenEncoding.EncodedLen(tokenSize))
	}
	b, err := tokenEncoding.DecodeString(encoded)
	// The decoder skips line ends, so that less may come out.
	if err != nil || len(b) != tokenSize || crc32.ChecksumIEEE(b[:tokenSize-crc32.Size]) != binary.BigEndian.Uint32(b[tokenSize-crc32.Size:]) {
		return t, ohrouter.Errorf(ohrouter.Unauthorized, "the enrolment token has been damaged on its way: copy it again, as a whole")
	}
	copy(t.secret[:], b)
	copy(t.ca[:], b[secretSize:])
	return t, nil
}
