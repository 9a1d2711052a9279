package staging_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/headrace/headrace/staging"
	"github.com/jackc/pgx/v5"
)

// New checks the target. It returns an error that names the column that differs.
func ExampleNew() {
	ctx := context.Background()
	pool, drop := exampleDatabase(`CREATE TABLE payments (id text PRIMARY KEY, amount double precision)`)
	defer drop()

	type payment struct {
		ID     string `db:"id"`
		Amount string `db:"amount" dbtype:"numeric(12,2)"`
	}
	_, err := staging.New(ctx, pool, "payments", staging.Config[payment]{Key: []string{"id"}})
	var drift *staging.DriftError
	if errors.As(err, &drift) {
		for _, d := range drift.Drifts {
			fmt.Println(d.Column, "expected:", d.Expected, "found:", d.Found)
		}
	}
	fmt.Println(errors.Is(err, staging.ErrDrift))
	// Output:
	// amount expected: numeric(12,2) found: double precision
	// true
}

// An id carries the time at which it was made: a Batch needs no Sealed.
func ExampleNewBatchID() {
	a, b := staging.NewBatchID(), staging.NewBatchID()
	fmt.Println(len(a), a != b)
	// Output:
	// 36 true
}

// Name returns the quoted name of the target, for SQL of your own.
func ExampleTable_Name() {
	ctx := context.Background()
	pool, drop := exampleDatabase(paymentsTable)
	defer drop()

	table, err := staging.New(ctx, pool, "payments", paymentsConfig)
	if err != nil {
		fmt.Println(err)
		return
	}
	var rows int
	err = pool.QueryRow(ctx, "SELECT count(*) FROM "+table.Name()).Scan(&rows)
	fmt.Println(table.Name(), rows, err)
	// Output:
	// "public"."payments" 0 <nil>
}

// A record can make several rows, one, or none. Pos maps each row to its record.
func ExampleTable_Stage() {
	ctx := context.Background()
	pool, drop := exampleDatabase(paymentsTable)
	defer drop()

	table, err := staging.New(ctx, pool, "payments", paymentsConfig)
	if err != nil {
		fmt.Println(err)
		return
	}
	load := staging.Load[payment]{
		Batch:      staging.Batch{ID: staging.NewBatchID(), Records: 4},
		Rows:       []payment{{"p1", "1"}, {"p2", "2"}, {"p3", "3"}},
		Pos:        []int32{0, 0, 2}, // record 0 made two rows
		Duplicates: 1,                // record 1
		Filtered:   1,                // record 3
	}
	outcome, err := table.Stage(ctx, load)
	fmt.Println(outcome, err)

	load.Batch.ID, load.Filtered = staging.NewBatchID(), 0 // one record is unaccounted for
	_, err = table.Stage(ctx, load)
	fmt.Println(errors.Is(err, staging.ErrLoad))
	// Output:
	// staged <nil>
	// true
}

// A batch is staged together with a write of the program's own, or not at all.
func ExampleTable_StageTx() {
	ctx := context.Background()
	pool, drop := exampleDatabase(paymentsTable, `CREATE TABLE files (name text PRIMARY KEY)`)
	defer drop()

	table, err := staging.New(ctx, pool, "payments", paymentsConfig)
	if err != nil {
		fmt.Println(err)
		return
	}
	load := staging.Load[payment]{Batch: staging.Batch{ID: staging.NewBatchID(), Records: 1}, Rows: []payment{{"p1", "1"}}}
	importFile := func(name string) error {
		return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			outcome, err := table.StageTx(ctx, tx, load)
			if err != nil {
				return err
			}
			fmt.Println(outcome)
			_, err = tx.Exec(ctx, "INSERT INTO files VALUES ($1::text)", name)
			return err
		})
	}
	fmt.Println(importFile("no \x00 in a name") != nil) // the INSERT fails, and takes the batch back
	fmt.Println(importFile("monday.csv"))
	fmt.Println(importFile("tuesday.csv")) // the same batch under another name
	// Output:
	// staged
	// true
	// staged
	// <nil>
	// already staged
	// <nil>
}

// Promote until no more is staged: here each transaction takes at most 3 rows, in whole batches.
func ExampleTable_Promote() {
	ctx := context.Background()
	pool, drop := exampleDatabase(paymentsTable)
	defer drop()

	table, err := staging.New(ctx, pool, "payments", paymentsConfig)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, rows := range [][]payment{{{"p1", "1"}, {"p2", "2"}}, {{"p3", "3"}}, {{"p1", "4"}, {"p4", "5"}}} {
		load := staging.Load[payment]{Batch: staging.Batch{ID: staging.NewBatchID(), Records: len(rows)}, Rows: rows}
		if _, err := table.Stage(ctx, load); err != nil {
			fmt.Println(err)
		}
	}
	for more := true; more; {
		p, err := table.Promote(ctx, staging.PromoteOptions{MaxRows: 3, Timeout: time.Minute})
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(len(p.Batches), "batches:", p.Rows, "rows,", p.Conflicts, "conflicts, more:", p.More)
		more = p.More
	}
	// Output:
	// 2 batches: 3 rows, 0 conflicts, more: true
	// 1 batches: 1 rows, 1 conflicts, more: false
}

