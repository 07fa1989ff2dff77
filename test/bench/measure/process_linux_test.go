package measure

import (
	"net"
	"os"
	"testing"
)

// What the kernel says of this very process.
func TestOwnProcess(t *testing.T) {
	ps, err := List()
	if err != nil {
		t.Fatal(err)
	}
	if cpu := ps.CPU(os.Getpid()); cpu <= 0 {
		t.Errorf("CPU = %v, want above 0", cpu)
	}
	ours, others := ps.Split(map[int]bool{os.Getpid(): true})
	if ours <= 0 || others <= 0 {
		t.Errorf("Split = %v, %v, want both above 0", ours, others)
	}
	if m, err := ps.Memory(os.Getpid()); err != nil || m.RSS < 1<<20 || m.PSS > m.RSS {
		t.Errorf("Memory = %+v, %v, want some MB", m, err)
	}
	if n := ps.Descriptors(os.Getpid()); n < 3 {
		t.Errorf("Descriptors = %d, want at least stdin, stdout and stderr", n)
	}
	if busy, _, err := Machine(); err != nil || busy <= 0 {
		t.Errorf("Machine = %v, %v, want above 0", busy, err)
	}
}

func TestListening(t *testing.T) {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().(*net.TCPAddr).AddrPort()
	if ok, err := Listening(addr); !ok || err != nil {
		t.Errorf("Listening(%v) = %v, %v, want true", addr, ok, err)
	}
	ln.Close()
	if ok, err := Listening(addr); ok || err != nil {
		t.Errorf("Listening(%v) once closed = %v, %v, want false", addr, ok, err)
	}
}
