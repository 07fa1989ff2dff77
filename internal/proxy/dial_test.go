//go:build linux

package proxy_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/proxy"
)

func TestAllowList(t *testing.T) {
	for _, tt := range []struct {
		name     string
		patterns []string
		host     string
		addrs    []string
		at       string // where it connects; "" it is denied
		lookups  int32
	}{
		{"nothing allowed", nil, "db", []string{"127.0.0.1"}, "", 0},
		{"a name that is not allowed is not looked up", []string{"web:*"}, "db", []string{"127.0.0.1"}, "", 0},
		{"a port that is not allowed is not looked up", []string{"127.0.0.0/8:1"}, "db", []string{"127.0.0.1"}, "", 0},
		{"an address that is not allowed", []string{"10.0.0.0/8:*"}, "127.0.0.1", nil, "", 0},
		{"a name does not open loopback", []string{"db:*", "any"}, "db", []string{"127.0.0.1", "::1"}, "", 1},
		{"nor in IPv6 clothes", []string{"any"}, "db", []string{"::ffff:127.0.0.1"}, "", 1},
		{"nor in what carries it", []string{"any"}, "db", []string{"64:ff9b::7f00:1", "64:ff9b:1::7f00:1", "2002:7f00:1::1", "2001:0:a00:5::80ff:fffe", "::127.0.0.1"}, "", 1},
		{"nor metadata", []string{"any"}, "db", []string{"169.254.169.254", "fd00:ec2::254", "100.100.100.200", "168.63.129.16"}, "", 1},
		{"nor nothing", []string{"any"}, "db", []string{"0.0.0.0", "::"}, "", 1},
		{"an address", []string{"127.0.0.1:*"}, "127.0.0.1", nil, "127.0.0.1", 0},
		{"the address of a name", []string{"127.0.0.1:*"}, "db", []string{"127.0.0.1"}, "127.0.0.1", 1},
		{"in IPv6 clothes", []string{"127.0.0.1:*"}, "db", []string{"::ffff:127.0.0.1"}, "127.0.0.1", 1},
		{"only the allowed ones are tried", []string{"127.0.0.1:*", "any"}, "db", []string{"127.0.0.2", "::1", "169.254.169.254", "127.0.0.1", "0.0.0.0"}, "127.0.0.1", 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, x := start(t, patient, tt.patterns...), listen(t, "127.0.0.1", 0)
			f.names.resolve = is(tt.addrs...)
			l, err := f.ask(x.named(tt.host).Target, false)
			if tt.at == "" {
				if code := ohrouter.CodeOf(err); code != ohrouter.TargetDenied {
					t.Errorf("link: %v, with code %q, want target_denied", err, code)
				}
				if err != nil && strings.Contains(err.Error(), "pattern") {
					t.Errorf("the router is told what the proxy would allow: %v", err)
				}
				if n := len(f.log.lines("code=target_denied", "would permit it")); n != 1 {
					t.Errorf("%d lines in the log say why, want one:\n%v", n, f.log.lines())
				}
			} else if err != nil || l.Resolved != netip.AddrPortFrom(netip.MustParseAddr(tt.at), x.Port) {
				t.Errorf("link: %v, want one to %s", err, tt.at)
			}
			if n := f.names.calls.Load(); n != tt.lookups {
				t.Errorf("looked up %d times, want %d", n, tt.lookups)
			}
		})
	}
}

func TestSetAllowIsForNewSessions(t *testing.T) {
	f, x := start(t, patient, "127.0.0.1:*"), listen(t, "127.0.0.1", 0)
	l, server := f.link(x, false)
	f.SetAllow(list(t, "any"))
	f.wantCode(x.Target, ohrouter.TargetDenied)
	wantReset(t, "router", l.Conn())
	wantReset(t, "target", server)
	f.SetAllow(nil)
	f.wantCode(x.Target, ohrouter.TargetDenied)
	f.SetAllow(list(t, "127.0.0.1:*"))
	f.link(x, false)
}

