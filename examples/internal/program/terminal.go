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

// Wrap returns text after a heading, broken at spaces into lines of at most width columns. The
// lines after the first are indented by the heading's width. A word that no line has room for is
// broken.
func Wrap(heading, text string, width int) string {
	indent := utf8.RuneCountInString(heading)
	room := max(1, width-indent)
	var b strings.Builder
	b.WriteString(heading)
	column := indent
	for i, word := range strings.Fields(text) {
		rest := []rune(word)
		switch {
		case i == 0:
		case column+1+len(rest) > width:
			b.WriteString("\n" + strings.Repeat(" ", indent))
			column = indent
		default:
			b.WriteByte(' ')
			column++
		}
		for ; len(rest) > room; rest = rest[room:] {
			b.WriteString(string(rest[:room]) + "\n" + strings.Repeat(" ", indent))
		}
		b.WriteString(string(rest))
		column += len(rest)
	}
	return b.String()
}

// Break returns text after a heading in lines of at most width columns, indented by the heading's
// width. Unlike Wrap it keeps each character of the text: the lines joined are the text.
func Break(heading, text string, width int) string {
	indent := utf8.RuneCountInString(heading)
	room := max(1, width-indent)
	rest := []rune(text)
	for ; len(rest) > room; rest = rest[room:] {
		heading += string(rest[:room]) + "\n" + strings.Repeat(" ", indent)
	}
	return heading + string(rest)
}

// Fit cuts a line to at most width columns.
func Fit(line string, width int) string {
	if utf8.RuneCountInString(line) <= width {
		return line
	}
	return string([]rune(line)[:max(0, width)])
}
