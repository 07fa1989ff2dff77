// Package sysctl reads settings of the kernel.
package sysctl

import (
	"os"
	"strconv"
	"strings"
)

// Fields returns the values of a setting of Linux, such as net.ipv4.tcp_rmem
// (sysctl(8)). There are none where it is not to be had: on other systems, with
// other kernels, and in containers that do not show it.
func Fields(name string) []string {
	b, err := os.ReadFile("/proc/sys/" + strings.ReplaceAll(name, ".", "/"))
	if err != nil {
		return nil
	}
	return strings.Fields(string(b))
}

// Numbers returns those values of a setting that are whole numbers.
func Numbers(name string) (numbers []int) {
	for _, f := range Fields(name) {
		if n, err := strconv.Atoi(f); err == nil {
			numbers = append(numbers, n)
		}
	}
	return numbers
}
