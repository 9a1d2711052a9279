package staging_test

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/jackc/pgx/v5/pgxpool"
)

// exampleTB lets an example have a throwaway server. A service passes the pool that it has already.
type exampleTB struct {
	testing.TB
	cleanups []func()
}

func (e *exampleTB) Cleanup(f func())          { e.cleanups = append(e.cleanups, f) }
func (e *exampleTB) Helper()                   {}
func (e *exampleTB) Name() string              { return "Example" }
func (e *exampleTB) Context() context.Context  { return context.Background() }
func (e *exampleTB) Log(args ...any)           { fmt.Fprintln(os.Stderr, args...) }
func (e *exampleTB) Logf(f string, a ...any)   { fmt.Fprintf(os.Stderr, f+"\n", a...) }
func (e *exampleTB) Fatal(args ...any)         { panic(fmt.Sprint(args...)) }
func (e *exampleTB) Fatalf(f string, a ...any) { panic(fmt.Sprintf(f, a...)) }
func (e *exampleTB) Error(args ...any)         { panic(fmt.Sprint(args...)) }
func (e *exampleTB) Errorf(f string, a ...any) { panic(fmt.Sprintf(f, a...)) }

func examplePool(tables ...string) (*pgxpool.Pool, func()) {
	e := &exampleTB{}
	pool := servertest.Postgres(e)
	for _, sql := range tables {
		if _, err := pool.Exec(context.Background(), sql); err != nil {
			panic(err)
		}
	}
	return pool, func() {
		for i := len(e.cleanups) - 1; i >= 0; i-- {
			e.cleanups[i]()
		}
	}
}
