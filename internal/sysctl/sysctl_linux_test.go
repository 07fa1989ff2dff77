package sysctl_test

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/ohrouter/oh-router/internal/sysctl"
)

func TestSettings(t *testing.T) {
	is, err := os.ReadFile("/proc/sys/net/ipv4/tcp_rmem")
	if err != nil {
		t.Skip(err)
	}
	fields := sysctl.Fields("net.ipv4.tcp_rmem")
	if len(fields) != 3 || strings.Join(fields, "\t")+"\n" != string(is) {
		t.Errorf("net.ipv4.tcp_rmem = %q, want the three of %q", fields, is)
	}
	if n := sysctl.Numbers("net.ipv4.tcp_rmem"); len(n) != 3 || !slices.IsSorted(n) || n[0] <= 0 {
		t.Errorf("the numbers of net.ipv4.tcp_rmem = %v, want the least, the default and the most", n)
	}
	if n := sysctl.Numbers("kernel.ostype"); n != nil {
		t.Errorf("the numbers of kernel.ostype = %v, want none", n)
	}
	if f := sysctl.Fields("net.ipv4.no_such_setting"); f != nil {
		t.Errorf("a setting that is not there = %q, want nothing", f)
	}
}
