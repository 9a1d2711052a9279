package staging_test

import (
	"context"
	"fmt"

	"github.com/headrace/headrace/staging"
)

// Two lanes: two promotions write into the target at the same time, each in its lane.
func ExampleTable_Lanes() {
	ctx := context.Background()
	pool, drop := exampleDatabase()
	defer drop()

	type visit struct {
		ID   string `db:"id"`
		Page string `db:"page"`
	}
	visits, err := staging.New(ctx, pool, "visits", staging.Config[visit]{Create: true, Key: []string{"id"}, Lanes: 2})
	if err != nil {
		fmt.Println(err)
		return
	}
	for i := range 20 {
		_, err := visits.Stage(ctx, staging.Load[visit]{
			Batch: staging.Batch{ID: staging.NewBatchID(), Records: 1},
			Rows:  []visit{{ID: fmt.Sprintf("v%d", i), Page: "/"}},
		})
		if err != nil {
			fmt.Println(err)
		}
	}

	promoted := make(chan int)
	for lane := 1; lane <= visits.Lanes(); lane++ {
		go func() {
			p, err := visits.Promote(ctx, staging.PromoteOptions{Lane: lane})
			if err != nil {
				fmt.Println(err)
			}
			promoted <- p.Rows
		}()
	}
	fmt.Println(visits.Lanes(), "lanes,", <-promoted+<-promoted, "rows")
	// Output: 2 lanes, 20 rows
}

// A target goes back to one lane. The second one takes no batches any more, is promoted until it is
// empty, and is then gone.
func ExampleRetireLanes() {
	ctx := context.Background()
	pool, drop := exampleDatabase("CREATE TABLE visits (id text PRIMARY KEY)")
	defer drop()

	type visit struct {
		ID string `db:"id"`
	}
	visits, err := staging.New(ctx, pool, "visits", staging.Config[visit]{Key: []string{"id"}, Lanes: 2})
	if err != nil {
		fmt.Println(err)
		return
	}
	for i := range 20 {
		_, err := visits.Stage(ctx, staging.Load[visit]{
			Batch: staging.Batch{ID: staging.NewBatchID(), Records: 1},
			Rows:  []visit{{ID: fmt.Sprintf("v%d", i)}},
		})
		if err != nil {
			fmt.Println(err)
		}
	}

	rows := 0
	for lanes := 2; lanes > 1; {
		if lanes, err = staging.RetireLanes(ctx, pool, "visits", 1); err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(lanes, "lanes")
		for more := true; more; { // what the promoters do anyway
			p, err := visits.Promote(ctx, staging.PromoteOptions{})
			if err != nil {
				fmt.Println(err)
				return
			}
			rows, more = rows+p.Rows, p.More
		}
	}
	fmt.Println(rows, "rows")
	// Output:
	// 2 lanes
	// 1 lanes
	// 20 rows
}
