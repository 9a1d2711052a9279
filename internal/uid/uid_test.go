package uid

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func TestNewIsAVersion7UUIDOfNow(t *testing.T) {
	t.Parallel()
	before := time.Now().Truncate(time.Millisecond)
	id := New()
	after := time.Now()
	if len(id) != Len || id[14] != '7' || !strings.ContainsRune("89ab", rune(id[19])) {
		t.Fatalf("%q is no UUID of version 7", id)
	}
	at, err := Time(id)
	if err != nil {
		t.Fatal(err)
	}
	if at.Before(before) || at.After(after) {
		t.Errorf("made between %v and %v, its time is %v", before, after, at)
	}
}

func TestTimeOfAFixedID(t *testing.T) {
	t.Parallel()
	// The example of RFC 9562, appendix A.6.
	got, err := Time("017f22e2-79b0-7cc3-98c4-dc0c0c07398f")
	if err != nil {
		t.Fatal(err)
	}
	if want := time.UnixMilli(0x017F22E279B0); !got.Equal(want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestIDsDoNotRepeat(t *testing.T) {
	t.Parallel()
	now := time.Now()
	seen := make(map[[16]byte]bool)
	for range 100_000 {
		id := at(now) // all of one millisecond: only the random part tells them apart
		if seen[id] {
			t.Fatalf("%s came twice", format(id))
		}
		seen[id] = true
	}
}

func TestTag(t *testing.T) {
	t.Parallel()
	seen := make(map[string]bool)
	for _, tag := range []uint16{0, 1, 255, 256, 8191, MaxTag} {
		for range 1000 {
			id := NewTagged(tag)
			if got, err := Tag(id); err != nil || got != tag || !Valid(id) || seen[id] {
				t.Fatalf("%s: tag %d, %v, came before: %v; want a new id with tag %d", id, got, err, seen[id], tag)
			}
			seen[id] = true
		}
	}
	if _, err := Tag("none"); !errors.Is(err, ErrInvalid) {
		t.Errorf("the tag of no id: %v, want ErrInvalid", err)
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	good := "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"
	if !Valid(good) {
		t.Fatalf("%s refused", good)
	}
	for what, id := range map[string]string{
		"empty":         "",
		"too short":     good[1:],
		"too long":      good + "0",
		"upper case":    strings.ToUpper(good),
		"no hyphen":     "017f22e2079b0-7cc3-98c4-dc0c0c07398f",
		"not hex":       "017f22e2-79b0-7cc3-98c4-dc0c0c07398g",
		"version 4":     "017f22e2-79b0-4cc3-98c4-dc0c0c07398f",
		"variant":       "017f22e2-79b0-7cc3-18c4-dc0c0c07398f",
		"braces":        "{17f22e2-79b0-7cc3-98c4-dc0c0c07398}",
		"hyphen inside": "0-7f22e2-79b0-7cc3-98c4-dc0c0c07398f",
	} {
		if Valid(id) {
			t.Errorf("%s: %q accepted", what, id)
		}
		if _, err := Time(id); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: Time(%q) = %v, want ErrInvalid", what, id, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(New())
	f.Add("")
	f.Fuzz(func(t *testing.T, id string) {
		if Valid(id) && (len(id) != Len || strings.ToLower(id) != id) {
			t.Errorf("accepted %q", id)
		}
	})
}

func BenchmarkNew(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		New()
	}
}