// After Void no copy of the batch is promoted, neither one that is staged nor one that comes later.
func ExampleTable_Void() {
	ctx := context.Background()
	pool, drop := exampleDatabase(paymentsTable)
	defer drop()

	table, err := staging.New(ctx, pool, "payments", paymentsConfig)
	if err != nil {
		fmt.Println(err)
		return
	}
	load := staging.Load[payment]{Batch: staging.Batch{ID: staging.NewBatchID(), Records: 1}, Rows: []payment{{"p1", "1"}}}
	fmt.Println(table.Stage(ctx, load))
	fmt.Println(table.Void(ctx, load.Batch))
	p, err := table.Promote(ctx, staging.PromoteOptions{})
	if err != nil {
		fmt.Println(err)
	}
	fmt.Println(p.Rows, "rows, the batch is", p.Batches[0].Fate)
	fmt.Println(table.Stage(ctx, load))
	// Output:
	// staged <nil>
	// void <nil>
	// 0 rows, the batch is void
	// already void <nil>
}

// A consumer that restarts asks where its batches are, and delivers again what is unknown.
func ExampleTable_Fates() {
	ctx := context.Background()
	pool, drop := exampleDatabase(paymentsTable)
	defer drop()

	table, err := staging.New(ctx, pool, "payments", paymentsConfig)
	if err != nil {
		fmt.Println(err)
		return
	}
	ids := []string{staging.NewBatchID(), staging.NewBatchID(), staging.NewBatchID()}
	for i, id := range ids[:2] {
		load := staging.Load[payment]{Batch: staging.Batch{ID: id, Records: 1}, Rows: []payment{{fmt.Sprint("p", i), "1"}}}
		if _, err := table.Stage(ctx, load); err != nil {
			fmt.Println(err)
		}
		if i == 0 {
			if _, err := table.Promote(ctx, staging.PromoteOptions{}); err != nil {
				fmt.Println(err)
			}
		}
	}
	fmt.Println(table.Fates(ctx, ids))
	// Output:
	// [promoted staged unknown] <nil>
}

// The epoch changes when a crash has emptied the staging tables, here simulated by TRUNCATE. Then
// Fates returns which batches must be staged again.
func ExampleTable_Epoch() {
	ctx := context.Background()
	pool, drop := exampleDatabase(paymentsTable)
	defer drop()

	table, err := staging.New(ctx, pool, "payments", paymentsConfig)
	if err != nil {
		fmt.Println(err)
		return
	}
	id := staging.NewBatchID()
	if _, err := table.Stage(ctx, staging.Load[payment]{Batch: staging.Batch{ID: id, Records: 1}, Rows: []payment{{"p1", "1"}}}); err != nil {
		fmt.Println(err)
	}
	before, err := table.Epoch(ctx)
	if err != nil {
		fmt.Println(err)
	}
	if _, err := pool.Exec(ctx, `TRUNCATE payments_epoch, payments_registry_a, payments_registry_b, payments_staging_a, payments_staging_b`); err != nil {
		fmt.Println(err)
	}
	after, err := table.Epoch(ctx)
	fmt.Println("changed:", before != after, err)
	fmt.Println(table.Fates(ctx, []string{id}))
	// Output:
	// changed: true <nil>
	// [unknown] <nil>
}

// Fill writes the values of a type without reflection, and of a type that has no tags.
func ExampleRow() {
	ctx := context.Background()
	pool, drop := exampleDatabase()
	defer drop()

	type reading struct {
		Sensor  int64
		Unit    string
		Celsius float64
		Millis  uint64 // an exact number, in thousandths
		Valid   bool
		At      time.Time
		Device  [16]byte
		Raw     []byte
		Tags    []string
		Note    string
	}
	table, err := staging.New(ctx, pool, "readings", staging.Config[reading]{
		Create: true, Key: []string{"sensor"},
		Columns: []staging.Column{
			{Name: "sensor", Type: "bigint"}, {Name: "unit", Type: "text"}, {Name: "celsius", Type: "double precision"},
			{Name: "exact", Type: "numeric(12,3)"}, {Name: "valid", Type: "boolean"}, {Name: "at", Type: "timestamptz"},
			{Name: "device", Type: "uuid"}, {Name: "raw", Type: "bytea"}, {Name: "tags", Type: "text[]"}, {Name: "note", Type: "text"},
		},
		Fill: func(r *reading, row *staging.Row) { // one call for each column, in their order
			row.Int(r.Sensor)
			row.String(r.Unit)
			row.Float(r.Celsius)
			row.Decimal(r.Celsius < 0, r.Millis, 3)
			row.Bool(r.Valid)
			row.Time(r.At)
			row.UUID(r.Device)
			row.Bytes(r.Raw)
			row.Value(r.Tags)
			if r.Note == "" {
				row.Null()
			} else {
				row.String(r.Note)
			}
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	load := staging.Load[reading]{Batch: staging.Batch{ID: staging.NewBatchID(), Records: 1}, Rows: []reading{{
		Sensor: 7, Unit: "C", Celsius: -1.5, Millis: 1500, Valid: true, At: time.Unix(0, 0), Device: [16]byte{15: 1},
		Raw: []byte{0xca, 0xfe}, Tags: []string{"roof", "north"},
	}}}
	if _, err := table.Stage(ctx, load); err != nil {
		fmt.Println(err)
	}
	if _, err := table.Promote(ctx, staging.PromoteOptions{}); err != nil {
		fmt.Println(err)
	}
	var line string
	err = pool.QueryRow(ctx, `SELECT concat_ws(' ', sensor, unit, celsius::numeric, exact, valid, extract(epoch FROM at)::int, device, encode(raw, 'hex'), tags,
		note IS NULL) FROM readings`).Scan(&line)
	fmt.Println(line, err)
	// Output:
	// 7 C -1.5 -1.500 t 0 00000000-0000-0000-0000-000000000001 cafe {roof,north} t <nil>
}
