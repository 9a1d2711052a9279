package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/headrace/headrace/examples/internal/program"
	"github.com/headrace/headrace/pipeline"
)

// meter counts what the three parts of the pipeline do. It is the pipeline's observer.
type meter struct {
	acked chan struct{} // receives a value after an acknowledgement
	total int

	mu       sync.Mutex
	began    time.Time
	took     time.Duration // from the first push to the last acknowledgement
	steps    map[string]*step
	done     bool  // the producer has pushed everything
	promoted int64 // records
	err      error
}

// step is one row of the closing table.
type step struct {
	records int64
	busy    time.Duration
}

func newMeter(total int) *meter {
	return &meter{acked: make(chan struct{}, 1), total: total, began: time.Now(), steps: map[string]*step{}}
}

func (m *meter) add(name string, records int64, busy time.Duration) {
	s := m.steps[name]
	if s == nil {
		s = &step{}
		m.steps[name] = s
	}
	s.records += records
	s.busy += busy
}

// Observe receives the events of the worker and the promoter.
func (m *meter) Observe(_ context.Context, e pipeline.Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e.Err != nil {
		m.err = fmt.Errorf("last error: %s: %w", e.Op, e.Err)
		return
	}
	switch e.Op {
	case pipeline.OpTransform, pipeline.OpStage, pipeline.OpPromote:
		m.add(string(e.Op), int64(e.Records), e.Duration)
	}
	switch e.Op {
	case pipeline.OpPromote:
		m.promoted += int64(e.Records)
	case pipeline.OpAck:
		select {
		case m.acked <- struct{}{}:
		default:
		}
	}
}

func (m *meter) pushed(n int, busy, waited time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.add("push", int64(n), busy)
	m.add("wait", int64(n), waited)
}

func (m *meter) producerDone() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.done = true
}

func (m *meter) produced() (int64, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.steps["push"]; s != nil {
		return s.records, m.done
	}
	return 0, m.done
}

func (m *meter) end() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.took = time.Since(m.began)
}

func (m *meter) lastError() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err
}

// line is the state in one line of at most width columns.
func (m *meter) line(width int, bar bool) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var pushed, staged int64
	if s := m.steps["push"]; s != nil {
		pushed = s.records
	}
	if s := m.steps["stage"]; s != nil {
		staged = s.records
	}
	rate := float64(m.promoted) / time.Since(m.began).Seconds()
	text := fmt.Sprintf("pushed %s  staged %s  promoted %s of %s  %s/s",
		short(pushed), short(staged), short(m.promoted), short(int64(m.total)), short(int64(rate)))
	if !bar {
		return program.Fit("progress    "+text, width)
	}
	const most = 30
	columns := min(most, width-len(text)-len("[] "))
	if columns < 5 {
		return program.Fit(text, width)
	}
	full := int(m.promoted * int64(columns) / int64(m.total))
	return fmt.Sprintf("[%s%s] %s", strings.Repeat("█", full), strings.Repeat("░", columns-full), text)
}

// short prints a number with three or four digits: 987, 12.3k, 4.56M.
func short(n int64) string {
	switch {
	case n >= 1e6:
		return fmt.Sprintf("%.2fM", float64(n)/1e6)
	case n >= 1e4:
		return fmt.Sprintf("%.1fk", float64(n)/1e3)
	}
	return fmt.Sprint(n)
}

// startProgress shows a bar if out is a terminal, and otherwise a line every two seconds. The
// returned function shows the last state and ends it.
func startProgress(out io.Writer, m *meter) (stop func()) {
	_, terminal := program.Width(out)
	every, show := 2*time.Second, func() { fmt.Fprintln(out, m.line(program.DefaultWidth, false)) }
	if terminal {
		every, show = 100*time.Millisecond, func() {
			width, _ := program.Width(out) // the window may have been resized
			// A terminal moves to the next line when its last column is written.
			fmt.Fprint(out, "\r\033[K", m.line(width-1, true))
		}
	}
	quit, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-quit:
				show()
				if terminal {
					fmt.Fprintln(out)
				}
				return
			case <-tick.C:
				show()
			}
		}
	}()
	return func() { close(quit); <-ended }
}
