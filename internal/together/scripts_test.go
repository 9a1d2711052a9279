package together_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// heads are the files that the scripts of a package begin with.
var heads = map[string][]string{
	"queue":        {"common.lua"},
	"dedup":        {"tables.lua"},
	"lookup":       {},
	"window":       {"common.lua", "sets.lua", "windows.lua", "cursor.lua"},
	"backpressure": {"common.lua", "write.lua"},
}

// writes are the commands of scripts that change something.
var writes = []string{
	"BITFIELD", "DEL", "HDEL", "HINCRBY", "HSET", "LMOVE", "LPUSH", "LTRIM", "PERSIST", "PEXPIRE", "RENAME", "RPOP", "SET", "SETRANGE", "SORT", "UNLINK",
	"ZADD", "ZREM", "ZREMRANGEBYRANK", "ZUNIONSTORE",
}

// alone are writes of scripts that leave nothing half done: a run of the first three makes one of
// them only, and the clock of a window of ids depends on nothing else.
var alone = map[string][]string{
	"lookup/lock.lua": {"DEL", "PEXPIRE", "SET"}, "window/discard.lua": {"ZREM"}, "dedup/state.lua": {"DEL", "SET"}, "dedup/find.lua": {"DEL", "SET"},
}

var (
	luaComment  = regexp.MustCompile(`--.*`)
	luaFunction = regexp.MustCompile(`^local function (\w+)\(`)
	luaCall     = regexp.MustCompile(`\b(?:p?call|callOr|read|run|bitfield)\((?:[\w{}]+, )?'([A-Z_]+)'`)
	luaNeeds    = regexp.MustCompile(`\bneeds(?:Key)?\(([^()]*)\)`)
	luaWord     = regexp.MustCompile(`\b\w+\b`)
	luaName     = regexp.MustCompile(`'([A-Z_]+)[ A-Z]*'`)
)

// A script has no rollback, so it asks for the right to each command that changes something before
// the first one. TestMissingRights runs them without one right at a time; this test reads their
// text, so it misses no branch.
func TestScriptsAskForTheirRights(t *testing.T) {
	t.Parallel()
	scripts, used := 0, map[string]bool{}
	for dir, head := range heads {
		files, err := filepath.Glob("../../" + dir + "/*.lua")
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: got %d scripts, %v, want some", dir, len(files), err)
		}
		for _, file := range files {
			if slices.Contains(head, filepath.Base(file)) {
				continue
			}
			scripts++
			body, functions := readLua(t, file), map[string]string{}
			for _, name := range head {
				own := readLua(t, filepath.Join(filepath.Dir(file), name))
				if name == "write.lua" && !strings.Contains(body, "finish()") || strings.HasSuffix(file, "dedup/mend.lua") {
					continue // this one begins without it
				}
				body = takeFunctions(own, functions) + body
			}
			body = takeFunctions(body, functions)
			for reached := map[string]bool{}; ; {
				before := len(reached)
				for _, word := range luaWord.FindAllString(body, -1) {
					if text, ok := functions[word]; ok && !reached[word] {
						reached[word] = true
						body += text
					}
				}
				if len(reached) == before {
					break
				}
			}
			var asked []string
			for _, m := range luaNeeds.FindAllStringSubmatch(body, -1) {
				for _, name := range luaName.FindAllStringSubmatch(m[1], -1) {
					asked = append(asked, name[1])
				}
			}
			script := dir + "/" + filepath.Base(file)
			for _, m := range luaCall.FindAllStringSubmatch(body, -1) {
				used[m[1]] = true
				if slices.Contains(writes, m[1]) && !slices.Contains(asked, m[1]) && !slices.Contains(alone[script], m[1]) {
					t.Errorf("%s runs %s and does not ask for the right to it", script, m[1])
				}
			}
		}
	}
	if scripts < 40 {
		t.Errorf("read %d scripts, want 40 or more", scripts)
	}
	for _, command := range writes {
		if !used[command] {
			t.Errorf("no script runs %s: the test reads them wrongly", command)
		}
	}
	for command := range used {
		taken := func(c string) bool { return strings.HasPrefix(c+"|", strings.ToLower(command)+"|") }
		if !slices.ContainsFunc(commands, taken) && !slices.ContainsFunc(unrefused, taken) {
			t.Errorf("TestMissingRights does not take away the right to %s", command)
		}
	}
}

func readLua(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return luaComment.ReplaceAllString(string(text), "") + "\n"
}

// takeFunctions moves the functions of a text to a map, and returns the rest. The last line of a
// function is "end", unless it has one line only.
func takeFunctions(text string, functions map[string]string) (rest string) {
	name := ""
	for line := range strings.Lines(text) {
		trimmed := strings.TrimRight(line, " \n")
		if m := luaFunction.FindStringSubmatch(line); m != nil {
			name = m[1]
			functions[name] = ""
			line, _ = strings.CutPrefix(line, m[0])
			if strings.HasSuffix(trimmed, " end") {
				functions[name], name = line, ""
				continue
			}
		}
		if name == "" {
			rest += line
			continue
		}
		functions[name] += line
		if trimmed == "end" {
			name = ""
		}
	}
	return rest
}
