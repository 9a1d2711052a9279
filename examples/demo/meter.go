package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/headrace/headrace/pipeline"
)

// meter counts what the three parts of the pipeline do. It is the pipeline's observer.
type meter struct {
	acked chan struct{} // poked after each acknowledgement
	total int

	mu       sync.Mutex
	began    time.Time
	took     time.Duration // from the first push to the last acknowledgement
	steps    map[string]*step
	done     bool
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

// Observe is told of everything that worker and promoter do.
func (m *meter) Observe(e pipeline.Event) {
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

// line is the state in one line.
func (m *meter) line() string {
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
	return fmt.Sprintf("pushed %d  staged %d  promoted %d of %d  %.0f/s", pushed, staged, m.promoted, m.total, rate)
}

func (m *meter) share() float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return float64(m.promoted) / float64(m.total)
}

// startProgress shows a bar where out is a terminal and a plain line every two seconds where it is not, until the returned function is called.
func startProgress(out io.Writer, m *meter) (stop func()) {
	f, ok := out.(*os.File)
	terminal := false
	if ok {
		if info, err := f.Stat(); err == nil {
			terminal = info.Mode()&os.ModeCharDevice != 0
		}
	}
	every, show := 2*time.Second, func() { fmt.Fprintln(out, "progress   ", m.line()) }
	if terminal {
		every, show = 100*time.Millisecond, func() {
			const width = 30
			full := int(m.share() * width)
			fmt.Fprintf(out, "\r\033[K[%s%s] %s", strings.Repeat("█", full), strings.Repeat("░", width-full), m.line())
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
