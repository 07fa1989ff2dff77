package measure

import (
	"math"
	"net/netip"
	"slices"
	"testing"
	"time"
)

func TestSummarize(t *testing.T) {
	tests := []struct {
		samples []float64
		want    Summary
	}{
		{nil, Summary{}},
		{[]float64{3}, Summary{1, 3, 3, 3}},
		{[]float64{3, 1, 2}, Summary{3, 2, 1, 3}},
		{[]float64{4, 1, 3, 2}, Summary{4, 2.5, 1, 4}},
	}
	for _, tt := range tests {
		given := slices.Clone(tt.samples)
		if got := Summarize(given); got != tt.want {
			t.Errorf("Summarize(%v) = %v, want %v", tt.samples, got, tt.want)
		}
		if !slices.Equal(given, tt.samples) {
			t.Errorf("Summarize(%v) left %v behind", tt.samples, given)
		}
	}
}

func TestGeoMean(t *testing.T) {
	tests := []struct {
		samples []float64
		want    float64
	}{
		{nil, 0},
		{[]float64{2, 8}, 4},
		{[]float64{0.5, 2, 1}, 1},
		{[]float64{1, 0}, 0},
		{[]float64{1, math.NaN()}, 0},
	}
	for _, tt := range tests {
		if got := GeoMean(tt.samples); math.Abs(got-tt.want) > 1e-9 {
			t.Errorf("GeoMean(%v) = %v, want %v", tt.samples, got, tt.want)
		}
	}
}

func TestBuckets(t *testing.T) {
	last := -1
	for _, v := range []uint64{0, 1, 63, 64, 65, 66, 127, 128, 1000, 1 << 20, 1<<20 + 1<<15, 1 << 40, math.MaxInt64} {
		b := bucket(v)
		if b < last || b >= buckets {
			t.Errorf("bucket(%d) = %d, want at least %d and below %d", v, b, last, buckets)
		}
		last = b
		if got := float64(middle(b)); math.Abs(got-float64(v)) > 0.02*float64(v) {
			t.Errorf("middle(bucket(%d)) = %v, more than 2 %% off", v, got)
		}
	}
}

func TestQuantile(t *testing.T) {
	var empty, h, other Histogram
	if got := empty.Quantile(0.5); got != 0 {
		t.Errorf("Quantile of nothing = %v, want 0", got)
	}
	for i := range 1000 {
		into := &h
		if i%2 == 0 {
			into = &other
		}
		into.Record(time.Duration(i+1) * time.Microsecond)
	}
	h.Merge(&other)
	if h.Count() != 1000 {
		t.Errorf("Count = %d, want 1000", h.Count())
	}
	for q, want := range map[float64]time.Duration{0: 1000, 0.5: 500_000, 0.99: 990_000, 0.999: 999_000, 1: 1_000_000} {
		if got := h.Quantile(q); math.Abs(float64(got-want)) > 0.03*float64(want) {
			t.Errorf("Quantile(%v) = %v, want about %v", q, got, want)
		}
	}
}

func TestDisturbed(t *testing.T) {
	const second = time.Second
	tests := []struct {
		name string
		w    Window
		want bool
	}{
		{"alone", Window{Wall: second, Cores: 2, Busy: 1900 * time.Millisecond, Known: 1900 * time.Millisecond}, false},
		{"clocks differ", Window{Wall: second, Cores: 2, Busy: second, Known: 1100 * time.Millisecond}, false},
		{"at the limit", Window{Wall: second, Cores: 2, Busy: 1120 * time.Millisecond, Known: second}, false},
		{"above it", Window{Wall: second, Cores: 2, Busy: 1130 * time.Millisecond, Known: second}, true},
		{"stolen", Window{Wall: second, Cores: 2, Busy: second, Known: second, Steal: 130 * time.Millisecond}, true},
		{"stolen, and the clocks differ", Window{Wall: second, Cores: 2, Busy: second, Known: 2 * second, Steal: 130 * time.Millisecond}, true},
		{"others seen one by one", Window{Wall: second, Cores: 2, Busy: second, Known: 1300 * time.Millisecond, Others: 130 * time.Millisecond}, true},
		{"one tick of a short one", Window{Wall: 100 * time.Millisecond, Cores: 2, Busy: 20 * time.Millisecond}, false},
		{"more cores bear more", Window{Wall: second, Cores: 8, Busy: 300 * time.Millisecond}, false},
	}
	for _, tt := range tests {
		if got := tt.w.Disturbed(); got != tt.want {
			t.Errorf("%s: Disturbed() = %v with a foreign share of %.3f, want %v", tt.name, got, tt.w.Share(), tt.want)
		}
	}
}

