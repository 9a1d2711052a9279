package pipeline

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/internal/redisx"
)

// ErrStuck reports that nothing is lost, but the pipeline makes no progress. The error that wraps
// it names the step, the time since when it fails, and the reason.
var ErrStuck = errors.New("pipeline: nothing is lost, but the pipeline is stuck")

const (
	// StuckAfter is how long a batch may wait for its promotion before [Books.Stuck] reports it.
	StuckAfter = 30 * time.Second

	stallTTL     = 2 * lastReminder // an older report is from a program that has died
	stallTimeout = 2 * time.Second
	// reportTimeout bounds the report of a stall. It is short: at shutdown several may follow each
	// other.
	reportTimeout = 500 * time.Millisecond
)

// Stall is a step that fails again and again, as reported by a worker or promoter.
type Stall struct {
	Program  string    `json:"program"` // name of the worker or promoter; empty: seen in the queue
	Step     string    `json:"step"`    // "promoting"
	Since    time.Time `json:"since"`
	Failures int       `json:"failures"`
	Reason   string    `json:"reason"` // the last error, on one line
	Batch    string    `json:"batch,omitempty"`
	// Reported is when the program reported it last, by the clock of Redis. A program reports a step
	// that goes on failing at least every five minutes.
	Reported time.Time `json:"reported,omitzero"`
}

// String describes the stall on one line.
func (s Stall) String() string {
	var b strings.Builder
	if s.Program != "" {
		fmt.Fprintf(&b, "%s: ", s.Program)
	}
	fmt.Fprintf(&b, "%s, since %s", s.Step, s.Since.UTC().Format(time.RFC3339))
	if s.Failures > 0 {
		fmt.Fprintf(&b, ", %d failures", s.Failures)
	}
	if s.Batch != "" {
		fmt.Fprintf(&b, ", batch %s", s.Batch)
	}
	if s.Reason != "" {
		fmt.Fprintf(&b, ": %s", s.Reason)
	}
	return b.String()
}

// field is the field of a program's step in the hash of stalls.
func (s Stall) field() string { return s.Program + "/" + s.Step }

// report stores a stall for [Flow.Books], for some minutes.
func (s *Signals) report(ctx context.Context, stall Stall) (err error) {
	if stall.Reported, err = s.clock(s.client.Do(ctx, s.client.B().Time().Build())); err != nil {
		return fmt.Errorf("pipeline: could not report a stall: %w", err)
	}
	text, err := json.Marshal(stall)
	if err != nil {
		return err
	}
	for _, r := range s.client.DoMulti(ctx,
		s.client.B().Hset().Key(s.stalls).FieldValue().FieldValue(stall.field(), string(text)).Build(),
		s.client.B().Pexpire().Key(s.stalls).Milliseconds(stallTTL.Milliseconds()).Build()) {
		if err = r.Error(); err != nil {
			break
		}
	}
	if redisx.OutOfMemory(err) {
		err = s.client.Do(ctx, s.client.B().Eval().Script(storeStall).Numkeys(1).Key(s.stalls).
			Arg(stall.field(), string(text), strconv.FormatInt(stallTTL.Milliseconds(), 10)).Build()).Error()
	}
	if err != nil {
		return fmt.Errorf("pipeline: could not report a stall: %w", err)
	}
	return nil
}

// storeStall stores a stall while Redis is at maxmemory: that may be a consequence of the stall.
const storeStall = redisx.AllowOOM + `redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1`

// clock parses the reply of TIME.
func (s *Signals) clock(r rueidis.RedisResult) (time.Time, error) {
	t, err := r.AsIntSlice()
	if err != nil {
		return time.Time{}, err
	}
	if len(t) != 2 {
		return time.Time{}, fmt.Errorf("unexpected reply: got %d elements, want 2", len(t))
	}
	return time.Unix(t[0], t[1]*1000), nil
}

// clear removes a stall.
func (s *Signals) clear(ctx context.Context, stall Stall) error {
	if err := s.client.Do(ctx, s.client.B().Hdel().Key(s.stalls).Field(stall.field()).Build()).Error(); err != nil {
		return fmt.Errorf("pipeline: could not clear a stall: %w", err)
	}
	return nil
}

// reported returns the stalls that programs have reported, oldest first. It leaves out what was not
// reported again in time: the program has died. The hash expires when no program reports.
func (s *Signals) reported(ctx context.Context) ([]Stall, error) {
	fields, err := s.client.Do(ctx, s.client.B().Hgetall().Key(s.stalls).Build()).AsStrMap()
	if err != nil {
		return nil, fmt.Errorf("pipeline: could not read the stalls: %w", err)
	}
	if len(fields) == 0 {
		return nil, nil
	}
	now, err := s.clock(s.client.Do(ctx, s.client.B().Time().Build()))
	if err != nil {
		return nil, fmt.Errorf("pipeline: could not read the stalls: %w", err)
	}
	var out []Stall
	for name, text := range fields {
		var stall Stall
		if err := json.Unmarshal([]byte(text), &stall); err != nil {
			return nil, fmt.Errorf("pipeline: could not read the stall %q: %w", name, err)
		}
		if now.Sub(stall.Reported) < stallTTL {
			out = append(out, stall)
		}
	}
	slices.SortFunc(out, func(a, b Stall) int { return a.Since.Compare(b.Since) })
	return out, nil
}

// watch makes an outage visible beyond the log: to the observer and, by way of the signals, in the
// books.
func (f Flow[T]) watch(o *outage, ev *events) *outage {
	o.report = func(now outageState) {
		ctx, cancel := context.WithTimeout(context.Background(), reportTimeout)
		defer cancel()
		stall := Stall{Program: ev.program, Step: o.what, Since: now.since, Failures: now.failures, Reason: oneLine(now.err), Batch: now.batch}
		e := Event{Op: OpStuck, Step: o.what, Batch: now.batch, Failures: now.failures, Since: now.since, Err: now.err}
		if now.over {
			e.Op, e.Err, e.Duration = OpRecovered, nil, time.Since(now.since)
		}
		if !now.over || now.works {
			ev.emit(ctx, e)
		}
		if f.Signals == nil {
			return
		}
		if now.over {
			_ = f.Signals.clear(ctx, stall) // it expires
		} else {
			_ = f.Signals.report(ctx, stall) // the log has it too
		}
	}
	return o
}
