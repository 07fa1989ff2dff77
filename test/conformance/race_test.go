//go:build linux && race

package conformance

// raceEnabled tells that processes are slower and larger than what users run.
const raceEnabled = true
