package examples_test

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// sample is one value with its labels.
type sample struct {
	labels map[string]string
	value  float64
}

// samples are the values of one scrape by name.
type samples map[string][]sample

func (s samples) sum(name string) (v float64) {
	for _, x := range s[name] {
		v += x.value
	}
	return v
}

// The parts of an expression of Prometheus that the alerts use:
//
//	AGG by (labels) (SELECTOR or increase(SELECTOR[time]))
//	  [/ the same] [> or < number] [and on (labels) the same]
//	absent(SELECTOR)
var (
	conjunction = regexp.MustCompile(`^(.*) and on \(([a-z_, ]+)\) (.*)$`)
	comparison  = regexp.MustCompile(`^(.*) ([<>]) ([0-9.]+)$`)
	aggregation = regexp.MustCompile(`^(max|min|sum) by \(([a-z_, ]+)\) \((.*)\)$`)
	increase    = regexp.MustCompile(`^increase\((.*)\[[0-9]+[smh]\]\)$`)
	selector    = regexp.MustCompile(`^([a-z_]+)(?:\{(.*)\})?$`)
	matcher     = regexp.MustCompile(`^([a-z_]+)="([^"]*)"$`)
	absence     = regexp.MustCompile(`^absent\((.*)\)$`)
)

// evaluate returns the elements for which the expression of an alert holds. increase is the
// difference of two scrapes.
func evaluate(expr string, before, now samples) ([]sample, error) {
	expr = strings.Join(strings.Fields(expr), " ")
	if m := conjunction.FindStringSubmatch(expr); m != nil {
		left, err := evaluate(m[1], before, now)
		if err != nil {
			return nil, err
		}
		right, err := evaluate(m[3], before, now)
		if err != nil {
			return nil, err
		}
		keep := make(map[string]bool)
		for _, s := range right {
			keep[key(s.labels, m[2])] = true
		}
		return slices.DeleteFunc(left, func(s sample) bool { return !keep[key(s.labels, m[2])] }), nil
	}
	if m := comparison.FindStringSubmatch(expr); m != nil {
		limit, err := strconv.ParseFloat(m[3], 64)
		if err != nil {
			return nil, err
		}
		v, err := evaluate(m[1], before, now)
		return slices.DeleteFunc(v, func(s sample) bool { return !(m[2] == ">" && s.value > limit || m[2] == "<" && s.value < limit) }), err
	}
	if a, b, ok := strings.Cut(expr, " / "); ok {
		return divide(a, b, before, now)
	}
	if m := absence.FindStringSubmatch(expr); m != nil {
		v, err := choose(m[1], now)
		if err != nil || len(v) > 0 {
			return nil, err
		}
		return []sample{{value: 1}}, nil
	}
	m := aggregation.FindStringSubmatch(expr)
	if m == nil {
		return nil, fmt.Errorf("%q is not understood here", expr)
	}
	var v []sample
	var err error
	if i := increase.FindStringSubmatch(m[3]); i != nil {
		v, err = grown(i[1], before, now)
	} else {
		v, err = choose(m[3], now)
	}
	return aggregate(m[1], m[2], v), err
}

// divide divides the elements with the same labels.
func divide(a, b string, before, now samples) ([]sample, error) {
	left, err := evaluate(a, before, now)
	if err != nil {
		return nil, err
	}
	right, err := evaluate(b, before, now)
	var out []sample
	for _, l := range left {
		for _, r := range right {
			if maps.Equal(l.labels, r.labels) {
				out = append(out, sample{l.labels, l.value / r.value})
			}
		}
	}
	return out, err
}

// choose returns the values that a selector names.
func choose(expr string, from samples) ([]sample, error) {
	m := selector.FindStringSubmatch(expr)
	if m == nil {
		return nil, fmt.Errorf("the selector %q is not understood here", expr)
	}
	out := slices.Clone(from[m[1]])
	for _, part := range strings.Split(m[2], ",") {
		if part == "" {
			continue
		}
		w := matcher.FindStringSubmatch(part)
		if w == nil {
			return nil, fmt.Errorf("the matcher %q is not understood here", part)
		}
		out = slices.DeleteFunc(out, func(s sample) bool { return s.labels[w[1]] != w[2] })
	}
	return out, nil
}

// grown returns by how much the counters of a selector grew between two scrapes.
func grown(expr string, before, now samples) ([]sample, error) {
	old, err := choose(expr, before)
	if err != nil {
		return nil, err
	}
	v, err := choose(expr, now)
	for i, s := range v {
		for _, o := range old {
			if maps.Equal(o.labels, s.labels) {
				v[i].value -= o.value
			}
		}
	}
	return v, err
}

// aggregate folds the values whose labels are the same.
func aggregate(how, by string, v []sample) []sample {
	var out []sample
	index := make(map[string]int)
	for _, s := range v {
		k := key(s.labels, by)
		i, ok := index[k]
		if !ok {
			index[k] = len(out)
			labels := make(map[string]string)
			for _, l := range strings.Split(by, ", ") {
				labels[l] = s.labels[l]
			}
			out = append(out, sample{labels, s.value})
			continue
		}
		switch how {
		case "max":
			out[i].value = max(out[i].value, s.value)
		case "min":
			out[i].value = min(out[i].value, s.value)
		default:
			out[i].value += s.value
		}
	}
	return out
}

func key(labels map[string]string, names string) string {
	var b strings.Builder
	for _, n := range strings.Split(names, ", ") {
		b.WriteString(labels[n] + "\x00")
	}
	return b.String()
}

// The alerts' expressions mean here what they mean to Prometheus.
func TestEvaluate(t *testing.T) {
	t.Parallel()
	of := func(v float64, labels ...string) sample {
		m := make(map[string]string)
		for i := 0; i < len(labels); i += 2 {
			m[labels[i]] = labels[i+1]
		}
		return sample{m, v}
	}
	before := samples{"n_total": {of(5, "q", "a"), of(5, "q", "b")}}
	now := samples{
		"g":       {of(1, "q", "a", "s", "x"), of(3, "q", "a", "s", "y"), of(9, "q", "b", "s", "x")},
		"h":       {of(10, "q", "a"), of(10, "q", "b")},
		"n_total": {of(5, "q", "a"), of(8, "q", "b")},
	}
	for expr, want := range map[string][]float64{
		`max by (q) (g) > 2`:                                  {3, 9},
		`max by (q) (g{s="x"}) > 2`:                           {9},
		`min by (q) (g) < 2`:                                  {1},
		`sum by (q) (g) > 3`:                                  {4, 9},
		`max by (q) (g) / max by (q) (h) > 0.5`:               {0.9},
		`sum by (q) (increase(n_total[15m])) > 0`:             {3},
		`max by (q, s) (g) > 0 and on (q) max by (q) (g) > 5`: {9},
		`max by (q) (g) > 0 and on (q) max by (q) (none) > 5`: nil,
		`absent(none)`:                                        {1},
		`absent(g)`:                                           nil,
		`max by (q) (g{s="none"}) > 0`:                        nil,
	} {
		v, err := evaluate(expr, before, now)
		if err != nil {
			t.Errorf("%s: %v", expr, err)
		}
		var got []float64
		for _, s := range v {
			got = append(got, s.value)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", expr, got, want)
		}
	}
	for _, bad := range []string{`g > 1`, `max(g) > 1`, `max by (q) (rate(g)) > 1`, `max by (q) (g{s=~"x"}) > 0`} {
		if _, err := evaluate(bad, before, now); err == nil {
			t.Errorf("%s: no error", bad)
		}
	}
}