func TestSetAllowIsForOpenSessions(t *testing.T) {
	f, x, y := start(t, patient, "127.0.0.0/8:*"), listen(t, "127.0.0.1", 0), listen(t, "127.0.0.2", 0)
	f.names.resolve = is("127.0.0.1")
	kept, keptAt := f.link(y, false)
	direct, directAt := f.link(x, false)
	named, namedAt := f.link(x.named("db"), false)
	parked, parkedAt := f.link(x, true)

	f.SetAllow(list(t, "127.0.0.1:*", "127.0.0.2:*"))
	say(t, direct.Conn(), directAt, "permitted still")
	say(t, named.Conn(), namedAt, "permitted still")

	begin := time.Now()
	f.SetAllow(list(t, "127.0.0.2:*", "db:*")) // a name does not open loopback
	for _, c := range []net.Conn{direct.Conn(), directAt, named.Conn(), namedAt} {
		wantReset(t, "an end of a session", c)
	}
	until(t, "the parked link ends", func() bool { return !parked.Alive() })
	if _, err := parkedAt.Read(make([]byte, 1)); err == nil {
		t.Error("the target of the parked link is connected still")
	}
	if d := time.Since(begin); d > 5*time.Second {
		t.Errorf("it took %v until all were cut", d)
	}
	say(t, kept.Conn(), keptAt, "not concerned")
	if n := len(f.log.lines("session cut", "session=s-1", "resolved="+x.String())); n != 3 {
		t.Errorf("%d lines in the log, want one for each that was cut:\n%v", n, f.log.lines())
	}
}

func TestSetAllowWhileConnecting(t *testing.T) {
	f, x := start(t, patient, "127.0.0.1:*"), listen(t, "127.0.0.1", 0)
	f.names.resolve = func(context.Context, string) ([]netip.Addr, error) {
		f.SetAllow(list(t, "127.0.0.2:*")) // the former list is being asked
		return is("127.0.0.1")(nil, "")
	}
	f.wantCode(x.named("db").Target, ohrouter.TargetDenied)
}

func TestOwnListenersAreNotDialled(t *testing.T) {
	const port = 9 // nobody has to listen
	for _, tt := range []struct {
		own  string
		host string
		want ohrouter.Code // of what is not denied: nobody listens there
	}{
		{"127.0.0.1", "127.0.0.1", ohrouter.TargetDenied},
		{"127.0.0.1", "::ffff:127.0.0.1", ohrouter.TargetDenied},
		{"127.0.0.1", "0.0.0.0", ohrouter.TargetDenied},
		{"127.0.0.1", "db", ohrouter.TargetDenied},
		{"127.0.0.1", "127.0.0.2", ohrouter.TargetRefused},
		{"0.0.0.0", "127.0.0.1", ohrouter.TargetDenied},
		{"0.0.0.0", "127.1.2.3", ohrouter.TargetDenied},
		{"::", "127.0.0.1", ohrouter.TargetDenied},
		{"::", "db", ohrouter.TargetDenied},
	} {
		t.Run(tt.own+" "+tt.host, func(t *testing.T) {
			own := netip.AddrPortFrom(netip.MustParseAddr(tt.own), port)
			f := startWith(t, proxy.Config{Own: []netip.AddrPort{own}}, patient, "0.0.0.0/8:*", "127.0.0.0/8:*")
			f.names.resolve = is("127.0.0.1")
			target, err := ohrouter.NewTarget(tt.host, strconv.Itoa(port))
			if err != nil {
				t.Fatal(err)
			}
			f.wantCode(target, tt.want)
			if n := len(f.log.lines("code=target_denied", "itself listens")); (n == 1) != (tt.want == ohrouter.TargetDenied) {
				t.Errorf("%d lines in the log say why:\n%v", n, f.log.lines())
			}
			if l := f.log.lines("--allow"); len(l) > 0 {
				t.Errorf("a pattern is said to permit what none does:\n%v", l)
			}
		})
	}
}

