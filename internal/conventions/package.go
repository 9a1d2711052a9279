package conventions

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strings"
)

// Package is the parsed source of one folder.
type Package struct {
	Name  string
	Files []*ast.File // what users import
	Tests []*ast.File
	set   *token.FileSet
}

// Load parses the Go files of a folder.
func Load(dir string) (*Package, error) {
	p := &Package{set: token.NewFileSet()}
	paths, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return nil, err
	}
	for _, path := range paths {
		src, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		if err := p.add(path, src); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func (p *Package) add(path string, src []byte) error {
	f, err := parser.ParseFile(p.set, path, src, parser.ParseComments)
	if err != nil {
		return err
	}
	if strings.HasSuffix(path, "_test.go") {
		p.Tests = append(p.Tests, f)
		return nil
	}
	p.Name = f.Name.Name
	p.Files = append(p.Files, f)
	return nil
}

func (p *Package) at(pos token.Pos, format string, args ...any) Problem {
	where := p.set.Position(pos)
	return Problem{where.Filename, where.Line, fmt.Sprintf(format, args...)}
}

// Functions are the names of all functions in the tests of the package.
func (p *Package) Functions() map[string]bool {
	out := map[string]bool{}
	for _, f := range p.Tests {
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok {
				out[fn.Name.Name] = true
			}
		}
	}
	return out
}
