// Package errorlog logs errors that are retried: the first of a series, every new text, a reminder
// with the count at growing intervals, and the recovery. So an outage neither floods a log nor
// drops out of it.
package errorlog

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"
)

const (
	firstReminder = 5 * time.Second
	lastReminder  = 5 * time.Minute
	maxTexts      = 8 // of one series; more differ in a number, such as a port
)

// Log logs the errors of the operations of one package. It is safe for concurrent use.
type Log struct {
	logger *slog.Logger
	prefix string
	args   []any

	mu     sync.Mutex
	series map[string]*series // by operation
}

// series is the errors of an operation that has not succeeded since.
type series struct {
	begun, logged time.Time
	interval      time.Duration // until the next reminder
	failures      int
	texts         []string // that were logged
}

// New returns a Log. The prefix is the name of the package and ": "; args are attributes of every
// line.
func New(logger *slog.Logger, prefix string, args ...any) *Log {
	return &Log{logger: logger, prefix: prefix, args: args, series: map[string]*series{}}
}

// Report records the outcome of an operation, "polling", and logs it if a line is due.
func (l *Log) Report(ctx context.Context, operation string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s, now := l.series[operation], time.Now()
	switch {
	case err == nil && s == nil:
	case err == nil:
		delete(l.series, operation)
		l.logger.InfoContext(ctx, l.prefix+operation+" works again", slices.Concat(l.args, []any{"after", now.Sub(s.begun).Round(time.Millisecond), "failures", s.failures})...)
	case s == nil:
		l.series[operation] = &series{begun: now, logged: now, interval: firstReminder, failures: 1, texts: []string{err.Error()}}
		l.logger.WarnContext(ctx, l.prefix+operation+" fails and is retried", slices.Concat(l.args, []any{"error", err})...)
	default:
		s.failures++
		due, text := now.Sub(s.logged) >= s.interval, err.Error()
		if !due && (len(s.texts) == maxTexts || slices.Contains(s.texts, text)) {
			return
		}
		if due {
			s.interval = min(2*s.interval, lastReminder)
		}
		if s.logged = now; len(s.texts) < maxTexts && !slices.Contains(s.texts, text) {
			s.texts = append(s.texts, text)
		}
		l.logger.WarnContext(ctx, l.prefix+operation+" still fails and is retried",
			slices.Concat(l.args, []any{"error", err, "failures", s.failures, "since", now.Sub(s.begun).Round(time.Millisecond)})...)
	}
}
