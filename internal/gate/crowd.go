package gate

import (
	"container/list"
	"net/netip"

	"github.com/ohrouter/oh-router/internal/fair"
)

// Crowd is connections that are not known to be of use. When there are too
// many, of one source or in all, the oldest goes: who means well soon says what
// he wants, while silent ones grow old. A new one is always taken, so that
// nobody can shut the others out. The zero Crowd has no limits. It is not safe
// for concurrent use.
type Crowd[T any] struct {
	Most, MostOfOne int // 0 no limit

	members int
	waiting list.List // of *Member, the oldest first
	sources map[netip.Addr]*source
}

// source is what there is of one source.
type source struct {
	addr    netip.Addr
	members int
	waiting list.List // of *Member, the oldest first
}

// Member is one of a crowd. Before it joins, and when it has left, it is none.
type Member[T any] struct {
	Who T

	source    *source       // nil while it is none
	inAll, in *list.Element // nil while it is busy
}

// Join makes m a member, unless it is one, and returns the one that had to leave
// for it; nil for none.
func (c *Crowd[T]) Join(m *Member[T], from netip.Addr) (out *Member[T]) {
	if m.source != nil {
		return nil
	}
	addr := fair.Source(from)
	of := c.sources[addr]
	if of == nil {
		of = &source{addr: addr}
		if c.sources == nil {
			c.sources = make(map[netip.Addr]*source)
		}
		c.sources[addr] = of
	}
	c.members++
	of.members++
	m.source = of
	c.Rest(m)
	var oldest *list.Element
	switch {
	case c.MostOfOne > 0 && of.members > c.MostOfOne:
		oldest = of.waiting.Front()
	case c.Most > 0 && c.members > c.Most:
		oldest = c.waiting.Front()
	default:
		return nil
	}
	out = oldest.Value.(*Member[T]) // m at least is there
	c.Leave(out)
	return out
}

// Busy lets a member stay, whoever joins, until it rests. It counts as before.
func (c *Crowd[T]) Busy(m *Member[T]) {
	if m.in == nil {
		return
	}
	m.source.waiting.Remove(m.in)
	c.waiting.Remove(m.inAll)
	m.in, m.inAll = nil, nil
}

// Rest makes a member that is busy the youngest that may have to leave.
func (c *Crowd[T]) Rest(m *Member[T]) {
	if m.source == nil || m.in != nil {
		return
	}
	m.in, m.inAll = m.source.waiting.PushBack(m), c.waiting.PushBack(m)
}

// Leave takes m out, if it is a member.
func (c *Crowd[T]) Leave(m *Member[T]) {
	if m.source == nil {
		return
	}
	c.Busy(m)
	c.members--
	if m.source.members--; m.source.members == 0 {
		delete(c.sources, m.source.addr)
	}
	m.source = nil
}

// Len returns how many members there are.
func (c *Crowd[T]) Len() int { return c.members }
