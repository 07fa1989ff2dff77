package router_test

import (
	"bufio"
	"io"
	"net/netip"
	"testing"

	"github.com/pires/go-proxyproto"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/router"
)

func TestTargetIsToldWhoTheClientIs(t *testing.T) {
	for _, tt := range []struct {
		name   string
		linker *direct
		parked bool
	}{
		{"on a loop", &direct{}, false},
		{"dialled", &direct{dials: true}, false},
		{"parked", &direct{}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, x := start(t, 64, tt.linker), newTarget(t)
			b := ohrouter.Binding{ID: "b-1", Target: x.Target, ProxyProtocol: ohrouter.ProxyProtocolV2}
			if tt.parked {
				f.check(b)
			}
			client := connect(t, f.open(b))
			if _, err := io.WriteString(client, "hello"); err != nil {
				t.Fatal(err)
			}
			server := x.next(t)
			received := bufio.NewReader(server)
			header, err := proxyproto.Read(received)
			if err != nil {
				t.Fatalf("the target has no header: %v", err)
			}
			if header.Version != 2 || header.Command != proxyproto.PROXY ||
				header.SourceAddr.String() != client.LocalAddr().String() || header.DestinationAddr.String() != client.RemoteAddr().String() {
				t.Errorf("header %+v, want version 2, from %v to %v", header, client.LocalAddr(), client.RemoteAddr())
			}
			got := make([]byte, len("hello"))
			if _, err := io.ReadFull(received, got); err != nil || string(got) != "hello" {
				t.Errorf("behind the header are %q, %v, want what the client said", got, err)
			}
			say(t, server, client, "and back")
			until(t, "the client's bytes are counted, and no other", func() bool { return f.Usage("b-1").BytesUp == uint64(len("hello")) })
		})
	}
}

func TestNoPreambleBeforeAClient(t *testing.T) {
	f, x := start(t, 64, &direct{}), newTarget(t)
	f.check(ohrouter.Binding{ID: "b-1", Target: x.Target, ProxyProtocol: ohrouter.ProxyProtocolV2})
	checked := x.next(t)
	f.Close(ended(), "b-1")
	if n, _ := io.Copy(io.Discard, checked); n != 0 { // until its end, in order or not
		t.Errorf("a target that no client came for has received %d bytes", n)
	}
}

func TestPreambleOfMixedFamilies(t *testing.T) {
	for _, tt := range []struct{ client, mapped string }{
		{"192.0.2.1:50000", "192.0.2.2:20000"},
		{"[2001:db8::1]:50000", "[2001:db8::2]:20000"},
		{"[fe80::1%eth0]:50000", "[fe80::2]:20000"},
		{"192.0.2.1:50000", "[2001:db8::2]:20000"},
		{"192.0.2.1:50000", ""}, // the client has gone
	} {
		mapped, _ := netip.ParseAddrPort(tt.mapped)
		if b := router.Preamble(netip.MustParseAddrPort(tt.client), mapped); len(b) < 16 || string(b[:12]) != string(proxyproto.SIGV2) {
			t.Errorf("preamble of %s at %q = %q, want one of version 2", tt.client, tt.mapped, b)
		}
	}
}
