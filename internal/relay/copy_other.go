//go:build !linux

package relay

// carry is empty where there is neither splice nor a look at a socket.
type carry struct{}

func (s *session) takeOver() {}

// copy moves bytes until the end of the stream (nil) or a failure of one side.
func (s *session) copy(from Side) (failed Side, err error) { return s.copyBuffered(from) }
