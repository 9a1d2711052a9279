// Command headrace runs and operates pipelines from one command line. The first verbs run the
// orders domain of the examples: init-cache, generate, process, promote, benchmark. The others work
// on any pipeline, by the names of its queue and its table: stats, peek, dead, rejects, pause,
// resume, audit and more. Verbs that only read run no DDL. Verbs that destroy ask first.
//
// Each verb is a file. Look at package examples/orders for the wiring of the pipeline, and at
// examples/internal/ops for what is read without knowing the row type.
//
//	export REDIS_URL=redis://localhost:6379 DATABASE_URL=postgres://localhost/shop
//	go run ./examples/headrace stats
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"strings"
	"time"

	"github.com/alecthomas/kong"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/rueidis"

	"github.com/headrace/headrace/examples/internal/ops"
	"github.com/headrace/headrace/examples/internal/program"
	"github.com/headrace/headrace/examples/orders"
	"github.com/headrace/headrace/queue"
)

// commands are the verbs.
type commands struct {
	Queue       string `default:"orders" env:"HEADRACE_QUEUE" help:"Name of the queue."`
	Table       string `default:"orders" env:"HEADRACE_TABLE" help:"Name of the table."`
	Views       string `default:"orders" env:"HEADRACE_VIEWS" help:"Name of the set of views."`
	RedisURL    string `name:"redis" placeholder:"URL" help:"The Redis server ($REDIS_URL)."`
	PostgresURL string `name:"postgres" placeholder:"URL" help:"The database ($DATABASE_URL or $PGHOST …)."`
	JSON        bool   `name:"json" env:"HEADRACE_JSON" help:"Print JSON."`

	InitCache initCache `cmd:"" name:"init-cache" group:"orders" help:"Load the reference data into Redis."`
	Generate  generate  `cmd:"" group:"orders" help:"Push generated orders, or those of a file."`
	Process   process   `cmd:"" group:"orders" help:"Run a worker."`
	Promote   promote   `cmd:"" group:"orders" help:"Move staged orders into the table."`
	Benchmark benchmark `cmd:"" group:"orders" help:"Compare each step with the bare tools."`

	Stats   stats   `cmd:"" group:"any" help:"Show the books, the depths and the ages."`
	Peek    peek    `cmd:"" group:"any" help:"Show records without taking them."`
	Dead    dead    `cmd:"" group:"any" help:"List, requeue or discard dead letters."`
	Rejects rejects `cmd:"" group:"any" help:"List, replay or resolve rejects."`
	Pause   pause   `cmd:"" group:"any" help:"Stop all workers from leasing."`
	Resume  resume  `cmd:"" group:"any" help:"Let the workers lease again."`
	Audit   audit   `cmd:"" group:"any" help:"Recount the queue and compare the books."`
	Prune   prune   `cmd:"" group:"any" help:"Delete old ledger rows and resolved rejects."`
	Refresh views   `cmd:"" name:"views" group:"any" help:"List or refresh the views."`
	Schema  schema  `cmd:"" group:"any" help:"Print or check the schema in Postgres."`
	Lookups lookups `cmd:"" group:"any" help:"List or refresh the lookup tables."`
	Grants  grants  `cmd:"" group:"any" help:"Print the privileges that a program needs."`
	Find    find    `cmd:"" group:"any" help:"Find out where a record is."`
	Doctor  doctor  `cmd:"" group:"any" help:"Check the servers and their settings."`
	Clear   clear   `cmd:"" group:"any" help:"Delete the queue, the cache or the window."`

	Console serveConsole `cmd:"" group:"any" help:"Serve a web page that shows where every record is."`
}

// description is the help text of the root: all verbs on one screen.
const description = `Usage: headrace VERB [flags]          (headrace VERB -h: its flags, an example)

The orders domain:
  init-cache  load the reference data     generate   push orders, or a file
  process     run a worker                promote    promote staged orders
  benchmark   compare with bare tools
Any pipeline, read only:
  stats       books, depths and ages      audit      recount, compare the books
  peek        show records in place       find       where a record is
  doctor      check servers, settings     console    serve a web page
  schema      print, check                grants     print privileges
Any pipeline:
  dead        list, requeue, discard      rejects    list, replay, resolve
  pause       stop leasing                resume     lease again
  views       list, refresh               lookups    list, refresh
  prune       delete old ledger rows      clear      delete what is in Redis
Flags:
  --queue, --table, --views NAME   the pipeline (orders; $HEADRACE_QUEUE …)
  --redis URL, --postgres URL      the stores ($REDIS_URL, $DATABASE_URL, PG*)
  --json                           print JSON
Example:
  headrace generate --orders 9000; headrace process --empty; headrace promote
`

