package staging

import (
	"slices"
	"strings"
)

// A promotion returns to its merges only the columns that they name: a wide row would be copied
// for a roll-up of three columns. The text of a merge is read word by word. Where a word may mean
// the whole row, all columns are returned; a column too many costs time and nothing else.

// returned lists the columns of the target that the merges may read, each once. The second result
// is false if they may read the whole row.
func (t *table) returned(merges []Merge) ([]string, bool) {
	named := map[string]bool{}
	for _, m := range merges {
		words, ok := readWords(m.SQL)
		if !ok || wholeRow(words) {
			return nil, false
		}
		for _, w := range words {
			if w.name { // outside of ASCII, folding depends on the encoding
				named[w.text], named[strings.ToLower(w.text)] = true, true
			}
		}
	}
	var out []string
	for _, c := range t.targetColumns {
		if named[c] {
			out = append(out, c)
		}
	}
	return out, true
}

// word is a name or a keyword of a statement, or one sign.
type word struct {
	text string
	name bool // a name, folded as Postgres folds it
}

// readWords splits a statement. It leaves out comments and constants. The second result is false
// for a spelling that it does not read: names with Unicode escapes.
func readWords(sql string) (words []word, ok bool) {
	for i := 0; i < len(sql); {
		rest := sql[i:]
		switch c := sql[i]; {
		case strings.HasPrefix(rest, "--"):
			i += untilAfter(rest, "\n")
		case strings.HasPrefix(rest, "/*"):
			i += commentLength(rest)
		case c == '\'':
			i += constantLength(rest, len(words) > 0 && words[len(words)-1].text == "e")
		case c == '$' && !strings.HasPrefix(rest, "$1"):
			tag := rest[:1+untilAfter(rest[1:], "$")]
			i += len(tag) + untilAfter(rest[len(tag):], tag)
		case c == '"':
			name, n := quotedName(rest)
			words, i = append(words, word{name, true}), i+n
			if len(words) > 1 && words[len(words)-2].text == "&" {
				return nil, false
			}
		case isNameByte(c):
			n := 0
			for n < len(rest) && (isNameByte(rest[n]) || rest[n] == '$') {
				n++
			}
			words, i = append(words, word{foldASCII(rest[:n]), true}), i+n
		case c == ' ' || c == '\t' || c == '\n' || c == '\r':
			i++
		default:
			words, i = append(words, word{string(c), false}), i+1
		}
	}
	return words, true
}

func isNameByte(c byte) bool {
	return c == '_' || c >= 0x80 || '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'z'
}

func foldASCII(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + ('a' - 'A')
		}
		return r
	}, s)
}

// untilAfter is the length up to the end of what is looked for, or all.
func untilAfter(s, end string) int {
	if i := strings.Index(s, end); i >= 0 {
		return i + len(end)
	}
	return len(s)
}

// commentLength is the length of a comment: comments may be nested.
func commentLength(s string) int {
	depth := 0
	for i := 0; i < len(s)-1; i++ {
		switch s[i : i+2] {
		case "/*":
			depth, i = depth+1, i+1
		case "*/":
			depth, i = depth-1, i+1
		}
		if depth == 0 {
			return i + 1
		}
	}
	return len(s)
}

// constantLength is the length of a quoted text, in which an escape may hide a quote.
func constantLength(s string, escapes bool) int {
	for i := 1; i < len(s); i++ {
		switch {
		case escapes && s[i] == '\\':
			i++
		case s[i] == '\'' && i+1 < len(s) && s[i+1] == '\'':
			i++
		case s[i] == '\'':
			return i + 1
		}
	}
	return len(s)
}

func quotedName(s string) (name string, length int) {
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		if s[i] == '"' {
			if i+1 == len(s) || s[i+1] != '"' {
				return b.String(), i + 1
			}
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String(), len(s)
}

// wholeRow is true if a statement may read all columns of the rows: by a star, by the name of the
// rows alone, or by a join on whatever columns there are.
func wholeRow(words []word) bool {
	at := func(i int) string {
		if i < 0 || i >= len(words) {
			return ""
		}
		return words[i].text
	}
	rows := []string{"promoted", "replaced"}
	for i, w := range words {
		if !slices.Contains([]string{"promoted", "replaced"}, w.text) || at(i+1) == "." {
			continue
		}
		alias := i + 1
		if at(alias) == "as" {
			alias++
		}
		if alias < len(words) && words[alias].name && !slices.Contains(afterRows, at(alias)) {
			rows = append(rows, at(alias))
		}
	}
	for i, w := range words {
		switch {
		case w.text == "natural":
			return true
		case w.text == "*" && at(i-1) == "." && at(i-3) == "(" && at(i-4) == "operator" && !slices.Contains(rows, at(i-2)): // OPERATOR(pg_catalog.*)
		case w.text == "*" && slices.Contains([]string{".", "select", ",", "distinct", "all", "returning"}, at(i-1)):
			return true
		case !w.name || !slices.Contains(rows, w.text) || at(i+1) == ".":
		case !slices.Contains([]string{"from", "join", "as", "only", "promoted", "replaced"}, at(i-1)) || at(i+1) == "(":
			return true
		}
	}
	return false
}

// afterRows are keywords that may follow the name of the rows where it has no alias.
var afterRows = []string{
	"where", "group", "order", "having", "join", "inner", "left", "right", "full", "cross", "natural", "on", "using",
	"union", "except", "intersect", "limit", "offset", "fetch", "for", "window", "returning", "tablesample",
}
