package relay

import "testing"

// TestPipeSizes borrows more pipes than are large, and gives them back.
func TestPipeSizes(t *testing.T) {
	if maxPipes() <= maxLarge {
		t.Skipf("the limit of descriptors permits %d pipes", maxPipes())
	}
	var pp pipePool
	var lent []*pipe
	for i := range maxLarge + 2 {
		p := pp.get()
		if p == nil {
			t.Fatalf("pipe %d cannot be had", i)
		}
		want := largePipe
		if i >= maxLarge {
			want = smallPipe
		}
		if p.asked != want {
			t.Errorf("pipe %d is to have %d bytes, want %d", i, p.asked, want)
		}
		lent = append(lent, p)
	}
	if p := lent[0]; p.size < smallPipe {
		t.Logf("the kernel gives %d bytes for %d", p.size, p.asked) // to one who has many already
	}
	for i := len(lent) - 1; i >= 0; i-- {
		pp.put(lent[i])
	}
	if pp.lent != 0 || len(pp.free) > 2 {
		t.Errorf("%d are lent and %d are kept, of none and two", pp.lent, len(pp.free))
	}
	for range 3 {
		p := pp.get()
		if p == nil || p.asked != largePipe {
			t.Fatalf("after the crowd a pipe is %+v, want a large one", p)
		}
		defer pp.drop(p)
	}
}
