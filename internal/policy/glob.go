package policy

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/ohrouter/oh-router"
)

// parseGlob returns the canonical form of a host name with stars: what is left
// of the stars has the form that [ohrouter.Target] gives a name.
func parseGlob(s string) (string, error) {
	if len(s) > 2*maxGlob {
		return "", fmt.Errorf("its host is longer than the %d characters of a host name", maxGlob)
	}
	if !strings.Contains(s, "*") {
		t, err := ohrouter.NewTarget(s, "1")
		if err != nil {
			return "", err
		}
		if t.Addr().IsValid() {
			return "", fmt.Errorf("%.100q is an address in another spelling: write %s", s, t.Host)
		}
		return t.Host, nil
	}
	s = strings.TrimSuffix(s, ".")
	for strings.Contains(s, "**") {
		s = strings.ReplaceAll(s, "**", "*")
	}
	labels := strings.Split(s, ".")
	for i, l := range labels {
		var err error
		if labels[i], err = canonicalLabel(l); err != nil {
			return "", err
		}
	}
	s = strings.Join(labels, ".")
	// 10.0.* would be taken for a network, and would match 10.0.example.com.
	if strings.Trim(s, "0123456789.*") == "" && strings.Trim(s, ".*") != "" {
		return "", fmt.Errorf("%.100q looks like a range of addresses: write %s", s, cmp.Or(network(s), "it as a CIDR, as in 10.0.0.0/8"))
	}
	if len(s) > maxGlob {
		return "", fmt.Errorf("its host is longer than the %d characters of a host name", maxGlob)
	}
	return s, nil
}

// network returns the CIDR that 10.0.* or 10.0.*.* stands for; "" if there is
// none.
func network(s string) string {
	numbers := strings.TrimRight(s, ".*")
	dots := strings.Count(numbers, ".")
	if !strings.HasPrefix(s[len(numbers):], ".") || strings.Count(s, ".") > 3 {
		return ""
	}
	p, err := netip.ParsePrefix(fmt.Sprintf("%s%s/%d", numbers, strings.Repeat(".0", 3-dots), 8*(dots+1)))
	if err != nil {
		return ""
	}
	return cidrString(p)
}

// canonicalLabel returns the canonical form of what stands between two dots.
func canonicalLabel(l string) (string, error) {
	if !strings.Contains(l, "*") {
		// Behind another label, as a number alone would be read as an address.
		t, err := ohrouter.NewTarget(l+".x", "1")
		if err != nil {
			return "", fmt.Errorf("%.100q between dots is not part of a host name", l)
		}
		return strings.TrimSuffix(t.Host, ".x"), nil
	}
	l = strings.ToLower(l)
	if strings.Trim(l, "abcdefghijklmnopqrstuvwxyz0123456789-_*") != "" {
		return "", errors.New("beside a * a name has only letters a-z, digits, hyphens and underscores")
	}
	return l, nil
}

// globMatches tells whether glob, in which * stands for any number of
// characters, matches the whole of s. Its time is bounded by the product of
// the lengths, whatever the stars.
func globMatches(glob, s string) bool {
	head, rest, star := strings.Cut(glob, "*")
	if !star {
		return glob == s
	}
	s, ok := strings.CutPrefix(s, head)
	if !ok {
		return false
	}
	for {
		part, more, star := strings.Cut(rest, "*")
		if !star {
			return strings.HasSuffix(s, part)
		}
		i := strings.Index(s, part) // the first match leaves the most to the others
		if i < 0 {
			return false
		}
		s, rest = s[i+len(part):], more
	}
}
