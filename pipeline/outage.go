package pipeline

import (
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
)

// Reminders of an outage that goes on are logged at these intervals. The interval doubles.
const (
	firstReminder = 5 * time.Second
	lastReminder  = 5 * time.Minute
)

// outage logs the failures of one kind of step that is retried: one line when the failures begin,
// lines at growing intervals with a count while they last, and one line when all who failed have
// succeeded again. Several goroutines share one outage. This type is safe for concurrent use.
type outage struct {
	log  *slog.Logger
	what string // the step as a noun: "leasing"
	args []any  // attributes of every line
	now  func() time.Time
	// report, if set, is called after each line but the first, without the lock.
	report func(outageState)

	mu       sync.Mutex
	failing  map[string]struct{} // who failed last time
	begun    time.Time
	failures int
	logged   bool          // the beginning was logged
	reported bool          // a reminder was logged and reported
	owed     bool          // all who failed are gone; the next success ends the outage that was reported
	last     time.Time     // of the last line
	interval time.Duration // until the next line
}

// outageState is what an outage reports.
type outageState struct {
	over     bool
	works    bool // it is over because the step works again, and not because all who failed are gone
	since    time.Time
	failures int
	err      error
	batch    string
}

func newOutage(log *slog.Logger, what string, args ...any) *outage {
	return &outage{log: log, what: what, args: args, now: time.Now, failing: map[string]struct{}{}}
}

// failed records the failure of who, such as a batch, and logs it if a line is due.
func (o *outage) failed(who string, err error, args ...any) {
	state, due := o.fail(who, err, args)
	if due && o.report != nil {
		o.report(state)
	}
}

func (o *outage) fail(who string, err error, args []any) (state outageState, due bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := o.now()
	if len(o.failing) == 0 {
		o.begun, o.failures, o.logged, o.reported, o.owed = now, 0, false, o.owed, false
		if now.Sub(o.last) > lastReminder {
			o.interval = 0 // a new outage; one that comes and goes does not log each time
		}
	}
	o.failing[who] = struct{}{}
	o.failures++
	if o.interval > 0 && now.Sub(o.last) < o.interval {
		return state, false
	}
	o.interval = min(max(2*o.interval, firstReminder), lastReminder)
	o.last = now
	state = outageState{since: o.begun, failures: o.failures, err: err}
	for i := 0; i+1 < len(args); i += 2 {
		if id, ok := args[i+1].(string); ok && args[i] == "batch" {
			state.batch = id
		}
	}
	args = slices.Concat([]any{"error", oneLine(err)}, args, o.args)
	if !o.logged && o.failures == 1 {
		o.logged = true
		o.log.Warn("pipeline: "+o.what+" failed; retrying", args...)
		return state, false // once is not stuck
	}
	o.logged, o.reported = true, true
	o.log.Warn("pipeline: "+o.what+" still fails; retrying", append(args, "failures", o.failures, "since", now.Sub(o.begun).Round(time.Millisecond))...)
	return state, true
}

// succeeded records that who does not fail any more. It logs the end of the outage after the last
// one.
func (o *outage) succeeded(who string) { o.leave(who, true) }

// gone records that who neither fails nor succeeds any more, as at shutdown.
func (o *outage) gone(who string) { o.leave(who, false) }

func (o *outage) leave(who string, works bool) {
	if state, over := o.end(who, works); over && o.report != nil {
		o.report(state)
	}
}

func (o *outage) end(who string, works bool) (state outageState, over bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	_, failed := o.failing[who]
	delete(o.failing, who)
	ends := works && o.owed
	if failed {
		ends = o.logged || o.reported
	}
	if len(o.failing) > 0 || !ends {
		return state, false
	}
	o.owed = o.reported && !works
	if works {
		o.log.Info("pipeline: "+o.what+" works again", slices.Concat([]any{"after", o.now().Sub(o.begun).Round(time.Millisecond), "failures", o.failures}, o.args)...)
	}
	return outageState{over: true, works: works, since: o.begun, failures: o.failures}, o.reported
}

// oneLine returns the text of an error as one line: pgx spreads its connection errors over several.
func oneLine(err error) string {
	if err == nil {
		return ""
	}
	lines := strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\n' || r == '\r' })
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	return strings.Join(lines, " ")
}
