package config

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/policy"
	"github.com/ohrouter/oh-router/internal/socket"
)

// unbounded is the longest duration there is.
const unbounded = time.Duration(math.MaxInt64)

func parseLogLevel(s string) (slog.Level, error) {
	switch strings.ToLower(s) {
	case "debug":
		return slog.LevelDebug, nil
	case "info":
		return slog.LevelInfo, nil
	case "warn":
		return slog.LevelWarn, nil
	case "error":
		return slog.LevelError, nil
	}
	return 0, fmt.Errorf("%.60q is not a level: debug, info, warn or error", s)
}

func parseLogFormat(s string) (LogFormat, error) {
	switch f := LogFormat(strings.ToLower(s)); f {
	case AutoLog, TextLog, JSONLog:
		return f, nil
	}
	return "", fmt.Errorf("%.60q is not a log format: text, json or auto", s)
}

// What a handshake of TLS may take: chains of certificates are most of it.
const (
	minHandshake = 8 << 10
	maxHandshake = 256 << 10
)

func parseHandshake(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < minHandshake || n > maxHandshake {
		return 0, fmt.Errorf("%.60q is not a number of bytes from %d to %d", s, minHandshake, maxHandshake)
	}
	return n, nil
}

// maxPool is the most warm links to one proxy: a proxy takes 1,024 of a router
// that are not acknowledged, checks included.
const maxPool = 256

func parsePool(s string) (p Pool, err error) {
	low, high, ok := strings.Cut(s, "-")
	if ok {
		p.Min, err = strconv.Atoi(low)
	}
	if ok && err == nil {
		p.Max, err = strconv.Atoi(high)
	}
	if !ok || err != nil || p.Min < 0 || p.Min > p.Max || p.Max > maxPool {
		return Pool{}, fmt.Errorf("%.60q is not MIN-MAX with 0 <= MIN <= MAX <= %d, such as 0-64", s, maxPool)
	}
	return p, nil
}

func parseLinkSecurity(s string) (LinkSecurity, error) {
	switch m := LinkSecurity(s); m {
	case AutoSecurity, ExternalSecurity:
		return m, nil
	}
	return "", fmt.Errorf("%q is neither auto nor external", s)
}

func parseBool(s string) (bool, error) {
	b, err := strconv.ParseBool(s)
	if err != nil {
		return false, fmt.Errorf("%.60q is neither true nor false", s)
	}
	return b, nil
}

// parseDuration reads a duration from low to high.
func parseDuration(s string, low, high time.Duration) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if _, notNumber := strconv.Atoi(s); err != nil && notNumber == nil {
		unit, name := "s", "seconds"
		if high < time.Second {
			unit, name = "us", "microseconds"
		}
		if _, err := parseDuration(s+unit, low, high); err != nil {
			return 0, fmt.Errorf("%q has no unit, and %w", s, err)
		}
		return 0, fmt.Errorf("%q has no unit: write %s%s for %s", s, s, unit, name)
	}
	switch {
	case err != nil:
		return 0, fmt.Errorf("%.60q is not a duration such as 500ms, 90s, 5m or 1h30m", s)
	case d < 0:
		return 0, fmt.Errorf("%s is negative", s)
	case d < low && low == 1:
		return 0, fmt.Errorf("%s is too short: it has to be more than 0", s)
	case d < low:
		return 0, fmt.Errorf("%s is too short: it has to be %s at least", s, short(low))
	case d > high:
		return 0, fmt.Errorf("%s is too long: it may be %s at most", s, short(high))
	}
	return d, nil
}

// short returns a duration as people write it: 10m, and not 10m0s.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// parseListen reads the address of a listener whose port is usually so. An empty
// host is every address of the machine.
func parseListen(s string, usual int) (netip.AddrPort, error) {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%.100q is not IP:PORT, as in 127.0.0.1:%[2]d, [::1]:%[2]d, or :%[2]d for all addresses", s, usual)
	}
	p, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%.100q: the port is not a number from 0 to 65535 (0: any that is free)", s)
	}
	// On that of IPv6 Go listens on IPv4, too, and on it alone where there is
	// no IPv6.
	addr := netip.IPv6Unspecified()
	if host != "" {
		if addr, err = parseIP(host); err != nil {
			return netip.AddrPort{}, err
		}
	}
	return netip.AddrPortFrom(addr, uint16(p)), nil
}

// parseIP reads an address of this machine.
func parseIP(s string) (netip.Addr, error) {
	if strings.EqualFold(s, "localhost") {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1}), nil
	}
	inner := s
	if strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]") {
		inner = s[1 : len(s)-1]
	}
	addr, err := netip.ParseAddr(inner)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("%.100q is not an IP address of this machine, such as 127.0.0.1 or ::1", s)
	}
	return addr.Unmap(), nil
}

// parseBindAddress reads where mapped ports listen; the zero Addr stands for
// the host of the API.
func parseBindAddress(s string) (netip.Addr, error) {
	if s == "" {
		return netip.Addr{}, nil
	}
	return parseIP(s)
}

func parseAdvertise(s string) (string, error) {
	if s == "" {
		return "", nil
	}
	t, err := parseHost(s)
	if err == nil && t.Addr().IsUnspecified() {
		return "", fmt.Errorf("nobody can connect to %s: give a name or an address that clients reach, or leave it out", s)
	}
	return t.Host, err
}

