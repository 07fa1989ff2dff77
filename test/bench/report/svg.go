package report

import (
	"encoding/xml"
	"fmt"
	"io"
	"math"
	"strings"
)

// Measures of a chart, in pixels.
const (
	chartWidth = 720
	labelWidth = 110 // names of the chains
	valueWidth = 120 // figures behind the bars
	barHeight  = 14
	barGap     = 4
	groupGap   = 30
	headHeight = 44
	footHeight = 26
)

// longest is how long a bar may be, in bars of the base: one chain that is a
// thousand times worse shall not hide the differences of the others.
const longest = 12

// The colours work on white and on black; the text follows the reader's
// setting. A transparent ground fits both.
const chartStyle = `
  text { font: 12px system-ui, sans-serif; fill: #24292f; }
  .title { font-size: 15px; font-weight: 600; }
  .group { font-weight: 600; }
  .note { fill: #57606a; font-size: 11px; }
  .bar { fill: #8c959f; }
  .ours { fill: #2f81f7; }
  .ours-text { font-weight: 600; }
  .range { stroke: #24292f; stroke-width: 1; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; }
    .note { fill: #9198a1; }
    .range { stroke: #e6edf3; }
  }
`

// SVG writes a chart of a group's first metric: a bar for each chain's median,
// a line from minimum to maximum.
func (r *Report) SVG(w io.Writer, g Group) error {
	m := g.Metrics[0]
	var b strings.Builder
	y := headHeight
	for _, wl := range g.Workloads {
		y = r.bars(&b, wl, m, y)
	}
	height := y + footHeight
	note := "more is better"
	if m.Lower {
		note = "less is better"
	}
	title := fmt.Sprintf("%s: %s", g.Title, m.Name)
	_, err := fmt.Fprintf(w, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" role="img" aria-label="%s">
<style>%s</style>
<text class="title" x="0" y="18">%s</text>
%s<text class="note" x="0" y="%d">Medians, lines from minimum to maximum; %s.</text>
</svg>
`, chartWidth, height, chartWidth, height, escape(title), chartStyle, escape(title), b.String(), height-8, note)
	return err
}

// bars draws one workload and returns where the next begins.
func (r *Report) bars(b *strings.Builder, wl Workload, m Metric, y int) int {
	most, limit := 0.0, math.Inf(1)
	for _, c := range r.Chains {
		if s := r.Cell(wl.ID, c.Name).Summary(m.Key); s.N > 0 {
			most = max(most, s.Max)
		}
		if s := r.Cell(wl.ID, c.Base).Summary(m.Key); s.Median > 0 {
			limit = min(limit, longest*s.Median)
		}
	}
	most = min(most, limit)
	if most <= 0 || math.IsInf(most, 0) || math.IsNaN(most) {
		return y
	}
	fmt.Fprintf(b, "<text class=\"group\" x=\"0\" y=\"%d\">%s</text>\n", y, escape(wl.Label))
	y += 8
	scale := float64(chartWidth-labelWidth-valueWidth) / most
	for _, c := range r.Chains {
		s := r.Cell(wl.ID, c.Name).Summary(m.Key)
		if s.N == 0 {
			continue
		}
		bar, text := "bar", ""
		if c.Ours {
			bar, text = "bar ours", "ours-text"
		}
		middle, base := y+barHeight/2, y+barHeight-3
		low, mid, high := scaled(s.Min, most, scale), scaled(s.Median, most, scale), scaled(s.Max, most, scale)
		figure := number(s.Median)
		if s.Median > most {
			figure = "» " + figure // the bar would go on
		}
		if x := r.Ratio(wl.ID, c, m.Key); x > 0 && c.Name != c.Base {
			figure += " " + ratio(x)
		}
		fmt.Fprintf(b, "<text class=\"%s\" x=\"0\" y=\"%d\">%s</text>", text, base, escape(c.Name))
		fmt.Fprintf(b, "<rect class=\"%s\" x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"%d\" rx=\"2\"/>", bar, labelWidth, y, max(mid, 1), barHeight)
		fmt.Fprintf(b, "<line class=\"range\" x1=\"%.1f\" y1=\"%d\" x2=\"%.1f\" y2=\"%d\"/>", labelWidth+low, middle, labelWidth+high, middle)
		fmt.Fprintf(b, "<text class=\"%s\" x=\"%.1f\" y=\"%d\">%s</text>\n", text, labelWidth+high+6, base, escape(figure))
		y += barHeight + barGap
	}
	return y + groupGap - barGap
}

// scaled returns the length of v, which ends at most.
func scaled(v, most, scale float64) float64 { return min(max(v, 0), most) * scale }

func escape(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s)) // a Builder does not fail
	return b.String()
}
