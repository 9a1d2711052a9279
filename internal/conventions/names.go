package conventions

import (
	"fmt"
	"go/ast"
	"go/token"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// retired are names that were replaced by the field's own terms. They must not come back as
// exported names: as a type (T), a function or method (F), or a variable or field (V). A name with
// a package in front was replaced there alone.
var retired = map[string]string{
	"Settle": "T", "Known": "T", "Settled": "T", "Settlement": "T", "Audited": "T", "Reconciled": "T", "Handed": "TF",
	"Added": "T", "Refreshed": "T", "Closed": "T", "Progressed": "T", "Progress": "T", "Promoted": "T", "Promotion": "T",
	"Rejected": "T", "Dead": "TF", "Drop": "F", "Off": "F", "State": "TF", "Windows": "T", "window.Window": "T",
	"Look": "V", "Every": "V", "For": "V", "Hold": "V", "Grace": "V", "Negative": "V", "Local": "V", "Expect": "V",
	"Ruled": "V", "Strict": "V", "FenceTimeout": "V", "ErrNoDurability": "V",
	"ErrUnbalanced": "V", "ErrPermission": "V", "ClockAhead": "V", "ClockSetBack": "V", "MaxFailure": "V", "queue.OnError": "V", "window.OnError": "V",
	"backpressure.Wait": "F", "backpressure.Try": "F", "backpressure.Done": "F",
	"console.Deed": "T", "console.Gap": "T", "console.Flight": "T", "console.Letter": "T", "console.Entry": "T", "console.Off": "V",
	"pipeline.Found": "T", "pipeline.Line": "T", "pipeline.InHand": "TV",
}

// Retired finds exported names that were replaced.
func Retired(p *Package) []Problem {
	var out []Problem
	check := func(name *ast.Ident, kind string) {
		if ast.IsExported(name.Name) && strings.Contains(retired[name.Name]+retired[p.Name+"."+name.Name], kind) {
			out = append(out, p.at(name.Pos(), "%s was replaced by another word: see the names of the other packages", name.Name))
		}
	}
	for _, f := range p.Files {
		for _, d := range f.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				check(d.Name, "F")
			case *ast.GenDecl:
				for _, s := range d.Specs {
					switch s := s.(type) {
					case *ast.ValueSpec:
						for _, n := range s.Names {
							check(n, "V")
						}
					case *ast.TypeSpec:
						check(s.Name, "T")
						if st, ok := s.Type.(*ast.StructType); ok && s.Name.IsExported() {
							for _, field := range st.Fields.List {
								for _, n := range field.Names {
									check(n, "V")
								}
							}
						}
					}
				}
			}
		}
	}
	return out
}

// Sentinels finds exported error variables whose text does not begin with the package's name.
func Sentinels(p *Package) []Problem {
	var out []Problem
	for _, f := range p.Files {
		for _, d := range f.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok || g.Tok != token.VAR {
				continue
			}
			for _, s := range g.Specs {
				v := s.(*ast.ValueSpec)
				for i, n := range v.Names {
					if !strings.HasPrefix(n.Name, "Err") || i >= len(v.Values) {
						continue
					}
					call, ok := v.Values[i].(*ast.CallExpr)
					if !ok || len(call.Args) == 0 {
						continue
					}
					lit, ok := call.Args[0].(*ast.BasicLit)
					if !ok {
						continue
					}
					if text, err := strconv.Unquote(lit.Value); err == nil && !strings.HasPrefix(text, p.Name+": ") {
						out = append(out, p.at(n.Pos(), "the text of %s is %q: it must begin with %q", n.Name, text, p.Name+": "))
					}
				}
			}
		}
	}
	return out
}

