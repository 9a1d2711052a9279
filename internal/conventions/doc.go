// Package conventions checks what the compiler and the linters do not: the words of comments and
// error texts, the shape of names that are the same in all packages, the names that comments and
// documents refer to, log lines, examples, and the links of the documents. Its test applies every
// check to this repository, so `go test ./...` fails where a convention is broken; CONTRIBUTING.md
// states them.
package conventions

import "fmt"

// Problem is one place that breaks a convention.
type Problem struct {
	File string
	Line int // 0: the whole file
	Text string
}

func (p Problem) String() string {
	if p.Line == 0 {
		return p.File + ": " + p.Text
	}
	return fmt.Sprintf("%s:%d: %s", p.File, p.Line, p.Text)
}
