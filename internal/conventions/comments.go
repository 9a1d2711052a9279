package conventions

import (
	"go/ast"
	"go/doc"
	"go/doc/comment"
	"go/token"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// bracketed is a name in brackets, as a link of a doc comment is written.
var bracketed = regexp.MustCompile(`\B\[\*?(?:[a-z]\w*\.)?[A-Z]\w*(?:\.[A-Z]\w*)*\]`)

// DocLinks finds names in brackets, in the comments of a package, that go doc does not turn into
// links.
func DocLinks(p *Package, path string) ([]Problem, error) {
	d, err := doc.NewFromFiles(p.set, slices.Clone(p.Files), path, doc.PreserveAST)
	if err != nil {
		return nil, err
	}
	parser := d.Parser()
	var out []Problem
	for _, f := range p.Files {
		for _, group := range f.Comments {
			for _, c := range group.List {
				for _, name := range bracketed.FindAllString(c.Text, -1) {
					if !isLink(parser.Parse("x " + name + " x")) {
						out = append(out, p.at(c.Pos(), "%s is not a link: there is no such name, or its package is not imported", name))
					}
				}
			}
		}
	}
	return out, nil
}

func isLink(d *comment.Doc) bool {
	p, ok := d.Content[0].(*comment.Paragraph)
	return ok && slices.ContainsFunc(p.Text, func(t comment.Text) bool { _, ok := t.(*comment.DocLink); return ok })
}

// Trailing finds comments after exported fields and constants that make their line longer than the
// given number of columns: such a comment belongs above.
func Trailing(p *Package, lines func(file string) []string, columns int) []Problem {
	var out []Problem
	check := func(c *ast.CommentGroup, names []*ast.Ident) {
		if c == nil || !slices.ContainsFunc(names, (*ast.Ident).IsExported) {
			return
		}
		where := p.set.Position(c.Pos())
		if n := utf8.RuneCountInString(lines(where.Filename)[where.Line-1]); n > columns {
			out = append(out, p.at(c.Pos(), "a line of %d columns: at most %d, so put the comment above", n, columns))
		}
	}
	for _, f := range p.Files {
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.Field:
				check(n.Comment, n.Names)
			case *ast.ValueSpec:
				check(n.Comment, n.Names)
			}
			return true
		})
	}
	return out
}

var logs = regexp.MustCompile(`^(Debug|Info|Warn|Error)(Context)?$`)

// Logs finds log lines whose text does not begin with the package's name, and attributes named err:
// the word is error.
func Logs(p *Package) []Problem {
	var out []Problem
	for _, f := range p.Files {
		ast.Inspect(f, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			s, ok := call.Fun.(*ast.SelectorExpr)
			if !ok || !logs.MatchString(s.Sel.Name) || len(call.Args) == 0 {
				return true
			}
			if x, ok := s.X.(*ast.Ident); ok && x.Name == "t" { // a test's
				return true
			}
			args := call.Args
			if strings.HasSuffix(s.Sel.Name, "Context") {
				args = args[1:]
			}
			if text, ok := literal(args[0]); ok && !strings.HasPrefix(text, p.Name+": ") {
				out = append(out, p.at(call.Pos(), "the log line %q must begin with %q", text, p.Name+": "))
			}
			for _, a := range args[1:] {
				if text, ok := literal(a); ok && text == "err" {
					out = append(out, p.at(a.Pos(), "name the attribute error, as in all packages"))
				}
			}
			return true
		})
	}
	return out
}

// literal is the text with which an expression begins.
func literal(e ast.Expr) (string, bool) {
	for {
		switch x := e.(type) {
		case *ast.BinaryExpr:
			e = x.X
			continue
		case *ast.BasicLit:
			text, err := strconv.Unquote(x.Value)
			return text, err == nil && x.Kind == token.STRING
		}
		return "", false
	}
}