// Constants finds exported constants of a type of the package that do not carry the type's name in
// front.
func Constants(p *Package) []Problem {
	var out []Problem
	for _, f := range p.Files {
		for _, d := range f.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok || g.Tok != token.CONST {
				continue
			}
			typ := ""
			for _, s := range g.Specs {
				v := s.(*ast.ValueSpec)
				switch t := v.Type.(type) {
				case *ast.Ident:
					typ = t.Name
				case nil:
					if len(v.Values) > 0 {
						typ = "" // an untyped constant ends the repetition of the one before
					}
				default:
					typ = "" // a type of another package
				}
				for _, n := range v.Names {
					if n.IsExported() && ast.IsExported(typ) && !strings.HasPrefix(n.Name, typ) {
						out = append(out, p.at(n.Pos(), "the constant %s is a %s: name it %s%s", n.Name, typ, typ, n.Name))
					}
				}
			}
		}
	}
	return out
}

// Constructors finds functions New, and NewRemote, that do not take a context, a client or pool, a
// name and a Config.
func Constructors(p *Package) []Problem {
	var out []Problem
	for _, f := range p.Files {
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Recv != nil || fn.Name.Name != "New" && fn.Name.Name != "NewRemote" {
				continue
			}
			var got []string
			for _, field := range fn.Type.Params.List {
				for range max(1, len(field.Names)) {
					got = append(got, typeName(field.Type))
				}
			}
			store := []string{"rueidis.Client", "*pgxpool.Pool"}
			if len(got) != 4 || got[0] != "context.Context" || !slices.Contains(store, got[1]) || got[2] != "string" || !strings.HasSuffix(got[3], "Config") {
				out = append(out, p.at(fn.Pos(), "%s takes (%s): it must take (context.Context, %s, string, Config)", fn.Name.Name, strings.Join(got, ", "), strings.Join(store, " or ")))
			}
		}
	}
	return out
}

func typeName(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return typeName(e.X) + "." + e.Sel.Name
	case *ast.StarExpr:
		return "*" + typeName(e.X)
	case *ast.IndexExpr:
		return typeName(e.X)
	case *ast.IndexListExpr:
		return typeName(e.X)
	}
	return fmt.Sprintf("%T", e)
}

// uncalled are methods that a user does not call: the standard library does, or package pipeline
// (RejectCode, Observe). Name returns what New was given.
var uncalled = regexp.MustCompile(`^(Error|Is|As|Unwrap|String|GoString|RejectCode|Observe|Name)$`)

// Examples finds exported functions and methods that no example with a checked output calls, and
// example files that import internal packages: a reader could not copy them.
func Examples(p *Package) []Problem {
	var out []Problem
	called := map[string]bool{}
	for _, f := range p.Tests {
		examples := false
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Recv != nil || !strings.HasPrefix(fn.Name.Name, "Example") {
				continue
			}
			examples = true
			if !hasOutput(f, fn) {
				out = append(out, p.at(fn.Pos(), "%s has no Output comment, so it is never run", fn.Name.Name))
				continue
			}
			ast.Inspect(fn, func(n ast.Node) bool {
				if s, ok := n.(*ast.SelectorExpr); ok {
					called[s.Sel.Name] = true
				}
				return true
			})
		}
		if !examples {
			continue
		}
		for _, imp := range f.Imports {
			if strings.Contains(imp.Path.Value, "/headrace/internal/") {
				out = append(out, p.at(imp.Pos(), "an example imports %s, which a reader cannot: move the set-up to setup_test.go", imp.Path.Value))
			}
		}
	}
	for _, f := range p.Files {
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || !fn.Name.IsExported() || called[fn.Name.Name] || uncalled.MatchString(fn.Name.Name) {
				continue
			}
			name := fn.Name.Name
			if fn.Recv != nil {
				recv := strings.TrimPrefix(typeName(fn.Recv.List[0].Type), "*")
				if !ast.IsExported(recv) {
					continue
				}
				name = recv + "." + name
			}
			out = append(out, p.at(fn.Pos(), "no example calls %s", name))
		}
	}
	return out
}

func hasOutput(f *ast.File, fn *ast.FuncDecl) bool {
	for _, c := range f.Comments {
		if c.Pos() > fn.Body.Pos() && c.End() < fn.Body.End() {
			text := strings.ToLower(strings.TrimSpace(c.Text()))
			if strings.HasPrefix(text, "output:") || strings.HasPrefix(text, "unordered output:") {
				return true
			}
		}
	}
	return false
}
