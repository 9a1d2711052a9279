package conventions

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

var (
	link     = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading  = regexp.MustCompile(`(?m)^#+ +(.+)$`)
	fenced   = regexp.MustCompile("(?ms)^```.*?^```")
	notAWord = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
	testName = regexp.MustCompile("`([a-z/]+)/(Test\\w+)(/[^`]*)?`")
)

// Links finds links of a Markdown file to files or headings of the repository that do not exist,
// and names of tests, written as `package/TestName`, that are in no test of that package.
func Links(root, file string) ([]Problem, error) {
	src, err := os.ReadFile(filepath.Join(root, file))
	if err != nil {
		return nil, err
	}
	text := fenced.ReplaceAllStringFunc(string(src), func(block string) string { return strings.Repeat("\n", strings.Count(block, "\n")) })
	var out []Problem
	for i, line := range strings.Split(text, "\n") {
		for _, m := range link.FindAllStringSubmatch(line, -1) {
			target, anchor, _ := strings.Cut(m[1], "#")
			if strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
				continue
			}
			path := filepath.Join(root, filepath.Dir(file), target)
			if target == "" {
				path = filepath.Join(root, file)
			}
			if _, err := os.Stat(path); err != nil {
				out = append(out, Problem{file, i + 1, fmt.Sprintf("%s does not exist", m[1])})
				continue
			}
			if anchor != "" && !anchors(path)[anchor] {
				out = append(out, Problem{file, i + 1, fmt.Sprintf("%s: there is no such heading", m[1])})
			}
		}
		for _, m := range testName.FindAllStringSubmatch(line, -1) {
			p, err := Load(filepath.Join(root, m[1]))
			if err != nil {
				return nil, err
			}
			if !p.Functions()[m[2]] {
				out = append(out, Problem{file, i + 1, fmt.Sprintf("package %s has no test %s", m[1], m[2])})
			}
		}
	}
	return out, nil
}

// anchors are the headings of a Markdown file as links name them.
func anchors(path string) map[string]bool {
	out := map[string]bool{}
	src, err := os.ReadFile(path)
	if err != nil {
		return out
	}
	for _, m := range heading.FindAllStringSubmatch(fenced.ReplaceAllString(string(src), ""), -1) {
		out[strings.ReplaceAll(notAWord.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-")] = true
	}
	return out
}
