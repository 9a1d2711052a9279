package console

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// count writes a number for people: 1.2 M. The exact one is its title.
func count(n int64) string {
	sign := ""
	if n < 0 {
		sign, n = "−", -n
	}
	for _, u := range []struct {
		size int64
		name string
	}{{1e12, "T"}, {1e9, "G"}, {1e6, "M"}, {1e4, "k"}} {
		if n >= u.size {
			unit := u.size
			if unit == 1e4 {
				unit = 1e3
			}
			text := strconv.FormatFloat(float64(n)/float64(unit), 'f', 1, 64)
			return sign + strings.TrimSuffix(text, ".0") + " " + u.name
		}
	}
	return sign + exact(n)
}

// exact writes a number with its digits in groups.
func exact(n int64) string {
	digits := strconv.FormatInt(n, 10)
	sign := ""
	if strings.HasPrefix(digits, "-") {
		sign, digits = "−", digits[1:]
	}
	var b strings.Builder
	for i, d := range digits {
		if i > 0 && (len(digits)-i)%3 == 0 {
			b.WriteByte(',')
		}
		b.WriteRune(d)
	}
	return sign + b.String()
}

// counted writes a number of things. several is their name in the plural.
func counted(n int64, several string) string {
	if n != 1 {
		return exact(n) + " " + several
	}
	if several == "batches" {
		return "1 batch"
	}
	if one, ok := strings.CutSuffix(several, "ies"); ok {
		return "1 " + one + "y"
	}
	return "1 " + strings.TrimSuffix(several, "s")
}

// was is the verb for a number of things.
func was(n int64) string {
	if n == 1 {
		return "was"
	}
	return "were"
}

// duration writes a duration for people.
func duration(d time.Duration) string {
	switch {
	case d < 0:
		return "−" + duration(-d)
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < 10*time.Second:
		return strings.TrimSuffix(strconv.FormatFloat(d.Seconds(), 'f', 1, 64), ".0") + " s"
	case d < 2*time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	}
	return fmt.Sprintf("%d d", int(d.Hours()/24))
}

// size writes a number of bytes for people.
func size(n int64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	value, unit := float64(n), 0
	for value >= 1024 && unit < 5 {
		value, unit = value/1024, unit+1
	}
	return strconv.FormatFloat(value, 'f', 1, 64) + " " + []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}[unit]
}

// since writes how long ago a time was, or how far it is ahead.
func since(t, now time.Time) string {
	switch d := now.Sub(t); {
	case t.IsZero():
		return "never"
	case d < 0:
		return "in " + duration(-d)
	case d < time.Second:
		return "now"
	default:
		return duration(d) + " ago"
	}
}

// stamp writes a time exactly.
func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04:05.000 UTC")
}

func oneLine(text string) string { return visible(strings.Join(strings.Fields(text), " ")) }

// visible writes control characters, and what else does not print, as escapes. Line ends and tabs
// stay.
func visible(text string) string {
	var b strings.Builder
	for i := 0; i < len(text); {
		r, n := utf8.DecodeRuneInString(text[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, text[i])
		case r == '\n', r == '\t', strconv.IsPrint(r):
			b.WriteRune(r)
		default:
			quoted := strconv.QuoteRuneToASCII(r)
			b.WriteString(quoted[1 : len(quoted)-1])
		}
		i += n
	}
	return b.String()
}

// Payload is a payload as it is shown.
type Payload struct {
	// Text is the payload: indented where it is JSON, with escapes for what does not print. It is
	// empty where payloads are hidden.
	Text string `json:"text,omitempty"`
	// Bytes is the length of the whole payload. Cut reports that Text is only its beginning.
	Bytes int64 `json:"bytes"`
	Cut   bool  `json:"cut,omitempty"`
	// Hidden reports that the console was asked not to show payloads.
	Hidden bool `json:"hidden,omitempty"`
}

// payload prepares the beginning of a payload of a given length to be shown.
func (h *Handler) payload(begin []byte, length int64) Payload {
	p := Payload{Bytes: length, Cut: int64(len(begin)) < length, Hidden: h.cfg.HidePayloads}
	switch {
	case p.Hidden:
	case !p.Cut && json.Valid(begin):
		var b bytes.Buffer
		_ = json.Indent(&b, begin, "", "  ") // it is valid
		p.Text = visible(b.String())
	default:
		p.Text = visible(string(begin))
	}
	return p
}

// Line is the payload on one line, for a table.
func (p Payload) Line() string {
	const most = 160
	if p.Hidden {
		return "hidden, " + size(p.Bytes)
	}
	text := strings.Join(strings.Fields(p.Text), " ")
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	} else if p.Cut {
		text += "…"
	}
	return text
}
