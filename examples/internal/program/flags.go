package program

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"
	"time"
)

// Flags are the flags of a program. Every flag with a number has a range.
type Flags struct {
	set  *flag.FlagSet
	help string
	rows [][2]string // of the help text: name and meaning
}

// NewFlags returns an empty set. help is what -h prints above the flags: what the program does and
// an example.
func NewFlags(name, help string) *Flags {
	f := &Flags{set: flag.NewFlagSet(name, flag.ContinueOnError), help: help}
	f.set.SetOutput(io.Discard)
	return f
}

// Int defines a flag with a whole number from lo to hi.
func (f *Flags) Int(p *int, name string, value, lo, hi int, usage string) {
	*p = value
	f.add(name, "N", fmt.Sprintf("%s, %d to %d (default %d)", usage, lo, hi, value), &checked{
		text: func() string { return strconv.Itoa(*p) },
		set: func(s string) error {
			n, err := strconv.Atoi(s)
			if err != nil || n < lo || n > hi {
				return fmt.Errorf("must be a whole number from %d to %d", lo, hi)
			}
			*p = n
			return nil
		},
	})
}

// Uint64 defines a flag with any whole number that is not negative.
func (f *Flags) Uint64(p *uint64, name string, usage string) {
	f.add(name, "N", usage, &checked{
		text: func() string { return strconv.FormatUint(*p, 10) },
		set: func(s string) error {
			n, err := strconv.ParseUint(s, 10, 64)
			if err != nil {
				return errors.New("must be a whole number from 0 to 18446744073709551615")
			}
			*p = n
			return nil
		},
	})
}

// Share defines a flag with a fraction from 0 to hi.
func (f *Flags) Share(p *float64, name string, value, hi float64, usage string) {
	*p = value
	f.add(name, "X", fmt.Sprintf("%s, 0 to %v (default %v)", usage, hi, value), &checked{
		text: func() string { return fmt.Sprint(*p) },
		set: func(s string) error {
			x, err := strconv.ParseFloat(s, 64)
			if err != nil || math.IsNaN(x) || x < 0 || x > hi {
				return fmt.Errorf("must be a number from 0 to %v", hi)
			}
			*p = x
			return nil
		},
	})
}

// Duration defines a flag with a duration of at least lo, or 0 if value is 0. A number without a
// unit is seconds.
func (f *Flags) Duration(p *time.Duration, name string, value, lo time.Duration, usage string) {
	*p = value
	limit := fmt.Sprintf("at least %v (default %v)", lo, value)
	if value == 0 {
		limit = fmt.Sprintf("at least %v", lo)
	}
	f.add(name, "T", usage+", "+limit, &checked{
		text: func() string { return p.String() },
		set: func(s string) error {
			d, err := ParseDuration(s)
			if err != nil || d < lo && (d != 0 || value != 0) {
				return fmt.Errorf("must be a duration such as 5s or 5 (seconds), at least %v", lo)
			}
			*p = d
			return nil
		},
	})
}

// ParseDuration parses a duration such as 1m30s. A number without a unit is seconds.
func ParseDuration(s string) (time.Duration, error) {
	if seconds, err := strconv.ParseFloat(s, 64); err == nil && math.Abs(seconds) < 1e9 {
		return time.Duration(seconds * float64(time.Second)), nil
	}
	return time.ParseDuration(s)
}

// Text defines a flag with any text.
func (f *Flags) Text(p *string, name, placeholder, usage string) {
	f.add(name, placeholder, usage, &checked{
		text: func() string { return *p },
		set:  func(s string) error { *p = s; return nil },
	})
}

// Stores defines the flags that name the stores.
func (f *Flags) Stores(p *Program) {
	f.Text(&p.RedisURL, "redis", "URL", "the Redis server (default $"+EnvRedis+")")
	f.Text(&p.PostgresURL, "postgres", "URL", "the Postgres database (default $"+EnvPostgres+", or $PGHOST …)")
}

