package pipeline_test

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
)

// lines is a log handler that keeps what was logged, without the times.
type lines struct {
	slog.Handler
	mu  *sync.Mutex
	out *bytes.Buffer
}

func newLines() *lines {
	l := &lines{mu: new(sync.Mutex), out: new(bytes.Buffer)}
	l.Handler = slog.NewTextHandler(l, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}})
	return l
}

// Write is called by the handler.
func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.out.Write(p)
}

func (l *lines) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	text := strings.TrimSpace(l.out.String())
	if text == "" {
		return nil
	}
	return strings.Split(text, "\n")
}

// with returns the lines that contain text.
func (l *lines) with(text string) (out []string) {
	for _, line := range l.all() {
		if strings.Contains(line, text) {
			out = append(out, line)
		}
	}
	return out
}
