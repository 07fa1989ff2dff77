// Package report holds what a run of the benchmark has found and shows it: as
// Markdown for people, as JSON for machines, as charts for both the light and
// the dark.
package report

import (
	"encoding/json"
	"io"
	"time"

	"github.com/ohrouter/oh-router/test/bench/measure"
)

// Metric is one figure of a workload.
type Metric struct {
	Key  string `json:"key"`
	Name string `json:"name"` // with its unit
	// Lower tells that less is better.
	Lower bool `json:"lower_is_better,omitempty"`
}

// Group is what stands in one table: workloads that differ in one number.
type Group struct {
	ID        string     `json:"id"`
	Title     string     `json:"title"`
	Note      string     `json:"note,omitempty"`
	Metrics   []Metric   `json:"metrics"` // the first is what the chart shows
	Workloads []Workload `json:"workloads"`
	// Headlines is how many of the metrics the overview shows; 0 is 1.
	Headlines int `json:"headlines,omitempty"`
}

func (g Group) headlines() []Metric { return g.Metrics[:max(g.Headlines, 1)] }

// Workload is a column of a group's table.
type Workload struct {
	ID    string `json:"id"` // unique in a report
	Label string `json:"label"`
}

// Chain is a row of the tables.
type Chain struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Remark  string `json:"remark"`
	Base    string `json:"base,omitempty"` // the chain that the ratios are to; "" none
	Ours    bool   `json:"ours,omitempty"` // emphasised
}

// Sample is what one window or one start of a chain has found, by metric.
type Sample map[string]float64

// Cell is all that was found for a chain under a workload.
type Cell struct {
	Workload string   `json:"workload"`
	Chain    string   `json:"chain"`
	Samples  []Sample `json:"samples"`            // of windows that were not disturbed
	Dropped  []Sample `json:"dropped,omitempty"`  // of disturbed windows
	Failures uint64   `json:"failures,omitempty"` // exchanges, sessions or streams that failed
	Error    string   `json:"error,omitempty"`    // why there is no sample, or of the last failure
}

// Used returns the samples that count, and whether they are of disturbed
// windows, which they are only when there are no others.
func (c *Cell) Used() (samples []Sample, disturbed bool) {
	if len(c.Samples) == 0 && len(c.Dropped) > 0 {
		return c.Dropped, true
	}
	return c.Samples, false
}

// Summary sums up one metric of the samples that count.
func (c *Cell) Summary(metric string) measure.Summary {
	if c == nil {
		return measure.Summary{}
	}
	samples, _ := c.Used()
	var values []float64
	for _, s := range samples {
		if v, ok := s[metric]; ok {
			values = append(values, v)
		}
	}
	return measure.Summarize(values)
}

// Fact is a line about the machine or the run.
type Fact struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Report is all that a run has found.
type Report struct {
	Title   string    `json:"title"`
	Started time.Time `json:"started"`
	Command string    `json:"command"`
	Facts   []Fact    `json:"facts"`
	Chains  []Chain   `json:"chains"`
	Missing []string  `json:"missing"` // chains that were not there, and why
	Groups  []Group   `json:"groups"`
	Cells   []*Cell   `json:"cells"`
}

// Cell returns the cell of a workload and a chain, nil when there is none.
func (r *Report) Cell(workload, chain string) *Cell {
	for _, c := range r.Cells {
		if c.Workload == workload && c.Chain == chain {
			return c
		}
	}
	return nil
}

// At returns the cell of a workload and a chain, and makes it when there is
// none.
func (r *Report) At(workload, chain string) *Cell {
	if c := r.Cell(workload, chain); c != nil {
		return c
	}
	c := &Cell{Workload: workload, Chain: chain}
	r.Cells = append(r.Cells, c)
	return c
}

// Ratio returns the chain's median over that of its base, 0 when one is
// missing.
func (r *Report) Ratio(workload string, chain Chain, metric string) float64 {
	base := r.Cell(workload, chain.Base).Summary(metric).Median
	if base == 0 {
		return 0
	}
	return r.Cell(workload, chain.Name).Summary(metric).Median / base
}

// Mean returns the geometric mean of the ratios over the workloads of a group,
// 0 when one is missing.
func (r *Report) Mean(g Group, chain Chain, metric string) float64 {
	var ratios []float64
	for _, w := range g.Workloads {
		ratios = append(ratios, r.Ratio(w.ID, chain, metric))
	}
	return measure.GeoMean(ratios)
}

// summed is a cell as JSON shows it.
type summed struct {
	*Cell
	Summaries map[string]measure.Summary `json:"summaries"`
	Ratios    map[string]float64         `json:"ratios"`    // to the chain's base
	Disturbed bool                       `json:"disturbed"` // all windows were
}

// JSON writes the report, every sample included.
func (r *Report) JSON(w io.Writer) error {
	type plain Report
	out := struct {
		*plain
		Cells []summed `json:"cells"`
	}{plain: (*plain)(r)}
	for _, g := range r.Groups {
		for _, wl := range g.Workloads {
			for _, chain := range r.Chains {
				c := r.Cell(wl.ID, chain.Name)
				if c == nil {
					continue
				}
				s := summed{Cell: c, Summaries: map[string]measure.Summary{}, Ratios: map[string]float64{}}
				_, s.Disturbed = c.Used()
				for _, m := range g.Metrics {
					if sum := c.Summary(m.Key); sum.N > 0 {
						s.Summaries[m.Key] = sum
					}
					if ratio := r.Ratio(wl.ID, chain, m.Key); ratio > 0 {
						s.Ratios[m.Key] = ratio
					}
				}
				out.Cells = append(out.Cells, s)
			}
		}
	}
	encode := json.NewEncoder(w)
	encode.SetIndent("", " ")
	return encode.Encode(out)
}
