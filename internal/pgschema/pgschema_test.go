package pgschema

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestParseName(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]Name{
		`a`:                       {"", "a"},
		`Sales.Daily`:             {"Sales", "Daily"},
		`"a.b"."c ""d"""`:         {"a.b", `c "d"`},
		`"x".y`:                   {"x", "y"},
		strings.Repeat("ü", 31):   {"", strings.Repeat("ü", 31)},
		`Weird-Table; --.%s`:      {"Weird-Table; --", "%s"},
		`"` + `""` + `"."` + `x"`: {`"`, "x"},
	} {
		if got, err := ParseName(in); err != nil || got != want {
			t.Errorf("ParseName(%s) = %+v, %v, want %+v", in, got, err, want)
		}
		if got, err := ParseName(want.String()); err != nil || got != want {
			t.Errorf("ParseName(%s) = %+v, %v, want %+v", want, got, err, want)
		}
	}
	for _, in := range []string{"", ".", "a.", ".a", "a.b.c", `"a`, `a"b`, `"a"b`, `""`, "a\x00", "\xff", strings.Repeat("x", 64)} {
		if got, err := ParseName(in); err == nil || !strings.HasPrefix(err.Error(), "must ") {
			t.Errorf("ParseName(%q) = %+v, %v, want an error that begins with must", in, got, err)
		}
	}
}

func TestDerivedNamesStayTwo(t *testing.T) {
	t.Parallel()
	a, b := Derived(strings.Repeat("ü", 30)+"a", "_staging_a"), Derived(strings.Repeat("ü", 30)+"b", "_staging_a")
	if a == b || len(a) > MaxName || len(b) > MaxName || !strings.HasSuffix(a, "_staging_a") {
		t.Errorf("derived names are %q and %q, want two of at most %d bytes", a, b, MaxName)
	}
}

// A suffix may be as long as a name.
func TestDerivedNamesOfALongSuffix(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, name := range []string{"a", "b", strings.Repeat("ü", 31)} {
		for n := 50; n <= 63; n++ {
			for _, last := range []string{"x", "y"} {
				d := Derived(name, "_"+strings.Repeat("m", n-1)+last)
				if seen[d] || len(d) > MaxName || !utf8.ValidString(d) {
					t.Errorf("a suffix of %d bytes gives %q: want a name of its own of at most %d bytes", n+1, d, MaxName)
				}
				seen[d] = true
			}
		}
	}
}

func TestFixes(t *testing.T) {
	t.Parallel()
	got := Fixes([]Lack{{"SELECT", `TABLE "a"`, "r"}, {"USAGE", `SCHEMA "s"`, "r"}, {"INSERT", `TABLE "a"`, "r"}, {"INSERT", `TABLE "a"`, "r"}})
	if want := `GRANT SELECT, INSERT ON TABLE "a" TO "r"; GRANT USAGE ON SCHEMA "s" TO "r";`; got != want {
		t.Errorf("Fixes is\n%s, want\n%s", got, want)
	}
}