// TestAlternatingAnswers has a name server that says another address each time.
// What a session is connected to is what was looked at.
func TestAlternatingAnswers(t *testing.T) {
	f := start(t, patient, "127.0.0.1:*")
	permitted, inside := samePort(t, "127.0.0.1", "127.0.0.2")
	var asked atomic.Int32
	f.names.resolve = func(ctx context.Context, host string) ([]netip.Addr, error) {
		if asked.Add(1)%2 == 0 {
			return is("127.0.0.2")(ctx, host)
		}
		return is("127.0.0.1")(ctx, host)
	}
	for i := range 20 {
		l, err := f.ask(permitted.named("db").Target, false)
		switch {
		case i%2 == 1:
			if code := ohrouter.CodeOf(err); code != ohrouter.TargetDenied {
				t.Fatalf("session %d: %v, want target_denied", i, err)
			}
		case err != nil || l.Resolved.Addr() != netip.MustParseAddr("127.0.0.1"):
			t.Fatalf("session %d: %v, want one to 127.0.0.1", i, err)
		}
	}
	if n := len(inside.conns); n != 0 {
		t.Errorf("the address that is not permitted has seen %d connections", n)
	}
	if n := f.names.calls.Load(); n != 20 {
		t.Errorf("the name was looked up %d times for 20 sessions", n)
	}
}

// TestMappedPortsAreNotDialled has a router in the same process.
func TestMappedPortsAreNotDialled(t *testing.T) {
	x, y := listen(t, "127.0.0.1", 0), listen(t, "127.0.0.1", 0)
	var mapped atomic.Uint32
	mapped.Store(uint32(x.Port))
	at := func(port uint16) netip.AddrPort {
		if uint32(port) != mapped.Load() {
			return netip.AddrPort{}
		}
		return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)
	}
	f := startBeside(t, at, proxy.Config{}, patient, "127.0.0.0/8:*")
	f.wantCode(x.Target, ohrouter.TargetDenied)
	f.link(y, false)
	mapped.Store(0) // the binding has ended, and another program has the port
	f.link(x, false)
}

func TestOwnAddressesOfTheMachine(t *testing.T) {
	own, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range own {
		ip, _ := netip.AddrFromSlice(a.(*net.IPNet).IP)
		if !proxy.OfThisMachine(ip.Unmap()) {
			t.Errorf("%v is not taken for an address of this machine", a)
		}
	}
	if proxy.OfThisMachine(netip.MustParseAddr("192.0.2.1")) {
		t.Error("192.0.2.1 is taken for an address of this machine")
	}
}

func TestEveryAddressIsTried(t *testing.T) {
	f, x := start(t, patient, "127.0.0.0/8:*", "[::1]:*"), listen(t, "127.0.0.4", 0)
	f.names.resolve = is("127.0.0.1", "127.0.0.2", "::1", "127.0.0.3", "127.0.0.4")
	l, server := f.link(x.named("db"), false)
	if l.Resolved.Addr().String() != "127.0.0.4" {
		t.Errorf("connected to %v, want the only one that listens", l.Resolved)
	}
	say(t, l.Conn(), server, "hello")
	if n := f.dials(); n != 1 {
		t.Errorf("ohrouter_dial_seconds has %d samples, want one", n)
	}
}

func TestSilentAddressIsOvertaken(t *testing.T) {
	f, x := start(t, patient, "127.0.0.0/8:*"), besideSilent(t, "127.0.0.3")
	f.names.resolve = is("127.0.0.2", "127.0.0.3")
	begin := time.Now()
	l, _ := f.link(x.named("db"), false)
	if l.Resolved.Addr().String() != "127.0.0.3" {
		t.Errorf("connected to %v, want the one that answers", l.Resolved)
	}
	if d := time.Since(begin); d > patient/2 {
		t.Errorf("connected after %v, want it much sooner than the timeout", d)
	}
}

