// Package fair lines up what waits so that each source has its turn.
package fair

import "net/netip"

// Queue is a line in which the sources take turns: who puts a thousand in waits
// for those alone. The zero Queue is empty. It is not safe for concurrent use.
type Queue[T any] struct {
	length int
	of     map[netip.Addr][]T // by source
	next   []netip.Addr       // the sources, in the order of their turns
}

// Push puts v in, behind what there is of the same [Source].
func (q *Queue[T]) Push(from netip.Addr, v T) {
	source := Source(from)
	of, waits := q.of[source]
	if !waits {
		if q.of == nil {
			q.of = make(map[netip.Addr][]T)
		}
		q.next = append(q.next, source)
	}
	q.of[source] = append(of, v)
	q.length++
}

// Pop takes out what comes next; ok is false when there is nothing.
func (q *Queue[T]) Pop() (v T, ok bool) {
	if q.length == 0 {
		return v, false
	}
	q.length--
	source := q.next[0]
	of := q.of[source]
	v, of[0] = of[0], v
	if q.next = q.next[1:]; len(of) == 1 {
		delete(q.of, source)
		return v, true
	}
	q.of[source] = of[1:]
	q.next = append(q.next, source)
	return v, true
}

// Len returns how much waits.
func (q *Queue[T]) Len() int { return q.length }

// Source returns what counts as one source: an IPv4 address, or an IPv6
// network, all of whose addresses one machine may have.
func Source(a netip.Addr) netip.Addr {
	a = a.Unmap()
	if a.Is4() {
		return a
	}
	p, err := a.WithZone("").Prefix(64)
	if err != nil {
		return a // it is no address
	}
	return p.Addr()
}
