package servertest

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
)

// Example lets a runnable Example, which has no testing.TB, use the servers of this package: pass
// tb where a test would pass t, and call cleanup at the end. A failure panics, which fails the
// Example.
func Example(name string) (tb testing.TB, cleanup func()) {
	e := &exampleTB{name: name}
	return e, func() {
		for i := len(e.cleanups) - 1; i >= 0; i-- {
			e.cleanups[i]()
		}
	}
}

type exampleTB struct {
	testing.TB // nil: only what is overridden here may be used
	name       string
	cleanups   []func()
}

func (e *exampleTB) Cleanup(f func())          { e.cleanups = append(e.cleanups, f) }
func (e *exampleTB) Helper()                   {}
func (e *exampleTB) Name() string              { return e.name }
func (e *exampleTB) Context() context.Context  { return context.Background() }
func (e *exampleTB) Failed() bool              { return false }
func (e *exampleTB) Log(args ...any)           { fmt.Fprintln(os.Stderr, args...) }
func (e *exampleTB) Logf(f string, a ...any)   { fmt.Fprintf(os.Stderr, f+"\n", a...) }
func (e *exampleTB) Fatal(args ...any)         { panic(fmt.Sprint(args...)) }
func (e *exampleTB) Fatalf(f string, a ...any) { panic(fmt.Sprintf(f, a...)) }
func (e *exampleTB) Error(args ...any)         { panic(fmt.Sprint(args...)) }
func (e *exampleTB) Errorf(f string, a ...any) { panic(fmt.Sprintf(f, a...)) }

// ExamplePool is a pool on a database of its own, with tables in it, for an Example.
func ExamplePool(tables ...string) (pool *pgxpool.Pool, cleanup func()) {
	tb, cleanup := Example("example")
	pool = Postgres(tb)
	for _, sql := range tables {
		if _, err := pool.Exec(context.Background(), sql); err != nil {
			panic(err)
		}
	}
	return pool, cleanup
}
