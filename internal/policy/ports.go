package policy

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

const maxPort = 65535

// portRange is the ports from low to high, both included.
type portRange struct{ low, high uint16 }

// portSet is a set of ports: ranges in ascending order that neither overlap
// nor touch, so that equal sets are equal slices.
type portSet []portRange

// parsePorts reads "*" and lists such as "22,80,1000-2000".
func parsePorts(s string) (portSet, error) {
	if s == "" {
		return nil, errors.New("its ports are missing: write one (443), a range (1000-2000), several (22,80), or * for all")
	}
	if len(s) > maxPorts {
		return nil, fmt.Errorf("its ports are longer than %d characters", maxPorts)
	}
	var set portSet
	for item := range strings.SplitSeq(s, ",") {
		r, err := parsePortRange(strings.TrimSpace(item))
		if err != nil {
			return nil, err
		}
		set = append(set, r)
	}
	return set.merged(), nil
}

// parsePortRange reads one item of a list.
func parsePortRange(s string) (portRange, error) {
	if s == "*" {
		return portRange{1, maxPort}, nil
	}
	low, high, isRange := strings.Cut(s, "-")
	if !isRange {
		high = low
	}
	l, okLow := parsePort(low)
	h, okHigh := parsePort(high)
	switch {
	case !okLow || !okHigh:
		return portRange{}, fmt.Errorf("%.40q is not a port from 1 to 65535, a range such as 1000-2000, or *", s)
	case l > h:
		return portRange{}, fmt.Errorf("the port range %s ends before it begins: write %d-%d", s, h, l)
	}
	return portRange{l, h}, nil
}

// parsePort reads a port: digits alone, and not 0.
func parsePort(s string) (uint16, bool) {
	if strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	p, err := strconv.ParseUint(s, 10, 16)
	return uint16(p), err == nil && p != 0
}

// merged returns the same ports in the one form that portSet promises.
func (set portSet) merged() portSet {
	slices.SortFunc(set, func(a, b portRange) int { return cmp.Compare(a.low, b.low) })
	merged := set[:1]
	for _, r := range set[1:] {
		last := &merged[len(merged)-1]
		if int(r.low) <= int(last.high)+1 {
			last.high = max(last.high, r.high)
		} else {
			merged = append(merged, r)
		}
	}
	return merged
}

// contains tells whether port is in the set. Port 0 never is.
func (set portSet) contains(port uint16) bool {
	for _, r := range set {
		if port < r.low {
			return false
		}
		if port <= r.high {
			return true
		}
	}
	return false
}

// all tells whether every port is in the set.
func (set portSet) all() bool {
	return len(set) == 1 && set[0] == portRange{1, maxPort}
}

// String returns what [parsePorts] reads.
func (set portSet) String() string {
	if set.all() {
		return "*"
	}
	items := make([]string, len(set))
	for i, r := range set {
		items[i] = strconv.Itoa(int(r.low))
		if r.high > r.low {
			items[i] += "-" + strconv.Itoa(int(r.high))
		}
	}
	return strings.Join(items, ",")
}