func TestWhyATargetIsNotConnected(t *testing.T) {
	x := besideSilent(t, "127.0.0.9")
	for _, tt := range []struct {
		name    string
		host    string
		resolve func(context.Context, string) ([]netip.Addr, error)
		want    ohrouter.Code
		message string
	}{
		{"refused", "127.0.0.1", nil, ohrouter.TargetRefused, "refused the connection"},
		{"silent", "127.0.0.2", nil, ohrouter.TargetTimeout, "did not answer within 50ms"},
		{"no way", "127.255.255.255", nil, ohrouter.TargetUnreachable, "network is unreachable"},
		{"all refused", "db", is("127.0.0.1", "127.0.0.3"), ohrouter.TargetRefused, "(127.0.0.1) refused"},
		{"a refusal says more than no way", "db", is("127.255.255.255", "127.0.0.1"), ohrouter.TargetRefused, "(127.0.0.1) refused"},
		{"a silence says more than no way", "db", is("127.255.255.255", "127.0.0.2"), ohrouter.TargetTimeout, "(127.0.0.2) did not answer"},
		{"unknown name", "db", nil, ohrouter.TargetUnresolved, "no such name"},
		{"name without addresses", "db", is(), ohrouter.TargetUnresolved, "no such name"},
		{"name server that fails", "db", func(context.Context, string) ([]netip.Addr, error) {
			return nil, &net.DNSError{Err: "server misbehaving", IsTemporary: true}
		}, ohrouter.TargetUnresolved, "name servers do not answer"},
		{"silent name server", "db", func(ctx context.Context, _ string) ([]netip.Addr, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}, ohrouter.TargetUnresolved, "name servers do not answer"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := start(t, 50*time.Millisecond, "127.0.0.0/8:*")
			f.names.resolve = tt.resolve
			_, err := f.ask(x.named(tt.host).Target, false)
			if code := ohrouter.CodeOf(err); code != tt.want {
				t.Errorf("link: %v, with code %q, want %q", err, code, tt.want)
			}
			if m := ohrouter.Message(err); !strings.Contains(m, tt.message) {
				t.Errorf("the message is %q, want it to say %q", m, tt.message)
			}
			if n := len(f.log.lines("target not connected", "code="+string(tt.want))); n != 1 {
				t.Errorf("%d lines in the log say so, want one", n)
			}
		})
	}
}

// A kernel that sends few SYNs gives up before the dial timeout.
func TestATargetThatTheKernelGivesUp(t *testing.T) {
	f := start(t, patient)
	target := ohrouter.Target{Host: "192.0.2.1", Port: 80}
	for took, want := range map[time.Duration]string{3*time.Second + 123: "within 3s:", patient + time.Second: "within 10s:"} {
		err := f.DialError(target, unix.ETIMEDOUT, took)
		if code, m := ohrouter.CodeOf(err), ohrouter.Message(err); code != ohrouter.TargetTimeout || !strings.Contains(m, want) {
			t.Errorf("after %v: %q (%s), want it to say %q", took, m, code, want)
		}
	}
}

// silent makes an address answer no connect: its queue of connections that
// wait to be accepted is full. It tells whether the address was to be had: other programs use ports, too.
func silent(t testing.TB, ip string, port uint16) bool {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	at := netip.AddrPortFrom(netip.MustParseAddr(ip), port)
	if err := errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
		unix.Bind(fd, &unix.SockaddrInet4{Port: int(port), Addr: at.Addr().As4()}), unix.Listen(fd, 0),
	); errors.Is(err, unix.EADDRINUSE) {
		return false
	} else if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return true
}

func TestInterleave(t *testing.T) {
	for given, want := range map[string]string{
		"192.0.2.1:1": "192.0.2.1:1",
		"[2001:db8::1]:1 [2001:db8::2]:1 192.0.2.1:1 192.0.2.2:1": "[2001:db8::1]:1 192.0.2.1:1 [2001:db8::2]:1 192.0.2.2:1",
		"192.0.2.1:1 192.0.2.2:1 192.0.2.3:1 [2001:db8::1]:1":     "192.0.2.1:1 [2001:db8::1]:1 192.0.2.2:1 192.0.2.3:1",
		"192.0.2.1:1 [2001:db8::1]:1 [2001:db8::2]:1":             "192.0.2.1:1 [2001:db8::1]:1 [2001:db8::2]:1",
	} {
		var addrs []netip.AddrPort
		for a := range strings.FieldsSeq(given) {
			addrs = append(addrs, netip.MustParseAddrPort(a))
		}
		var got []string
		for _, a := range proxy.Interleave(addrs) {
			got = append(got, a.String())
		}
		if s := strings.Join(got, " "); s != want {
			t.Errorf("of %s the order is\n%s, want\n%s", given, s, want)
		}
	}
}

// samePort returns targets at two addresses that have the same port.
func samePort(t testing.TB, a, b string) (x, y *target) {
	t.Helper()
	for y == nil {
		x = listen(t, a, 0)
		y = listen(t, b, x.Port)
	}
	return x, y
}

// besideSilent returns a target at ip whose port is silent at 127.0.0.2.
func besideSilent(t testing.TB, ip string) *target {
	t.Helper()
	for {
		if x := listen(t, ip, 0); silent(t, "127.0.0.2", x.Port) {
			return x
		}
	}
}
