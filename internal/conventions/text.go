package conventions

import (
	"fmt"
	"go/scanner"
	"go/token"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Columns is the most that a line of a comment may have.
const Columns = 100

// words are what a comment, an error text or a document must not contain, each with what to write
// instead.
var words = []struct {
	pattern *regexp.Regexp
	instead string
}{
	{regexp.MustCompile(`(?i)\b(nobody|somebody|whoever)`), "name who: a worker, the caller, another process"},
	{regexp.MustCompile(`(?i)\b(is|was|are|not) to be had\b`), "is available, could not be acquired"},
	{regexp.MustCompile(`(?i)\bby (itself|himself|themselves)\b`), "alone, without a signal, automatically"},
	{regexp.MustCompile(`(?i)\bsays (whether|how|what|which|that|so|where|why)\b`), "reports, returns, or the plain noun"},
	{regexp.MustCompile(`(?i)\bstrange (reply|answer)\b`), "unexpected reply: got …, want …"},
	{regexp.MustCompile(`(?i)\bhears of\b`), "receives"},
	{regexp.MustCompile(`(?i)\bfirst first\b`), "oldest first"},
	{regexp.MustCompile(`(?i)\bbeside\b`), "next to, with, in addition to, during, concurrently with"},
	{regexp.MustCompile(`(?i)\bbehind (an?|the|all|every) (cursor|position|savepoint|insert|merges?|statement|verb|end)\b`), "after"},
	{regexp.MustCompile(`(?i)\b(stands?|stood) (in|for|at|still|under|there|once)\b`), "is in, takes the place of, is stalled, exists"},
	{regexp.MustCompile(`(?i)\b(puts?|putting) aside\b`), "set aside, for a batch; stored, for a record"},
	{regexp.MustCompile(`(?i)\b(comes?|came) again\b`), "is redelivered, is pushed again, is read again"},
	{regexp.MustCompile(`(?i)\b(take|takes|taken|took) back\b`), "rolled back, released"},
	{regexp.MustCompile(`(?i)\btime-outs?\b`), "timeout"},
	{regexp.MustCompile(`%[vdqsT][^.]*: must (be|not|have|begin)\b`), "is VALUE, must be RANGE"},
	{regexp.MustCompile(`\b(TODO|FIXME)\b`), "do it, or write it down as a known limit"},
}

// user is the account named nobody, which is not a forbidden word.
const user = `"nobody"`

// identifiers must not contain these either: names of tests are read as sentences.
var identifiers = regexp.MustCompile(`(Nobody|Somebody|Whoever|ByItself|Beside|PutAside|ComesAgain|TakenBack)`)

var expectedOutput = regexp.MustCompile(`(?i)^//\s*(unordered )?output:`)

// Words finds forbidden words in one file: in comments, strings and identifiers of Go, in comments
// of Lua and SQL, in all of Markdown.
func Words(file string, src []byte) []Problem {
	var out []Problem
	find := func(line int, text string) {
		for i, part := range strings.Split(strings.ReplaceAll(text, user, ""), "\n") {
			for _, w := range words {
				if m := w.pattern.FindString(part); m != "" {
					out = append(out, Problem{file, line + i, fmt.Sprintf("%q; write instead: %s", m, w.instead)})
				}
			}
		}
	}
	switch filepath.Ext(file) {
	case ".go":
		eachToken(file, src, func(line int, tok token.Token, lit string) {
			switch tok {
			case token.COMMENT:
				find(line, lit)
			case token.STRING:
				if s, err := strconv.Unquote(lit); err == nil && lit != user {
					find(line, s)
				}
			case token.IDENT:
				if m := identifiers.FindString(lit); m != "" {
					out = append(out, Problem{file, line, fmt.Sprintf("the name %s contains %q", lit, m)})
				}
			}
		})
	case ".lua", ".sql":
		for i, line := range strings.Split(string(src), "\n") {
			if _, comment, ok := strings.Cut(line, "--"); ok {
				find(i+1, comment)
			}
		}
	case ".md":
		find(1, string(src))
	}
	return out
}

// Width finds lines of comments that are longer than the given number of columns. A line that
// cannot be broken, such as an address, is left alone, and so are directives and the expected
// output of examples.
func Width(file string, src []byte, columns int) []Problem {
	var out []Problem
	check := func(line int, text string) {
		text = strings.TrimRight(text, " \r")
		if n := utf8.RuneCountInString(text); n > columns && strings.Contains(strings.TrimLeft(text, "/- \t"), " ") {
			out = append(out, Problem{file, line, fmt.Sprintf("a comment of %d columns: at most %d", n, columns)})
		}
	}
	lines := strings.Split(string(src), "\n")
	switch filepath.Ext(file) {
	case ".go":
		output := -1 // the last line of an example's expected output
		eachToken(file, src, func(line int, tok token.Token, lit string) {
			if tok != token.COMMENT || strings.HasPrefix(lit, "//go:") || strings.HasPrefix(lit, "//nolint") {
				return
			}
			if line == output+1 || expectedOutput.MatchString(lit) {
				output = line
				return
			}
			for i, part := range strings.Split(lit, "\n") {
				whole := lines[line-1+i]
				if i > 0 || strings.HasPrefix(strings.TrimSpace(whole), strings.TrimSpace(part)) { // not behind code
					check(line+i, whole)
				}
			}
		})
	case ".lua", ".sql":
		for i, line := range lines {
			if strings.HasPrefix(strings.TrimSpace(line), "--") {
				check(i+1, line)
			}
		}
	}
	return out
}

func eachToken(file string, src []byte, f func(line int, tok token.Token, lit string)) {
	var s scanner.Scanner
	set := token.NewFileSet()
	s.Init(set.AddFile(file, -1, len(src)), src, nil, scanner.ScanComments)
	for {
		pos, tok, lit := s.Scan()
		if tok == token.EOF {
			return
		}
		f(set.Position(pos).Line, tok, lit)
	}
}