func main() { program.Main("headrace", run) }

// helpShown is the panic with which kong ends after it has printed a help text.
type helpShown struct{}

func run(ctx context.Context, p *program.Program, args []string) (err error) {
	defer func() {
		if r := recover(); r == (helpShown{}) {
			err = flag.ErrHelp
		} else if r != nil {
			panic(r)
		}
	}()
	var c commands
	if err := unsetEmpty(); err != nil {
		return err
	}
	parser, err := kong.New(&c, kong.Name(p.Name), kong.Help(help), kong.TypeMapper(reflect.TypeFor[time.Duration](), kong.MapperFunc(durationFlag)),
		kong.Writers(p.Out, p.Err), kong.Exit(func(int) { panic(helpShown{}) }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: program.DefaultWidth, NoExpandSubcommands: true}),
		kong.ExplicitGroups([]kong.Group{{Key: "orders", Title: "The orders domain:"}, {Key: "any", Title: "Any pipeline:"}}),
	)
	if err != nil {
		return err
	}
	verb, err := parser.Parse(longFlags(args))
	if err != nil {
		return &program.UsageError{Text: oneLine(err.Error()) + " (-h shows the help)"}
	}
	p.RedisURL = cmp.Or(c.RedisURL, os.Getenv(program.EnvPrefix+"REDIS"))
	p.PostgresURL = cmp.Or(c.PostgresURL, os.Getenv(program.EnvPrefix+"POSTGRES"))
	s := &session{Program: p, commands: &c}
	defer s.close()
	verb.BindTo(ctx, (*context.Context)(nil))
	return verb.Run(s)
}

// help prints the help text of a verb, or that of the root.
func help(options kong.HelpOptions, ctx *kong.Context) error {
	if ctx.Selected() == nil && ctx.Command() == "" {
		_, err := fmt.Fprint(ctx.Stdout, description)
		return err
	}
	return kong.DefaultHelpPrinter(options, ctx)
}

// durationFlag parses a duration as the flags of the other programs do: 5s, 1m or 5.
func durationFlag(flag *kong.DecodeContext, target reflect.Value) error {
	var text string
	if err := flag.Scan.PopValueInto("duration", &text); err != nil {
		return err
	}
	d, err := program.ParseDuration(text)
	if err != nil {
		return fmt.Errorf("%q must be a duration such as 5s or 5 (seconds)", text)
	}
	target.SetInt(int64(d))
	return nil
}

// unsetEmpty removes the variables of flags that are empty, which kong would take for values: an
// env file has NAME= for a flag that is not set.
func unsetEmpty() error {
	for _, variable := range os.Environ() {
		if name, value, _ := strings.Cut(variable, "="); value == "" && strings.HasPrefix(name, program.EnvPrefix) {
			if err := os.Unsetenv(name); err != nil {
				return err
			}
		}
	}
	return nil
}

func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

var longFlag = regexp.MustCompile(`^-[a-z][a-z-]+(=|$)`)

// longFlags lets a flag be written with one dash, as in the other programs: -watch is --watch.
func longFlags(args []string) []string {
	out := make([]string, len(args))
	for i, a := range args {
		if a == "--" {
			copy(out[i:], args[i:])
			break
		}
		if longFlag.MatchString(a) {
			a = "-" + a
		}
		out[i] = a
	}
	return out
}

// session is one run of a verb. It connects to the stores that the verb asks for.
type session struct {
	*program.Program
	*commands
	done   []func()
	client rueidis.Client // nil before the first call of redis
	pool   *pgxpool.Pool  // nil before the first call of postgres
}

func (s *session) close() {
	for i := len(s.done) - 1; i >= 0; i-- {
		s.done[i]()
	}
}

func (s *session) redis(ctx context.Context) (rueidis.Client, error) {
	if s.client != nil {
		return s.client, nil
	}
	c, err := s.Redis(ctx)
	if err == nil {
		s.client, s.done = c, append(s.done, c.Close)
	}
	return c, err
}

