//go:build !linux

package relay

// copyTCP is copyBuffered where there is no splice.
func (s *session) copyTCP(from Side) (failed Side, err error) { return s.copyBuffered(from) }