func TestParseStat(t *testing.T) {
	busy, steal, err := parseStat([]byte("cpu  100 20 30 4000 50 6 7 8 9 10\ncpu0 1 2 3\n"))
	if err != nil || busy != 1500*time.Millisecond || steal != 80*time.Millisecond {
		t.Errorf("parseStat = %v, %v, %v, want 1.5s, 80ms", busy, steal, err)
	}
	for _, bad := range []string{"", "cpu 1 2 3\n", "intr 1 2 3 4 5 6 7 8 9\n", "cpu 1 2 x 4 5 6 7 8\n"} {
		if _, _, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("parseStat(%q) succeeds", bad)
		}
	}
}

func TestParseProcess(t *testing.T) {
	got, err := parseProcess([]byte("42 (a (b) c) S 7 42 42 0 -1 4194560 100 200 0 0 11 12 13 14 20 0 1 0 5\n"))
	want := process{pid: 42, parent: 7, name: "a (b) c", children: 270 * time.Millisecond}
	if err != nil || got != want {
		t.Errorf("parseProcess = %+v, %v, want %+v", got, err, want)
	}
	for _, bad := range []string{"", "42", "42 (a) S 7", "x (a) S 7 42 42 0 -1 4194560 100 200 0 0 11 12 13 14 20"} {
		if _, err := parseProcess([]byte(bad)); err == nil {
			t.Errorf("parseProcess(%q) succeeds", bad)
		}
	}
}

func TestDescendants(t *testing.T) {
	all := []process{{pid: 5, parent: 3}, {pid: 3, parent: 1}, {pid: 4, parent: 1}, {pid: 6, parent: 5}, {pid: 1}}
	if got := descendants(all, 3); !slices.Equal(got, []int{3, 5, 6}) {
		t.Errorf("descendants of 3 = %v, want 3 5 6", got)
	}
}

func TestParseRollup(t *testing.T) {
	got, err := parseRollup([]byte("55d0-7ffc ---p 00000000 00:00 0  [rollup]\nRss:    2048 kB\nPss:    1024 kB\nPss_Dirty: 1 kB\n"))
	if want := (Memory{RSS: 2 << 20, PSS: 1 << 20}); err != nil || got != want {
		t.Errorf("parseRollup = %+v, %v, want %+v", got, err, want)
	}
	for _, bad := range []string{"", "Rss: 12 MB\n", "Rss: x kB\n"} {
		if _, err := parseRollup([]byte(bad)); err == nil {
			t.Errorf("parseRollup(%q) succeeds", bad)
		}
	}
}

func TestParseListening(t *testing.T) {
	got := parseListening([]byte(`  sl  local_address rem_address   st tx_queue
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000
   1: 0100007F:1F91 0100007F:1F90 01 00000000:00000000
   2: 00000000:0016 00000000:0000 0A 00000000:00000000
`))
	want := []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:8080"), netip.MustParseAddrPort("0.0.0.0:22")}
	if len(got) != len(want) || !got[want[0]] || !got[want[1]] {
		t.Errorf("parseListening = %v, want %v", got, want)
	}
}
