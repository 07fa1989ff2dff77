package report

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
	"time"
)

func sample() *Report {
	r := &Report{
		Title: "Benchmark", Started: time.Unix(0, 0), Command: "make bench",
		Facts:   []Fact{{"kernel", "Linux 6"}},
		Missing: []string{"frp: frps is not installed"},
		Chains: []Chain{
			{Name: "oh-router", Version: "1", Base: "haproxy", Ours: true},
			{Name: "haproxy", Version: "2.6", Base: "haproxy"},
			{Name: "no<ne", Base: "haproxy"},
		},
		Groups: []Group{{
			ID: "rr", Title: "Requests", Metrics: []Metric{{"rate", "requests/s", false}, {"p50", "p50 µs", true}},
			Workloads: []Workload{{"rr-1", "1 connection"}, {"rr-64", "64 connections"}},
		}},
	}
	for i, rate := range []float64{3000, 2000, 1000} {
		r.At("rr-1", "oh-router").Samples = append(r.At("rr-1", "oh-router").Samples, Sample{"rate": rate, "p50": float64(i)})
	}
	r.At("rr-1", "haproxy").Samples = []Sample{{"rate": 1000, "p50": 4}}
	r.At("rr-64", "oh-router").Dropped = []Sample{{"rate": 20000}}
	r.At("rr-64", "haproxy").Samples = []Sample{{"rate": 40000}}
	broken := r.At("rr-1", "no<ne")
	broken.Error, broken.Failures = "refused", 3
	return r
}

func TestRatios(t *testing.T) {
	r := sample()
	if got := r.Ratio("rr-1", r.Chains[0], "rate"); got != 2 {
		t.Errorf("Ratio = %v, want 2", got)
	}
	if got := r.Ratio("rr-1", r.Chains[2], "rate"); got != 0 {
		t.Errorf("Ratio without a sample = %v, want 0", got)
	}
	if got := r.Mean(r.Groups[0], r.Chains[0], "rate"); got != 1 {
		t.Errorf("Mean of 2 and 0.5 = %v, want 1", got)
	}
}

func TestMarkdown(t *testing.T) {
	var b strings.Builder
	if err := sample().Markdown(&b); err != nil {
		t.Fatal(err)
	}
	got := b.String()
	for _, want := range []string{
		"| **oh-router** | 2000 (1000–3000) ×2.00 | 20.0k ×0.50*",
		"| haproxy       | 1000 ",
		"| no<ne         | failed",
		"Not measured: frp: frps is not installed.",
		"| kernel  | Linux 6 |",
		"5 windows counted, 1 disturbed ones dropped",
		"* no<ne, rr-1: 3 failed, last: refused",
		"p50 µs (less is better)",
		"| **oh-router**    | ×1.00",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
}

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{0: "0.00", 0.123: "0.12", 9.999: "10.0", 12.34: "12.3", 99.96: "100", 1234: "1234", 12345: "12.3k", 123456: "123k", -3: "-3.00"} {
		if got := number(v); got != want {
			t.Errorf("number(%v) = %s, want %s", v, got, want)
		}
	}
}

func TestJSON(t *testing.T) {
	var b bytes.Buffer
	if err := sample().JSON(&b); err != nil {
		t.Fatal(err)
	}
	var got struct {
		Cells []struct {
			Workload, Chain string
			Summaries       map[string]struct{ N, Median, Min, Max float64 }
			Ratios          map[string]float64
			Disturbed       bool
		}
	}
	if err := json.Unmarshal(b.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Cells) != 5 {
		t.Fatalf("%d cells, want 5", len(got.Cells))
	}
	first := got.Cells[0]
	if first.Chain != "oh-router" || first.Summaries["rate"].Median != 2000 || first.Ratios["rate"] != 2 || first.Disturbed {
		t.Errorf("first cell = %+v", first)
	}
}

func TestSVG(t *testing.T) {
	r := sample()
	var b bytes.Buffer
	if err := r.SVG(&b, r.Groups[0]); err != nil {
		t.Fatal(err)
	}
	rects := 0
	for d := xml.NewDecoder(bytes.NewReader(b.Bytes())); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("not XML: %v\n%s", err, b.String())
		}
		if e, ok := token.(xml.StartElement); ok && e.Name.Local == "rect" {
			rects++
		}
	}
	if rects != 4 {
		t.Errorf("%d bars, want one for each cell with a figure: 4", rects)
	}
	if strings.Contains(b.String(), "»") {
		t.Error("a bar is cut that is not much longer than the base's")
	}
	r.At("rr-1", "haproxy").Samples = []Sample{{"rate": 10}}
	b.Reset()
	if err := r.SVG(&b, r.Groups[0]); err != nil || !strings.Contains(b.String(), "» 2000") {
		t.Errorf("a bar 200 times as long as the base's is not cut: %v\n%s", err, b.String())
	}
	if !strings.Contains(b.String(), "prefers-color-scheme: dark") {
		t.Error("no colours for the dark")
	}
}
