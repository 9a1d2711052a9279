package program

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestSuggest(t *testing.T) {
	t.Parallel()
	flags := []string{"-orders", "-duplicates", "-bad", "-burst", "-seed"}
	for word, want := range map[string]string{
		"-order": "-orders", "-ordres": "-orders", "-dups": "", "-duplicate": "-duplicates", "-bda": "", "-sed": "-seed", "-brust": "-burst",
		"-verbose": "", "-x": "", "-": "", "-orders=5": "-orders", "-ünicode": "",
	} {
		got := suggest(word, flags)
		if want == "" && got != "-h lists the flags" || want != "" && !strings.Contains(got, "did you mean "+want+"?") {
			t.Errorf("%s: got %q, want %q", word, got, want)
		}
	}
	if got := suggest("-x", nil); got != "-h lists the flags" {
		t.Errorf("without flags: got %q", got)
	}
}

func TestParseDuration(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{"5": 5 * time.Second, "0.5": 500 * time.Millisecond, "1m30s": 90 * time.Second, "0": 0} {
		if got, err := ParseDuration(text); err != nil || got != want {
			t.Errorf("%s: got %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "soon", "5 s", "1e99", "NaN", "Inf"} {
		if got, err := ParseDuration(text); err == nil {
			t.Errorf("%q: got %v, want an error", text, got)
		}
	}
}

func TestClean(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"größer 漢字 ✓": "größer 漢字 ✓", "a\x1b[31mb\x07": `a\x1b[31mb\a`, "one\ntwo\r\tthree": `one\ntwo\r\tthree`, "\u202eabc\u200b": `\u202eabc\u200b`,
		"\xff\x9b31m": `\xff\x9b31m`, "say \"hi\" \\": `say "hi" \`, "\ufffd": "\ufffd", "": "",
	} {
		if got := Clean(text); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
	for _, got := range []string{Fit("a\nb\x1b[2J", 80), Break("", "a\nb\x1b[2J", 80), Wrap("", "a\nb\x1b[2J", 80)} {
		if got != Clean(got) {
			t.Errorf("got %q, want one line without control characters", got)
		}
	}
}

func TestSayPrintsOneLine(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	p := &Program{Name: "worker", Err: &out}
	p.Say("%v", errors.Join(errors.New("first \x1b[2J"), errors.New("\tsecond")))
	if got, want := out.String(), "worker: first \\x1b[2J; second\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestBreak(t *testing.T) {
	t.Parallel()
	const text = `{"note":  "two  spaces, größer",   "x": 1}`
	for _, width := range []int{5, 9, 13, 20, 47, 48, 200} {
		got := Break("key  ", text, width)
		joined := ""
		for i, line := range strings.Split(got, "\n") {
			if n := utf8.RuneCountInString(line); n > max(width, 6) || i > 0 && !strings.HasPrefix(line, "     ") {
				t.Errorf("%d columns: got the line %q of %d", width, line, n)
			}
			joined += line[5:]
		}
		if joined != text {
			t.Errorf("%d columns: got %q, want the text", width, joined)
		}
	}
}

func TestWrap(t *testing.T) {
	t.Parallel()
	const text = "records 1000000 = kept 945000 + duplicates 50000 + filtered 0 + rejected 5000"
	for _, width := range []int{13, 20, 40, 80, 200} {
		got := Wrap("  ✓ rows    ", text, width)
		if plain := func(s string) string { return strings.Join(strings.Fields(s), "") }; plain(got) != plain("✓ rows "+text) {
			t.Errorf("%d columns: words were lost: %q", width, got)
		}
		if want := "✓ rows " + text; width >= 40 && strings.Join(strings.Fields(got), " ") != want {
			t.Errorf("%d columns: a word is broken that a line has room for: %q", width, got)
		}
		for i, line := range strings.Split(got, "\n") {
			if n := utf8.RuneCountInString(line); n > width {
				t.Errorf("%d columns: a line has %d: %q", width, n, line)
			}
			if i > 0 && !strings.HasPrefix(line, strings.Repeat(" ", 12)) {
				t.Errorf("%d columns: line %d is not indented: %q", width, i, line)
			}
		}
	}
}

// A text that is replaced stays in its place on a terminal of any size, and after a resize.
func TestScreen(t *testing.T) {
	t.Parallel()
	text := strings.Repeat("x", 39) + "\none\ntwo\nthree\n"
	const up = "\033[%dA\033[J"
	var s screen
	for i, step := range []struct {
		columns, rows int
		want          string
	}{
		{80, 24, text},
		{80, 24, fmt.Sprintf(up, 4) + text},
		{80, 0, "\033[H\033[J" + text}, // a height that is unknown
		{20, 24, "\033[H\033[J" + text},
		{20, 24, fmt.Sprintf(up, 5) + text}, // the first line takes two
		{40, 5, "\033[H\033[J" + text},
		{40, 5, fmt.Sprintf(up, 4) + text},
		{40, 4, "\033[H\033[J" + strings.Repeat("x", 39) + "\none\n… 2 more lines: enlarge the terminal\n"},
		{40, 4, fmt.Sprintf(up, 3) + strings.Repeat("x", 39) + "\none\n… 2 more lines: enlarge the terminal\n"},
	} {
		if got := s.place(text, step.columns, step.rows); got != step.want {
			t.Errorf("step %d, %d columns and %d rows: got %q, want %q", i, step.columns, step.rows, got, step.want)
		}
	}
}
