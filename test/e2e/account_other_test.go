//go:build !linux

package e2e

import (
	"os/exec"
	"testing"
)

// runAs does nothing: only on Linux do the tests run as root.
func runAs(testing.TB, *exec.Cmd, string) {}

// giveTo does nothing, like runAs.
func giveTo(testing.TB, string, string) {}
