package program

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// Watch prints what show returns. With an interval it prints again until ctx is done, on a terminal
// in the place of the text before. show gets the width of the output. The text is printed even if
// show returns an error with it. Watch returns the last error of show.
func Watch(ctx context.Context, p *Program, interval time.Duration, show func(ctx context.Context, width int) (string, error)) error {
	width, terminal := Width(p.Out)
	lines := 0 // of the text on the terminal
	for {
		text, err := show(ctx, width)
		if ctx.Err() != nil && lines > 0 {
			return nil
		}
		if terminal && lines > 0 {
			fmt.Fprintf(p.Out, "\033[%dA\033[J", lines) // up to the first line of the text before, clear below
		}
		fmt.Fprint(p.Out, text)
		lines = strings.Count(text, "\n")
		if interval == 0 || err != nil && text == "" {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(interval):
		}
		width, terminal = Width(p.Out)
	}
}
