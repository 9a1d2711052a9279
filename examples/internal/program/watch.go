package program

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"
	"unicode/utf8"
)

// Watch prints what show returns. With an interval it prints again until ctx is done, on a terminal
// in the place of the text before. show gets the width of the output. The text is printed even if
// show returns an error with it. Watch returns the last error of show.
func Watch(ctx context.Context, p *Program, interval time.Duration, show func(ctx context.Context, width int) (string, error)) error {
	at := newScreen(p)
	shown := false
	for {
		columns, rows, moves := at.size()
		text, err := show(ctx, columns)
		if ctx.Err() != nil && shown {
			return nil
		}
		if moves && interval > 0 {
			text = at.place(text, columns, rows)
		}
		fmt.Fprint(p.Out, text)
		shown = true
		if interval == 0 || err != nil && text == "" {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(interval):
		}
	}
}

// screen is a terminal with a text that is replaced.
type screen struct {
	p                    *Program
	dumb                 bool // it knows no escape sequences
	columns, rows, lines int  // of the terminal, and of the text on it
}

func newScreen(p *Program) *screen { return &screen{p: p, dumb: os.Getenv("TERM") == "dumb"} }

// size returns the size of the output, with no rows if it is unknown, and whether the cursor can be
// moved.
func (s *screen) size() (columns, rows int, moves bool) {
	columns, rows, terminal := size(s.p.Out)
	return columns, rows, terminal && !s.dumb
}

// place returns what puts a text in the place of the one before. The cursor cannot return to a line
// that has scrolled away, so of a text that is longer than the terminal the first lines are shown.
// Where the terminal was resized its lines may have been broken: then it is cleared.
func (s *screen) place(text string, columns, rows int) string {
	clear := ""
	switch {
	case s.lines == 0:
	case columns != s.columns || rows != s.rows:
		clear = "\033[H\033[J"
	default:
		clear = fmt.Sprintf("\033[%dA\033[J", s.lines) // up to the first line of the text before, clear below
	}
	height := func(line string) int {
		return max(1, (utf8.RuneCountInString(strings.TrimSuffix(line, "\n"))+columns-1)/max(1, columns))
	}
	all := strings.SplitAfter(strings.TrimSuffix(text, "\n"), "\n")
	s.columns, s.rows, s.lines = columns, rows, 0
	total := 0
	for _, line := range all {
		total += height(line)
	}
	if rows <= 1 || total < rows { // below the text is the cursor
		s.lines = total
		return clear + text
	}
	var shown strings.Builder
	for i, line := range all {
		if s.lines+height(line) > rows-2 {
			more := Fit(fmt.Sprintf("… %d more lines: enlarge the terminal", len(all)-i), columns)
			s.lines++
			return clear + shown.String() + more + "\n"
		}
		s.lines += height(line)
		shown.WriteString(line)
	}
	return clear + shown.String()
}
