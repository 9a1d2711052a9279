package lookup

import (
	"log/slog"
	"sync"
)

// errorLog logs errors that are retried: the first of a series of equal ones, and the recovery.
type errorLog struct {
	logger *slog.Logger
	table  string

	mu      sync.Mutex
	current map[string]string // by operation: the error of the series
}

func newErrorLog(logger *slog.Logger, table string) *errorLog {
	return &errorLog{logger: logger, table: table, current: make(map[string]string)}
}

// report logs the outcome of an operation if it differs from the last one.
func (l *errorLog) report(operation string, err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	l.mu.Lock()
	before := l.current[operation]
	l.current[operation] = text
	l.mu.Unlock()
	switch {
	case text == before:
	case err != nil:
		l.logger.Warn("lookup: "+operation+" fails and is retried", "table", l.table, "error", err)
	default:
		l.logger.Info("lookup: "+operation+" works again", "table", l.table)
	}
}
