//go:build linux

package load

import "sync/atomic"

// The phases of a job.
const (
	warming int32 = iota
	measuring
	over
)

// phase tells the goroutines of a job where it is.
type phase struct{ v atomic.Int32 }

func (p *phase) set(v int32)     { p.v.Store(v) }
func (p *phase) measuring() bool { return p.v.Load() == measuring }
func (p *phase) over() bool      { return p.v.Load() == over }
