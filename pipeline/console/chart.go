package console

import (
	"fmt"
	"strings"
	"time"
)

// A chart is drawn in this many units, and stretched to the width of the page.
const chartWidth, chartHeight = 720.0, 160.0

// chart is a chart of the last hour.
type chart struct {
	Title string // for people who see it
	Text  string // for screen readers
	Max   string // the value at the upper end
	Bars  []chartBar
	Lines []chartLine
	Marks []chartMark
	Keys  []chartKey
	Empty string // why there is nothing to see; "": there is something
}

// chartBar is a rectangle.
type chartBar struct {
	Class      string
	X, Y, W, H float64
	Title      string
}

// chartLine is a line.
type chartLine struct{ Class, Points string }

// chartMark is an upright line with a text.
type chartMark struct {
	X    float64
	Text string
}

// chartKey explains a class.
type chartKey struct{ Class, Text string }

// Width and Height are the size of the drawing.
func (chart) Width() float64 { return chartWidth }

// Height is described at Width.
func (chart) Height() float64 { return chartHeight }

// across is the horizontal position of a time in the last hour.
func across(t, now time.Time) float64 {
	return chartWidth * (1 - float64(now.Sub(t))/float64(historyLength))
}

// up is the vertical position of a value.
func up(value, most float64) float64 {
	if most <= 0 {
		return chartHeight
	}
	return chartHeight * (1 - value/most)
}

// throughputChart shows the records of each minute by outcome.
func throughputChart(minutes []Minute, now time.Time) chart {
	c := chart{
		Title: "Records committed, per minute",
		Keys:  []chartKey{{"kept", "kept"}, {"duplicates", "duplicates"}, {"filtered", "filtered"}, {"rejected", "rejected"}},
	}
	var most, total int64
	for _, m := range minutes {
		sum := m.Kept + m.Duplicates + m.Filtered + m.Rejected
		most, total = max(most, sum), total+sum
	}
	if total == 0 {
		c.Empty = "Nothing was committed in the last hour."
		return c
	}
	c.Max = count(most)
	c.Text = fmt.Sprintf("%s records were committed in the last hour, at most %s in one minute.", exact(total), exact(most))
	w := chartWidth / historyLength.Minutes()
	for _, m := range minutes {
		x := across(m.Minute.Add(time.Minute), now.Truncate(time.Minute).Add(time.Minute)) - w
		title := fmt.Sprintf("%s: kept %s, duplicates %s, filtered %s, rejected %s", m.Minute.UTC().Format("15:04 UTC"),
			exact(m.Kept), exact(m.Duplicates), exact(m.Filtered), exact(m.Rejected))
		y := chartHeight
		for i, n := range []int64{m.Kept, m.Duplicates, m.Filtered, m.Rejected} {
			height := chartHeight * float64(n) / float64(most)
			y -= height
			if n > 0 {
				c.Bars = append(c.Bars, chartBar{c.Keys[i].Class, x + w*0.1, y, w * 0.8, height, title})
			}
		}
	}
	return c
}

// delayChart shows the time from the seal to the commit, for each minute.
func delayChart(minutes []Minute, now time.Time) chart {
	c := chart{Title: "Time from seal to commit", Keys: []chartKey{{"longest", "longest"}, {"median", "median"}}}
	most := 0.0
	for _, m := range minutes {
		most = max(most, m.Longest)
	}
	if len(minutes) == 0 {
		c.Empty = "Nothing was committed in the last hour."
		return c
	}
	c.Max = duration(seconds(most))
	last := minutes[len(minutes)-1]
	c.Text = fmt.Sprintf("In the last minute with commits the median was %s and the longest %s.", duration(seconds(last.Median)), duration(seconds(last.Longest)))
	w := chartWidth / historyLength.Minutes()
	for _, m := range minutes {
		x := across(m.Minute.Add(time.Minute), now.Truncate(time.Minute).Add(time.Minute)) - w
		title := fmt.Sprintf("%s: median %s, longest %s, %s batches", m.Minute.UTC().Format("15:04 UTC"),
			duration(seconds(m.Median)), duration(seconds(m.Longest)), exact(m.Batches))
		for i, v := range []float64{m.Longest, m.Median} {
			y := up(v, most)
			c.Bars = append(c.Bars, chartBar{c.Keys[i].Class, x + w*0.1, y, w * 0.8, chartHeight - y, title})
		}
	}
	return c
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// depthChart shows the depth of the queue against the gate's upper watermark, if there is one.
func depthChart(h History, high int64, now time.Time) chart {
	c := chart{Title: "Depth of the queue", Keys: []chartKey{{"depth", "not settled"}, {"ready", "of these ready"}}}
	most := high
	for _, s := range h.Samples {
		most = max(most, s.Depth())
	}
	if len(h.Samples) == 0 {
		c.Empty = "No sample was taken yet."
		return c
	}
	most = max(most, 1)
	c.Max = count(most)
	last := h.Samples[len(h.Samples)-1]
	c.Text = fmt.Sprintf("%s records are not settled, %s of these are ready.", exact(last.Depth()), exact(last.Ready))
	if began := across(h.Started, now); began > 0 {
		c.Bars = append(c.Bars, chartBar{"unknown", 0, 0, began, chartHeight, "the console did not run yet"})
		c.Marks = append(c.Marks, chartMark{began, "console started " + h.Started.UTC().Format("15:04 UTC")})
		c.Text += " The console knows nothing of the time before " + h.Started.UTC().Format("15:04 UTC") + "."
	}
	if high > 0 {
		y := up(float64(high), float64(most))
		c.Lines = append(c.Lines, chartLine{"high", fmt.Sprintf("0,%.1f %.0f,%.1f", y, chartWidth, y)})
		c.Keys = append(c.Keys, chartKey{"high", "the gate closes"})
	}
	parts, reset := h.parts()
	for _, t := range reset {
		c.Marks = append(c.Marks, chartMark{across(t, now), "counters went back " + t.UTC().Format("15:04 UTC")})
	}
	for _, part := range parts {
		var depth, ready strings.Builder
		for _, s := range part {
			x := max(0, across(s.At, now))
			fmt.Fprintf(&depth, "%.1f,%.1f ", x, up(float64(s.Depth()), float64(most)))
			fmt.Fprintf(&ready, "%.1f,%.1f ", x, up(float64(s.Ready), float64(most)))
		}
		c.Lines = append(c.Lines, chartLine{"depth", depth.String()}, chartLine{"ready", ready.String()})
	}
	return c
}
