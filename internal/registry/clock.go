package registry

import (
	"container/heap"
	"time"
)

// clock orders bindings by when they are due to be looked at. It is guarded by
// Registry.mu.
type clock struct{ queue queue }

// set makes b due at t, whether it was due before or not; the zero time means
// never. It tells whether b is the first of all now.
func (c *clock) set(b *binding, t time.Time) (first bool) {
	if t.IsZero() {
		c.remove(b)
		return false
	}
	// A time that was stored does not compare with others once the machine's
	// clock has been set: here, each is so far from now.
	now := time.Now()
	b.due = now.Add(t.Sub(now))
	if b.index > 0 {
		heap.Fix(&c.queue, b.index-1)
	} else {
		heap.Push(&c.queue, b)
	}
	return b.index == 1
}

// remove makes b never due.
func (c *clock) remove(b *binding) {
	if b.index > 0 {
		heap.Remove(&c.queue, b.index-1)
	}
}

// pop removes and returns a binding that is due at now; nil if there is none.
func (c *clock) pop(now time.Time) *binding {
	if len(c.queue) == 0 || now.Before(c.queue[0].due) {
		return nil
	}
	return heap.Pop(&c.queue).(*binding)
}

// next returns when the first binding is due; false if none ever is.
func (c *clock) next() (time.Time, bool) {
	if len(c.queue) == 0 {
		return time.Time{}, false
	}
	return c.queue[0].due, true
}

// queue is a heap of bindings. A binding's index is its place plus one, so that
// the zero value stands for "not in it".
type queue []*binding

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].due.Before(q[j].due) }
func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i+1, j+1
}

func (q *queue) Push(x any) {
	b := x.(*binding)
	*q = append(*q, b)
	b.index = len(*q)
}

func (q *queue) Pop() any {
	last := len(*q) - 1
	b := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	b.index = 0
	return b
}
