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
