package pipeline

import (
	"log/slog"
	"strings"
	"sync"
	"time"
)

// Reminders of an outage that goes on are logged at these intervals. The interval doubles.
const (
	firstReminder = 10 * time.Second
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

	mu       sync.Mutex
	failing  map[string]struct{} // who failed last time
	begun    time.Time
	failures int
	logged   bool          // the beginning was logged
	last     time.Time     // of the last line
	interval time.Duration // until the next line
}

func newOutage(log *slog.Logger, what string, args ...any) *outage {
	return &outage{log: log, what: what, args: args, now: time.Now, failing: map[string]struct{}{}}
}

// failed records the failure of who, such as a batch, and logs it if a line is due.
func (o *outage) failed(who string, err error, args ...any) {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := o.now()
	if len(o.failing) == 0 {
		o.begun, o.failures, o.logged = now, 0, false
		if now.Sub(o.last) > lastReminder {
			o.interval = 0 // a new outage; one that comes and goes does not log each time
		}
	}
	o.failing[who] = struct{}{}
	o.failures++
	if o.interval > 0 && now.Sub(o.last) < o.interval {
		return
	}
	o.interval = min(max(2*o.interval, firstReminder), lastReminder)
	o.last = now
	args = append(append([]any{"err", oneLine(err)}, args...), o.args...)
	if !o.logged && o.failures == 1 {
		o.logged = true
		o.log.Warn(o.what+" failed; retrying", args...)
		return
	}
	o.logged = true
	o.log.Warn(o.what+" still fails; retrying", append(args, "failures", o.failures, "since", now.Sub(o.begun).Round(time.Millisecond))...)
}

// succeeded records that who does not fail any more. It logs the end of the outage after the last
// one.
func (o *outage) succeeded(who string) { o.leave(who, true) }

// gone records that who neither fails nor succeeds any more, as at shutdown.
func (o *outage) gone(who string) { o.leave(who, false) }

func (o *outage) leave(who string, log bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, ok := o.failing[who]; !ok {
		return
	}
	delete(o.failing, who)
	if len(o.failing) > 0 || !o.logged || !log {
		return
	}
	o.log.Info(o.what+" works again", append([]any{"after", o.now().Sub(o.begun).Round(time.Millisecond), "failures", o.failures}, o.args...)...)
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
