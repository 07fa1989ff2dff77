package access

import (
	"math/big"
	"strings"
	"testing"

	ohrouter "github.com/ohrouter/oh-router"
)

func TestSecret(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		s := newSecret()
		if seen[s] || len(s) != secretSize || !strings.HasPrefix(s, "ohr_") {
			t.Fatalf("secret %q is not new or not one", s)
		}
		seen[s] = true
		if _, err := parseSecret(s); err != nil {
			t.Fatalf("parseSecret(%q) = %v", s, err)
		}
	}
}

// TestChecksum finds every single wrong character.
func TestChecksum(t *testing.T) {
	s := newSecret()
	for i := range len(s) {
		wrong := []byte(s)
		wrong[i] ^= 1
		if _, err := parseSecret(string(wrong)); ohrouter.CodeOf(err) != ohrouter.Unauthorized {
			t.Errorf("parseSecret with character %d changed = %v, want %s", i, err, ohrouter.Unauthorized)
		}
	}
}

func TestBase62(t *testing.T) {
	most := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 256), big.NewInt(1))
	if got := base62(most, digits); len(got) != digits {
		t.Errorf("256 bits have %d digits, want %d", len(got), digits)
	}
	if got := base62(big.NewInt(0), digits); got != strings.Repeat("0", digits) {
		t.Errorf("0 = %q", got)
	}
	if got := base62(big.NewInt(1<<32-1), checksumDigits); len(got) != checksumDigits {
		t.Errorf("a checksum has %d digits, want %d", len(got), checksumDigits)
	}
}

// FuzzParseSecret shows anything: nothing but a secret passes, whatever is
// shown is not repeated, and no two texts are one secret.
func FuzzParseSecret(f *testing.F) {
	f.Add(newSecret())
	f.Add("ohr_")
	f.Add("")
	f.Add(prefix + strings.Repeat("0", digits+checksumDigits))
	f.Fuzz(func(t *testing.T, text string) {
		hash, err := parseSecret(text)
		if err != nil {
			if ohrouter.CodeOf(err) != ohrouter.Unauthorized {
				t.Errorf("error %v has not the code %s", err, ohrouter.Unauthorized)
			}
			if len(text) == secretSize && strings.Contains(err.Error(), text[len(prefix):]) {
				t.Errorf("error %v repeats what was shown", err)
			}
			return
		}
		if len(text) != secretSize || strings.ContainsFunc(text[len(prefix):], notDigit) || hash != hashOf(text) {
			t.Errorf("%q passes for a secret", text)
		}
	})
}
