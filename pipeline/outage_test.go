package pipeline

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// clock is a clock that the test moves.
type clock struct{ at time.Time }

func (c *clock) now() time.Time { return c.at }

func newTestOutage() (*outage, *clock, *bytes.Buffer) {
	var out bytes.Buffer
	c := &clock{at: time.Unix(1_000_000, 0)}
	o := newOutage(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}})), "staging")
	o.now = c.now
	return o, c, &out
}

func linesOf(out *bytes.Buffer) []string {
	return strings.Split(strings.TrimSpace(out.String()), "\n")
}

// A minute's outage with four failures a second: the beginning, reminders at growing intervals, the
// end.
func TestOutageIsLoggedOnceAndAtGrowingIntervals(t *testing.T) {
	o, c, out := newTestOutage()
	for i := range 240 {
		o.failed(fmt.Sprintf("batch %d", i%3), errors.New("refused:\n\tdial one\n\tdial two"))
		c.at = c.at.Add(250 * time.Millisecond)
	}
	o.succeeded("batch 0")
	o.succeeded("batch 1")
	o.succeeded("batch 2")
	o.succeeded("batch 2")
	want := []string{
		`level=WARN msg="pipeline: staging failed; retrying" error="refused: dial one dial two"`,
		`level=WARN msg="pipeline: staging still fails; retrying" error="refused: dial one dial two" failures=21 since=5s`,
		`level=WARN msg="pipeline: staging still fails; retrying" error="refused: dial one dial two" failures=61 since=15s`,
		`level=WARN msg="pipeline: staging still fails; retrying" error="refused: dial one dial two" failures=141 since=35s`,
		`level=INFO msg="pipeline: staging works again" after=1m0s failures=240`,
	}
	if diff := cmp.Diff(want, linesOf(out)); diff != "" {
		t.Error(diff)
	}
}

// What comes and goes does not log each time. A new outage after a quiet while does.
func TestFlappingIsNotLoggedEachTime(t *testing.T) {
	o, c, out := newTestOutage()
	for range 20 {
		o.failed("a", errors.New("away"))
		c.at = c.at.Add(50 * time.Millisecond)
		o.succeeded("a")
		c.at = c.at.Add(50 * time.Millisecond)
	}
	if got := linesOf(out); len(got) != 2 {
		t.Errorf("%d lines, want the beginning and the end of the first outage:\n%s", len(got), out)
	}
	c.at = c.at.Add(time.Hour)
	o.failed("a", errors.New("away"))
	o.succeeded("a")
	if got := linesOf(out); len(got) != 4 {
		t.Errorf("%d lines, want two more:\n%s", len(got), out)
	}
}

// An outage goes on while one of many still fails, and a shutdown does not end it.
func TestOutageEndsWithTheLastThatFails(t *testing.T) {
	o, _, out := newTestOutage()
	o.failed("a", errors.New("away"))
	o.failed("b", errors.New("away"))
	o.succeeded("a")
	o.gone("b")
	if got := linesOf(out); len(got) != 1 {
		t.Errorf("%d lines, want only the beginning:\n%s", len(got), out)
	}
}

// What was reported as failing is reported as working when it works, not when all who failed are
// gone: a worker that stops has not seen the step work.
func TestRecoveryIsReportedWhenTheStepWorks(t *testing.T) {
	o, c, _ := newTestOutage()
	var got []outageState
	o.report = func(s outageState) { got = append(got, s) }
	fail := func(who string) {
		o.failed(who, errors.New("away"))
		c.at = c.at.Add(time.Minute)
		o.failed(who, errors.New("away"))
	}
	fail("a")
	o.gone("a")
	o.gone("b")
	if len(got) != 2 || got[0].over || !got[1].over || got[1].works {
		t.Fatalf("failing and gone: got %+v, want a report and an end without a recovery", got)
	}
	o.succeeded("b")
	o.succeeded("b")
	if len(got) != 3 || !got[2].over || !got[2].works {
		t.Fatalf("another success: got %+v, want one recovery", got)
	}
	fail("a")
	o.gone("a")
	o.failed("b", errors.New("away"))
	o.succeeded("b")
	if last := got[len(got)-1]; !last.works {
		t.Errorf("a second outage: got %+v, want a recovery at the end", got)
	}
}
