package conventions

import (
	"fmt"
	"go/ast"
	"go/token"
	"regexp"
	"strings"
)

// Symbols are the exported names of several packages with the members of their types: what a text
// may refer to.
type Symbols struct {
	names   map[string]map[string]bool // by package
	members map[string]map[string]bool // of "package.Type" and, over all packages, of "Type"
	fields  map[string]bool            // of any struct: a comment may write Field.Member
}

// NewSymbols collects the names of packages that users import.
func NewSymbols(packages ...*Package) *Symbols {
	s := &Symbols{map[string]map[string]bool{}, map[string]map[string]bool{}, map[string]bool{}}
	for _, p := range packages {
		s.names[p.Name] = map[string]bool{}
		for _, f := range p.Files {
			for _, d := range f.Decls {
				switch d := d.(type) {
				case *ast.FuncDecl:
					if d.Recv == nil {
						s.names[p.Name][d.Name.Name] = true
					} else {
						s.add(p.Name, strings.TrimPrefix(typeName(d.Recv.List[0].Type), "*"), d.Name.Name)
					}
				case *ast.GenDecl:
					for _, spec := range d.Specs {
						s.declare(p.Name, spec)
					}
				}
			}
		}
	}
	return s
}

func (s *Symbols) declare(pkg string, spec ast.Spec) {
	switch spec := spec.(type) {
	case *ast.ValueSpec:
		for _, n := range spec.Names {
			s.names[pkg][n.Name] = true
		}
	case *ast.TypeSpec:
		name := spec.Name.Name
		s.names[pkg][name] = true
		s.add(pkg, name, "")
		var list *ast.FieldList
		switch t := spec.Type.(type) {
		case *ast.StructType:
			list = t.Fields
		case *ast.InterfaceType:
			list = t.Methods
		default:
			return
		}
		for _, f := range list.List {
			for _, n := range f.Names {
				s.add(pkg, name, n.Name)
				s.fields[n.Name] = true
			}
			if len(f.Names) == 0 {
				s.add(pkg, name, "*") // an embedded type brings members of its own
			}
		}
	}
}

func (s *Symbols) add(pkg, typ, member string) {
	for _, key := range []string{pkg + "." + typ, typ} {
		if s.members[key] == nil {
			s.members[key] = map[string]bool{}
		}
		s.members[key][member] = true
	}
}

var (
	// reference is package.Name, package.Type.Member or Type.Member.
	reference = regexp.MustCompile(`(?:^|[^\w./-])((?:[a-z]\w*\.)?[A-Z]\w*(?:\.[A-Z]\w*)*)`)
	// locale is a name of a locale of the operating system, such as C.UTF-8.
	locale = regexp.MustCompile(`^C\.UTF`)
)

// References finds names in the comments of a Go file of a package, or in a Markdown file (pkg is
// ""), that look like package.Name or Type.Member and do not exist.
func (s *Symbols) References(pkg, file string, src []byte) []Problem {
	var out []Problem
	find := func(line int, text string) {
		for i, part := range strings.Split(text, "\n") {
			for _, m := range reference.FindAllStringSubmatch(part, -1) {
				if lacks := s.lacks(pkg, strings.Split(m[1], ".")); lacks != "" && !locale.MatchString(m[1]) {
					out = append(out, Problem{file, line + i, fmt.Sprintf("%s: %s", m[1], lacks)})
				}
			}
		}
	}
	if strings.HasSuffix(file, ".md") {
		find(1, string(src))
		return out
	}
	eachToken(file, src, func(line int, tok token.Token, lit string) {
		if tok == token.COMMENT {
			find(line, lit)
		}
	})
	return out
}

func (s *Symbols) lacks(pkg string, path []string) string {
	if names, ok := s.names[path[0]]; ok && len(path) > 1 {
		if !names[path[1]] {
			return "package " + path[0] + " has no " + path[1]
		}
		pkg, path = path[0], path[1:]
	}
	if len(path) < 2 || !ast.IsExported(path[0]) { // one word; a package of another module
		return ""
	}
	members := s.members[pkg+"."+path[0]]
	if members == nil {
		members = s.members[path[0]]
	}
	switch {
	case members["*"] || members[path[1]], s.fields[path[0]]:
		return ""
	case members == nil:
		return "there is no type " + path[0]
	}
	return path[0] + " has no " + path[1]
}
