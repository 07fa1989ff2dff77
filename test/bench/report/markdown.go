package report

import (
	"fmt"
	"io"
	"math"
	"strings"
	"time"
	"unicode/utf8"
)

// Marks that stand behind a figure.
const (
	disturbedMark = "*"
	failedMark    = "!"
)

// Markdown writes the tables, padded so that they read well as they are.
func (r *Report) Markdown(w io.Writer) error {
	var b strings.Builder
	r.head(&b)
	r.overview(&b)
	for _, g := range r.Groups {
		fmt.Fprintf(&b, "### %s\n\n", g.Title)
		if g.Note != "" {
			fmt.Fprintf(&b, "%s\n\n", g.Note)
		}
		for i, m := range g.Metrics {
			r.table(&b, g, m, i == 0)
		}
	}
	r.foot(&b)
	_, err := io.WriteString(w, b.String())
	return err
}

func (r *Report) head(b *strings.Builder) {
	fmt.Fprintf(b, "## %s\n\n`%s`, %s\n\n", r.Title, r.Command, r.Started.UTC().Format(time.DateOnly))
	rows := [][]string{{"machine", ""}}
	for _, f := range r.Facts {
		rows = append(rows, []string{f.Name, f.Value})
	}
	writeTable(b, rows)
	rows = [][]string{{"chain", "version", "configuration"}}
	for _, c := range r.Chains {
		rows = append(rows, []string{c.Name, c.Version, c.Remark})
	}
	writeTable(b, rows)
	if len(r.Missing) > 0 {
		fmt.Fprintf(b, "Not measured: %s.\n\n", strings.Join(r.Missing, "; "))
	}
}

// overview shows the geometric mean of each group's ratios to the base.
func (r *Report) overview(b *strings.Builder) {
	rows := [][]string{{"ratio to HAProxy"}}
	for _, g := range r.Groups {
		for _, m := range g.headlines() {
			rows[0] = append(rows[0], fmt.Sprintf("%s: %s", g.Title, m.Name))
		}
	}
	seen := false
	for _, c := range r.Chains {
		row := []string{r.name(c)}
		for _, g := range r.Groups {
			for _, m := range g.headlines() {
				mean := r.Mean(g, c, m.Key)
				seen = seen || mean > 0
				row = append(row, ratio(mean))
			}
		}
		rows = append(rows, row)
	}
	if seen {
		b.WriteString("### Overview\n\nGeometric means of the ratios of medians (TLS chains: to HAProxy with TLS).\n\n")
		writeTable(b, rows)
	}
}

// table shows one metric of a group, with extremes when full.
func (r *Report) table(b *strings.Builder, g Group, m Metric, full bool) {
	head := []string{m.Name}
	if m.Lower {
		head[0] += " (less is better)"
	}
	for _, w := range g.Workloads {
		head = append(head, w.Label)
	}
	rows := [][]string{head}
	for _, c := range r.Chains {
		row, known := []string{r.name(c)}, false
		for _, w := range g.Workloads {
			text := r.figure(w.ID, c, m, full)
			known = known || text != ""
			row = append(row, text)
		}
		if known {
			rows = append(rows, row)
		}
	}
	if len(rows) > 1 {
		writeTable(b, rows)
	}
}

// figure shows median, extremes and ratio of a cell; "" when there is none.
func (r *Report) figure(workload string, c Chain, m Metric, full bool) string {
	cell := r.Cell(workload, c.Name)
	if cell == nil {
		return ""
	}
	s := cell.Summary(m.Key)
	if s.N == 0 {
		if cell.Error != "" && full {
			return "failed"
		}
		return ""
	}
	text := number(s.Median)
	if full && s.N > 1 {
		text += fmt.Sprintf(" (%s–%s)", number(s.Min), number(s.Max))
	}
	if x := r.Ratio(workload, c, m.Key); x > 0 && c.Name != c.Base {
		text += " " + ratio(x)
	}
	if _, disturbed := cell.Used(); disturbed {
		text += disturbedMark
	}
	if cell.Failures > 0 {
		text += failedMark
	}
	return text
}

func (r *Report) foot(b *strings.Builder) {
	dropped, kept := 0, 0
	disturbed, failed := false, []string(nil)
	for _, c := range r.Cells {
		_, all := c.Used()
		disturbed = disturbed || all
		dropped, kept = dropped+len(c.Dropped), kept+len(c.Samples)
		if c.Error != "" {
			failed = append(failed, fmt.Sprintf("%s, %s: %d failed, last: %s", c.Chain, c.Workload, c.Failures, c.Error))
		}
	}
	fmt.Fprintf(b, "Medians (min–max) ×ratio to HAProxy. %d windows counted, %d disturbed ones dropped.", kept, dropped)
	if disturbed {
		fmt.Fprintf(b, " Figures with %s are of disturbed windows, because there were no others.", disturbedMark)
	}
	b.WriteString("\n")
	if len(failed) > 0 {
		fmt.Fprintf(b, "\nFailures (%s):\n\n", failedMark)
		for _, f := range failed {
			fmt.Fprintf(b, "* %s\n", f)
		}
	}
}

func (r *Report) name(c Chain) string {
	if c.Ours {
		return "**" + c.Name + "**"
	}
	return c.Name
}

func ratio(x float64) string {
	if x == 0 {
		return ""
	}
	return fmt.Sprintf("×%.2f", x)
}

// number shows three significant digits, thousands as k.
func number(v float64) string {
	a := math.Abs(v)
	switch {
	case a >= 99_950:
		return fmt.Sprintf("%.0fk", v/1000)
	case a >= 9_995:
		return fmt.Sprintf("%.1fk", v/1000)
	case a >= 99.95:
		return fmt.Sprintf("%.0f", v)
	case a >= 9.995:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// writeTable writes rows, the first of which is the head, as a table.
func writeTable(b *strings.Builder, rows [][]string) {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, text := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(text), 3)
		}
	}
	for n, row := range rows {
		for i, width := range widths {
			text := row[i]
			fmt.Fprintf(b, "| %s%s ", text, strings.Repeat(" ", width-utf8.RuneCountInString(text)))
		}
		b.WriteString("|\n")
		if n == 0 {
			for _, width := range widths {
				fmt.Fprintf(b, "|%s", strings.Repeat("-", width+2))
			}
			b.WriteString("|\n")
		}
	}
	b.WriteString("\n")
}