// parseHost reads a name or an address.
func parseHost(s string) (ohrouter.Target, error) {
	t, err := ohrouter.NewTarget(s, "1")
	if err != nil && strings.Contains(s, ":") {
		return t, fmt.Errorf("%.100q is not a host: give a name or an address without a port", s)
	}
	return t, err
}

// parseHosts reads names of this machine.
func parseHosts(items []string) (hosts []string, err error) {
	var problems []error
	for _, item := range items {
		t, err := parseHost(item)
		if err != nil {
			problems = append(problems, err)
		}
		hosts = append(hosts, t.Host)
	}
	return hosts, errors.Join(problems...)
}

// parseDeadPeerTimeout reads how soon a dead peer is noticed. Systems count
// probes in seconds.
func parseDeadPeerTimeout(s string) (time.Duration, error) {
	d, err := parseDuration(s, socket.MinDeadAfter, socket.MaxDeadAfter)
	if err == nil && d%time.Second != 0 {
		return 0, fmt.Errorf("%s is not a whole number of seconds", s)
	}
	return d, err
}

const (
	maxBacklog = 1_000_000 // more is a slip of the pen
	maxLoops   = 64        // as many as an engine may have
)

// maxBusyPoll is from when on a pause is a long one in any case.
const maxBusyPoll = time.Millisecond

// parseNumber reads a number of things, or the word for 0.
func parseNumber(s, word string, high int) (int, error) {
	if s == word || s == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > high {
		return 0, fmt.Errorf("%.60q is neither %s nor a number from 1 to %d", s, word, high)
	}
	return n, nil
}

// parseCongestion returns the name of a congestion control, "" for the
// system's. Whether there is one of that name is for checkCongestion.
func parseCongestion(s string) string {
	if s == "system" {
		return ""
	}
	return s
}

func parsePorts(s string) (Ports, error) {
	first, last, isRange := strings.Cut(s, "-")
	if !isRange {
		last = first
	}
	low, errLow := strconv.ParseUint(strings.TrimSpace(first), 10, 16)
	high, errHigh := strconv.ParseUint(strings.TrimSpace(last), 10, 16)
	switch {
	case errLow != nil || errHigh != nil || low == 0 || high == 0:
		return Ports{}, fmt.Errorf("%.60q is not a range of ports from 1 to 65535, as in 20000-29999", s)
	case low > high:
		return Ports{}, fmt.Errorf("%s ends before it begins: write %d-%d", s, high, low)
	}
	return Ports{uint16(low), uint16(high)}, nil
}

func parseProxies(items []string) ([]ProxyAddress, error) {
	if len(items) == 0 {
		return nil, errors.New("it names no proxy, so nothing could be mapped: leave it out for the default")
	}
	var proxies []ProxyAddress
	var problems []error
	names := map[string]bool{}
	for _, item := range items {
		p, err := parseProxy(item)
		switch {
		case err != nil:
			problems = append(problems, err)
		case names[p.Name]:
			problems = append(problems, fmt.Errorf("%q names a proxy %s for the second time", item, p.Name))
		}
		names[p.Name] = true
		proxies = append(proxies, p)
	}
	return proxies, errors.Join(problems...)
}

// parseProxy reads [NAME=]HOST:PORT.
func parseProxy(s string) (ProxyAddress, error) {
	name, address, named := strings.Cut(s, "=")
	if !named {
		address = s
	}
	t, err := ohrouter.ParseTarget(address)
	switch {
	case err != nil:
		return ProxyAddress{}, fmt.Errorf("%.100q is not [NAME=]HOST:PORT: %s", s, ohrouter.Message(err))
	case named && !isProxyName(name):
		return ProxyAddress{}, fmt.Errorf("%.100q is not a name for a proxy: up to 63 of a-z, 0-9 and hyphen, a hyphen not first", name)
	case !named:
		name = t.String()
	}
	return ProxyAddress{Name: name, Address: t.String()}, nil
}

func isProxyName(s string) bool {
	return s != "" && len(s) <= 63 && s[0] != '-' && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

// parseAllow reads the allow-list and reports every pattern that is wrong.
func parseAllow(items []string) (*policy.List, error) {
	l, err := policy.Parse(items)
	if err == nil {
		return l, nil
	}
	var problems []error
	for _, item := range items {
		if _, err := policy.Parse([]string{item}); err != nil {
			problems = append(problems, err)
		}
	}
	if len(problems) == 0 {
		return nil, err // there are too many
	}
	return nil, errors.Join(problems...)
}

// parseCount reads how many of something there may be.
func parseCount(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > 1_000_000 {
		return 0, fmt.Errorf("%.60q is not a number from 1 to 1000000", s)
	}
	return n, nil
}

// parseMetrics reads where a proxy's metrics are; the zero AddrPort is nowhere.
func parseMetrics(s string) (netip.AddrPort, error) {
	if s == "" || s == "off" {
		return netip.AddrPort{}, nil
	}
	if _, _, err := net.SplitHostPort(s); err != nil {
		return netip.AddrPort{}, fmt.Errorf("%.100q is neither off nor IP:PORT, as in 127.0.0.1:9100 or [::1]:9100", s)
	}
	return parseListen(s, 9100)
}
