package program

import (
	"io"
	"os"
	"strings"
	"unicode/utf8"
)

// DefaultWidth is the width of an output that is no terminal, and of a terminal that does not
// report its width.
const DefaultWidth = 80

// Width returns the number of columns of a terminal, and whether w is one.
func Width(w io.Writer) (columns int, terminal bool) {
	f, ok := w.(*os.File)
	if o, guarded := w.(*output); guarded {
		f, ok = o.file, true
	}
	if !ok {
		return DefaultWidth, false
	}
	if n, ok := columnsOf(f); ok {
		if n > 0 {
			return n, true
		}
		return DefaultWidth, true
	}
	return DefaultWidth, false
}

// Wrap returns text behind a heading, broken at spaces into lines of at most width columns. The
// lines after the first are indented by the heading's width.
func Wrap(heading, text string, width int) string {
	indent := utf8.RuneCountInString(heading)
	var b strings.Builder
	b.WriteString(heading)
	column := indent
	for i, word := range strings.Fields(text) {
		n := utf8.RuneCountInString(word)
		switch {
		case i == 0:
		case column+1+n > width:
			b.WriteString("\n" + strings.Repeat(" ", indent))
			column = indent
		default:
			b.WriteByte(' ')
			column++
		}
		b.WriteString(word)
		column += n
	}
	return b.String()
}

// Fit cuts a line to at most width columns.
func Fit(line string, width int) string {
	if utf8.RuneCountInString(line) <= width {
		return line
	}
	return string([]rune(line)[:max(0, width)])
}
