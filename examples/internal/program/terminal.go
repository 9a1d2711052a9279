package program

import (
	"io"
	"os"
	"strconv"
	"strings"
	"unicode/utf8"
)

// DefaultWidth is the width of an output that is no terminal, and of a terminal that does not
// report its width.
const DefaultWidth = 80

// Width returns the number of columns of a terminal, and whether w is one.
func Width(w io.Writer) (columns int, terminal bool) {
	columns, _, terminal = size(w)
	return columns, terminal
}

// size is Width with the number of rows, which is 0 if it is unknown.
func size(w io.Writer) (columns, rows int, terminal bool) {
	f, ok := w.(*os.File)
	if o, guarded := w.(*output); guarded {
		f, ok = o.file, true
	}
	if !ok {
		return DefaultWidth, 0, false
	}
	columns, rows, terminal = sizeOf(f)
	if columns <= 0 {
		columns = DefaultWidth
	}
	return columns, rows, terminal
}

// Clean returns text on one line, with Go escapes for characters that cannot be printed. Records,
// ids and reasons come from producers: no control character of theirs may reach the terminal, and
// no line break of theirs may forge a line.
func Clean(text string) string {
	seen := func(r rune) bool { return r != utf8.RuneError && strconv.IsPrint(r) }
	var b strings.Builder
	for len(text) > 0 {
		r, size := utf8.DecodeRuneInString(text)
		if seen(r) {
			b.WriteRune(r)
		} else {
			quoted := strconv.Quote(text[:size])
			b.WriteString(quoted[1 : len(quoted)-1])
		}
		text = text[size:]
	}
	return b.String()
}

// Wrap returns text after a heading, broken at spaces into lines of at most width columns. The
// lines after the first are indented by the heading's width. A word that no line has room for is
// broken. The words are [Clean].
func Wrap(heading, text string, width int) string {
	indent := utf8.RuneCountInString(heading)
	room := max(1, width-indent)
	var b strings.Builder
	b.WriteString(heading)
	column := indent
	for i, word := range strings.Fields(text) {
		rest := []rune(Clean(word))
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
// width. Unlike Wrap it keeps each space of the text: the lines joined are the [Clean] text.
func Break(heading, text string, width int) string {
	indent := utf8.RuneCountInString(heading)
	room := max(1, width-indent)
	rest := []rune(Clean(text))
	for ; len(rest) > room; rest = rest[room:] {
		heading += string(rest[:room]) + "\n" + strings.Repeat(" ", indent)
	}
	return heading + string(rest)
}

// Fit cuts a [Clean] line to at most width columns.
func Fit(line string, width int) string {
	line = Clean(line)
	if utf8.RuneCountInString(line) <= width {
		return line
	}
	return string([]rune(line)[:max(0, width)])
}