func (s *session) postgres(ctx context.Context) (*pgxpool.Pool, error) {
	if s.pool != nil {
		return s.pool, nil
	}
	pool, err := s.Postgres(ctx)
	if err == nil {
		s.pool, s.done = pool, append(s.done, pool.Close)
	}
	return pool, err
}

// queue opens the queue. It creates nothing.
func (s *session) queue(ctx context.Context) (*queue.Queue, error) {
	c, err := s.redis(ctx)
	if err != nil {
		return nil, err
	}
	return queue.New(ctx, c, s.Queue, queue.Config{Eviction: queue.EvictionIgnore})
}

// pipeline opens both sides to read. It creates nothing.
func (s *session) pipeline(ctx context.Context) (*ops.Pipeline, error) {
	c, err := s.redis(ctx)
	if err != nil {
		return nil, err
	}
	pool, err := s.postgres(ctx)
	if err != nil {
		return nil, err
	}
	return ops.Open(ctx, c, pool, s.names())
}

// ledger opens the companion tables of the table. It creates nothing.
func (s *session) ledger(ctx context.Context) (*ops.Ledger, error) {
	pool, err := s.postgres(ctx)
	if err != nil {
		return nil, err
	}
	return ops.OpenLedger(ctx, pool, s.Table)
}

func (s *session) names() ops.Names {
	return ops.Names{Queue: s.Queue, Table: s.Table, Views: s.Views}
}

// errNotOrders is for verbs that need the row type of the table.
var errNotOrders = errors.New("this verb works only for the orders domain: --queue, --table and --views must be orders")

// app opens the orders pipeline and creates what is missing.
func (s *session) app(ctx context.Context) (*orders.App, error) {
	if s.names() != orders.Names {
		return nil, errNotOrders
	}
	app, done, err := orders.Connect(ctx, s.Program, orders.Options{})
	if err == nil {
		s.done = append(s.done, done)
	}
	return app, err
}

// print prints v as JSON, or else text.
func (s *session) print(v any, text string) error {
	if !s.JSON {
		_, err := fmt.Fprint(s.Out, text)
		return err
	}
	enc := json.NewEncoder(s.Out)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// listing prints a list that may be long, each element as soon as it is known. With --json it is
// the object that print would print.
type listing struct {
	s *session
	n int // elements so far
}

// list begins a list of a name.
func (s *session) list(name string) (*listing, error) {
	if s.JSON {
		if _, err := fmt.Fprintf(s.Out, "{\n  %q: [", name); err != nil {
			return nil, err
		}
	}
	return &listing{s: s}, nil
}

// add prints an element as JSON, or else as a line that is cut to the terminal.
func (l *listing) add(v func() any, line func() string) error {
	l.n++
	if !l.s.JSON {
		_, err := fmt.Fprintln(l.s.Out, l.s.fit(line()))
		return err
	}
	b, err := json.MarshalIndent(v(), "    ", "  ")
	if err != nil {
		return err
	}
	comma := ","
	if l.n == 1 {
		comma = ""
	}
	_, err = fmt.Fprintf(l.s.Out, "%s\n    %s", comma, b)
	return err
}

// end prints the end. With --json further is the other member of the object, if it has a name.
func (l *listing) end(further, value, text string) error {
	if !l.s.JSON {
		_, err := fmt.Fprint(l.s.Out, text)
		return err
	}
	end := "]"
	if l.n > 0 {
		end = "\n  ]"
	}
	if further != "" {
		end += fmt.Sprintf(",\n  %q: %q", further, value)
	}
	_, err := fmt.Fprint(l.s.Out, end+"\n}\n")
	return err
}

// confirm asks for a destructive step unless yes is set.
func (s *session) confirm(yes bool, what string) error {
	if yes {
		return nil
	}
	question := what + ". "
	if width, terminal := program.Width(s.Err); terminal {
		question = program.Wrap("", what+".", width) + "\n"
	}
	fmt.Fprint(s.Err, question+"Type yes to go on: ")
	var answer string
	if _, err := fmt.Fscanln(stdin, &answer); err != nil || answer != "yes" {
		return errors.New("nothing was changed; --yes skips the question")
	}
	return nil
}
