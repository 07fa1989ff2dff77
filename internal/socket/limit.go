package socket

import "math"

// Limit returns how many descriptors the process may have open: [math.MaxInt]
// where there is no limit or it is not known.
func Limit() int {
	if n, ok := limit(); ok {
		return n
	}
	return math.MaxInt
}