// Listen defines the flag of the address at which a program is monitored.
func (f *Flags) Listen(p *string) {
	f.Text(p, "listen", "ADDR", "serve /metrics, /livez, /readyz, /debug/pprof, at :9100")
}

// Bool defines a switch.
func (f *Flags) Bool(p *bool, name, usage string) {
	f.set.BoolVar(p, name, false, "")
	f.rows = append(f.rows, [2]string{"-" + name, usage})
}

func (f *Flags) add(name, placeholder, usage string, v flag.Value) {
	f.set.Var(v, name, "")
	f.rows = append(f.rows, [2]string{"-" + name + " " + placeholder, usage})
}

// checked is a flag.Value.
type checked struct {
	text func() string
	set  func(string) error
}

func (c *checked) String() string {
	if c == nil || c.text == nil {
		return "" // package flag asks a zero value
	}
	return c.text()
}

func (c *checked) Set(s string) error { return c.set(s) }

// Parse parses a command line that takes only flags and no arguments. The error is a *UsageError,
// or flag.ErrHelp after -h, when the help text is on p.Out.
func (f *Flags) Parse(p *Program, args []string) error {
	err := f.set.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(p.Out, f.Help())
		return err
	}
	names := make([]string, len(f.rows))
	for i, r := range f.rows {
		names[i], _, _ = strings.Cut(r[0], " ")
	}
	if err != nil {
		// Package flag has no typed error for an unknown flag.
		if unknown, ok := strings.CutPrefix(err.Error(), "flag provided but not defined: "); ok {
			return &UsageError{fmt.Sprintf("unknown flag %s: %s", unknown, suggest(unknown, names))}
		}
		return &UsageError{err.Error() + "; -h lists the flags"}
	}
	if err := f.environment(); err != nil {
		return err
	}
	if f.set.NArg() > 0 {
		return &UsageError{fmt.Sprintf("unexpected argument %q: %s", f.set.Arg(0), suggest("-"+f.set.Arg(0), names))}
	}
	return nil
}

// EnvPrefix begins the environment variables of flags: HEADRACE_WORKERS is -workers.
const EnvPrefix = "HEADRACE_"

// environment sets the flags that the command line did not set and that have a variable.
func (f *Flags) environment() error {
	given := make(map[string]bool)
	f.set.Visit(func(fl *flag.Flag) { given[fl.Name] = true })
	var failed error
	f.set.VisitAll(func(fl *flag.Flag) {
		env := variable(fl.Name)
		value := os.Getenv(env)
		if given[fl.Name] || value == "" || failed != nil {
			return
		}
		if err := f.set.Set(fl.Name, value); err != nil {
			failed = &UsageError{fmt.Sprintf("%s is %q, %s", env, value, err)}
		}
	})
	return failed
}

// variable is the environment variable of a flag.
func variable(name string) string {
	return EnvPrefix + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}

// Help is what -h prints.
func (f *Flags) Help() string {
	var b strings.Builder
	b.WriteString(strings.Trim(f.help, "\n") + "\n")
	width := 0
	for _, r := range f.rows {
		width = max(width, len(r[0]))
	}
	if len(f.rows) > 0 {
		first, _, _ := strings.Cut(f.rows[0][0], " ")
		fmt.Fprintf(&b, "\nFlags, each with a variable, such as %s for %s:\n", variable(first[1:]), first)
	}
	for _, r := range f.rows {
		fmt.Fprintf(&b, "  %-*s  %s\n", width, r[0], r[1])
	}
	return b.String()
}

// suggest names the candidate that is nearest to an unknown word.
func suggest(word string, candidates []string) string {
	nearest, best := "", max(1, len(word)/3)
	for _, c := range candidates {
		if d := distance(word, c); d < best || d == best && nearest == "" {
			nearest, best = c, d
		}
	}
	if nearest == "" {
		return "-h lists the flags"
	}
	return fmt.Sprintf("did you mean %s? -h lists the flags", nearest)
}

// distance is the Levenshtein distance of two words.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal, row[j+1] = row[j+1], min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
