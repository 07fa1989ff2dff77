package router_test

import (
	"io"
	"net"
	"testing"

	ohrouter "github.com/ohrouter/oh-router"
)

// BenchmarkSession is a client's session from its connect to the target's first
// byte and the end: made on an event loop, by dialling, or with the link of a
// check. The client and the target are in it.
func BenchmarkSession(b *testing.B) {
	greeter := serve(b, func(c *net.TCPConn) {
		c.Write([]byte{'x'})
		c.CloseWrite()
		c.Close()
	})
	for _, bm := range []struct {
		name   string
		linker *direct
		check  bool
	}{
		{"loop", &direct{}, false},
		{"dial", &direct{dials: true}, false},
		{"check", &direct{}, true},
	} {
		b.Run(bm.name, func(b *testing.B) {
			f := start(b, 4096, bm.linker)
			binding := ohrouter.Binding{ID: "b-1", Target: greeter}
			addr := f.open(binding)
			b.ReportAllocs()
			for b.Loop() {
				if bm.check {
					if _, _, err := f.Check(b.Context(), binding); err != nil {
						b.Fatal(err)
					}
				}
				c, err := net.Dial("tcp", addr)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadAll(c); err != nil {
					b.Fatal(err)
				}
				c.Close()
			}
		})
	}
}

// BenchmarkOpen opens a binding and closes it.
func BenchmarkOpen(b *testing.B) {
	f := start(b, 4096, &direct{})
	x := newTarget(b)
	b.ReportAllocs()
	for b.Loop() {
		if err := f.Open(ohrouter.Binding{ID: "b-1", Target: x.Target}); err != nil {
			b.Fatal(err)
		}
		f.Close(b.Context(), "b-1")
	}
}
