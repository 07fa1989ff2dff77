// Package measure turns what the kernel and the load generator say into
// figures: medians and quantiles, CPU time and memory of processes, and the
// rule by which a disturbed window is dropped.
package measure

import (
	"math"
	"slices"
)

// Summary is what a report shows of the samples of one cell.
type Summary struct {
	N      int     `json:"n"`
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

// Summarize returns the zero Summary for no samples. Of an even number the
// median is the mean of the two in the middle.
func Summarize(samples []float64) Summary {
	if len(samples) == 0 {
		return Summary{}
	}
	sorted := slices.Sorted(slices.Values(samples))
	n := len(sorted)
	return Summary{N: n, Median: (sorted[(n-1)/2] + sorted[n/2]) / 2, Min: sorted[0], Max: sorted[n-1]}
}

// GeoMean returns the geometric mean, the one that fits ratios, or 0 when
// there is no sample or one that is not above 0.
func GeoMean(samples []float64) float64 {
	var logs float64
	for _, s := range samples {
		if !(s > 0) {
			return 0
		}
		logs += math.Log(s)
	}
	if len(samples) == 0 {
		return 0
	}
	return math.Exp(logs / float64(len(samples)))
}
