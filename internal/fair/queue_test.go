package fair

import (
	"net/netip"
	"testing"
)

func TestQueue(t *testing.T) {
	var q Queue[string]
	if v, ok := q.Pop(); ok || q.Len() != 0 {
		t.Errorf("an empty queue has %q", v)
	}
	for _, p := range []struct{ from, v string }{
		{"10.0.0.1", "a1"}, {"10.0.0.1", "a2"}, {"::ffff:10.0.0.1", "a3"}, {"10.0.0.2", "b1"}, {"2001:db8::1", "c1"}, {"2001:db8::2", "c2"},
	} {
		q.Push(netip.MustParseAddr(p.from), p.v)
	}
	if q.Len() != 6 {
		t.Errorf("%d wait, want 6", q.Len())
	}
	for i, want := range []string{"a1", "b1", "c1", "a2", "c2", "a3"} {
		if v, ok := q.Pop(); !ok || v != want {
			t.Errorf("number %d is %q, %t; want %q", i+1, v, ok, want)
		}
	}
	q.Push(netip.Addr{}, "again")
	if v, ok := q.Pop(); !ok || v != "again" || len(q.of)+len(q.next)+q.Len() != 0 {
		t.Errorf("at the end %q, %t, and %+v", v, ok, q)
	}
}
