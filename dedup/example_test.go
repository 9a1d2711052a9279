package dedup_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/headrace/headrace/dedup"
)

// A window of ten minutes. Every process that uses the name shares it.
func ExampleNew() {
	redis, stop := redisForExample()
	defer stop()

	d, err := dedup.New(context.Background(), redis, "alarms", dedup.Config{Window: 10 * time.Minute})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(d.Name())
	_, err = dedup.New(context.Background(), redis, "alarms", dedup.Config{Window: time.Microsecond})
	fmt.Println(errors.Is(err, dedup.ErrConfig), err)
	// Output:
	// alarms
	// true dedup: invalid configuration: Config.Window is 1µs, must be 10ms to 9600h0m0s
}

// A batch is delivered twice, as after a crash: its own claims do not make its records duplicates.
// Another batch with one of the ids meets a duplicate.
func ExampleDeduplicator_Claim() {
	redis, stop := redisForExample()
	defer stop()
	ctx := context.Background()

	d, err := dedup.New(ctx, redis, "orders", dedup.Config{Window: time.Hour})
	if err != nil {
		fmt.Println(err)
		return
	}
	first := dedup.Batch{Root: "batch-1", Records: 3}
	for range 2 {
		v, err := d.Claim(ctx, first, nil, []string{"order-1", "order-2", "order-1"})
		fmt.Printf("%v %v\n", v, err)
	}
	v, err := d.Claim(ctx, dedup.Batch{Root: "batch-2", Records: 2}, nil, []string{"order-2", "order-3"})
	fmt.Printf("%v %v\n", v, err)
	// Output:
	// [fresh fresh duplicate] <nil>
	// [fresh fresh duplicate] <nil>
	// [duplicate fresh] <nil>
}

// The guard is a hash that lives as long as the batch. The verdict of a batch that is being
// processed never changes, and a batch that is finished claims nothing.
func ExampleDeduplicator_Claim_guard() {
	redis, stop := redisForExample()
	defer stop()
	ctx := context.Background()

	d, err := dedup.New(ctx, redis, "orders", dedup.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	batch := dedup.Batch{Guard: "{orders}:batch-1", Root: "batch-1", Records: 1}
	redis.Do(ctx, redis.B().Hset().Key(batch.Guard).FieldValue().FieldValue("state", "leased").Build())
	v, err := d.Claim(ctx, batch, nil, []string{"order-1"})
	fmt.Printf("%v %v\n", v, err)
	redis.Do(ctx, redis.B().Del().Key(batch.Guard).Build())
	_, err = d.Claim(ctx, batch, nil, []string{"order-1"})
	fmt.Println(errors.Is(err, dedup.ErrGone))
	// Output:
	// [fresh] <nil>
	// true
}

// A record was rejected, and that is committed: its claim is given back, and the corrected record
// may come.
func ExampleDeduplicator_Release() {
	redis, stop := redisForExample()
	defer stop()
	ctx := context.Background()

	d, err := dedup.New(ctx, redis, "orders", dedup.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	claim := func(batch string) {
		v, err := d.Claim(ctx, dedup.Batch{Root: batch, Records: 1}, nil, []string{"order-1"})
		fmt.Printf("%v %v %v\n", batch, v, err)
	}
	claim("batch-1")
	claim("batch-2")
	released, err := d.Release(ctx, dedup.Claim{Root: "batch-1", Place: 0, ID: "order-1"})
	fmt.Println(released, err)
	claim("batch-3")
	// Output:
	// batch-1 [fresh] <nil>
	// batch-2 [duplicate] <nil>
	// 1 <nil>
	// batch-3 [fresh] <nil>
}

// The script that acknowledges a batch also gives the claims of its rejected records back: compare,
// then overwrite.
func ExampleDeduplicator_Undo() {
	redis, stop := redisForExample()
	defer stop()
	ctx := context.Background()

	d, err := dedup.New(ctx, redis, "orders", dedup.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	batch := dedup.Batch{Root: "batch-1", Records: 2}
	if _, err := d.Claim(ctx, batch, nil, []string{"order-1", "order-2"}); err != nil {
		fmt.Println(err)
		return
	}
	undo, err := d.Undo(ctx, []dedup.Claim{{Root: "batch-1", Place: 1, ID: "order-2"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	const acknowledge = `if redis.call('GETRANGE', KEYS[1], ARGV[1], ARGV[1] + #ARGV[2] - 1) == ARGV[2] then
		redis.call('SETRANGE', KEYS[1], ARGV[1], ARGV[3])
	end
	-- … and remove the batch
	return 'acknowledged'`
	u := undo[0][0]
	reply, err := redis.Do(ctx, redis.B().Eval().Script(acknowledge).Numkeys(1).Key(u.Key).
		Arg(fmt.Sprint(u.Offset), u.Old, u.New).Build()).ToString()
	fmt.Println(reply, err)
	seen, err := d.Seen(ctx, "order-1", "order-2")
	fmt.Println(seen, err)
	// Output:
	// acknowledged <nil>
	// [true false] <nil>
}

// Without batches: mark what arrives.
func ExampleDeduplicator_Mark() {
	redis, stop := redisForExample()
	defer stop()
	ctx := context.Background()

	d, err := dedup.New(ctx, redis, "alarms", dedup.Config{Window: 10 * time.Minute})
	if err != nil {
		fmt.Println(err)
		return
	}
	fresh, err := d.Mark(ctx, "alarm-1", "alarm-2")
	fmt.Println(fresh, err)
	fresh, err = d.Mark(ctx, "alarm-2", "alarm-3")
	fmt.Println(fresh, err)
	// Output:
	// [true true] <nil>
	// [false true] <nil>
}

// Seen asks without claiming.
func ExampleDeduplicator_Seen() {
	redis, stop := redisForExample()
	defer stop()
	ctx := context.Background()

	d, err := dedup.New(ctx, redis, "alarms", dedup.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	if _, err := d.Mark(ctx, "alarm-1"); err != nil {
		fmt.Println(err)
		return
	}
	seen, err := d.Seen(ctx, "alarm-1", "alarm-2")
	fmt.Println(seen, err)
	// Output:
	// [true false] <nil>
}

// An operator lets one id through again.
func ExampleDeduplicator_Forget() {
	redis, stop := redisForExample()
	defer stop()
	ctx := context.Background()

	d, err := dedup.New(ctx, redis, "alarms", dedup.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	if _, err := d.Mark(ctx, "alarm-1"); err != nil {
		fmt.Println(err)
		return
	}
	n, err := d.Forget(ctx, "alarm-1", "alarm-2")
	fmt.Println(n, err)
	fresh, err := d.Mark(ctx, "alarm-1")
	fmt.Println(fresh, err)
	// Output:
	// 1 <nil>
	// [true] <nil>
}

// How many ids are in the window, and what it weighs.
func ExampleDeduplicator_Stats() {
	redis, stop := redisForExample()
	defer stop()
	ctx := context.Background()

	d, err := dedup.New(ctx, redis, "alarms", dedup.Config{ExpectedIDs: 100})
	if err != nil {
		fmt.Println(err)
		return
	}
	if _, err := d.Mark(ctx, "alarm-1", "alarm-2"); err != nil {
		fmt.Println(err)
		return
	}
	s, err := d.Stats(ctx)
	fmt.Println(s.IDs, "ids in", s.Tables, "table:", err)
	// Output:
	// 2 ids in 1 table: <nil>
}

// Clear forgets everything.
func ExampleDeduplicator_Clear() {
	redis, stop := redisForExample()
	defer stop()
	ctx := context.Background()

	d, err := dedup.New(ctx, redis, "alarms", dedup.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	if _, err := d.Mark(ctx, "alarm-1"); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(d.Clear(ctx))
	fresh, err := d.Mark(ctx, "alarm-1")
	fmt.Println(fresh, err)
	// Output:
	// <nil>
	// [true] <nil>
}

// Every copy of an id goes to the same shard, whichever process sends it.
func ExampleShard() {
	for _, id := range []string{"order-1", "order-2", "order-1"} {
		fmt.Println(id, "goes to shard", dedup.Shard(id, 16))
	}
	// Output:
	// order-1 goes to shard 5
	// order-2 goes to shard 6
	// order-1 goes to shard 5
}

// Which record is processed, of all that have an id.
func ExampleDeduplicator_Holders() {
	redis, stop := redisForExample()
	defer stop()
	ctx := context.Background()

	d, err := dedup.New(ctx, redis, "orders", dedup.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	if _, err := d.Claim(ctx, dedup.Batch{Root: "batch-1", Records: 2}, nil, []string{"order-1", "order-2"}); err != nil {
		fmt.Println(err)
	}
	holders, err := d.Holders(ctx, "order-2", "order-3")
	fmt.Println(holders[0].Held, holders[0].Place, holders[0].HeldBy("batch-1"), err)
	fmt.Println(holders[1].Held)
	// Output:
	// true 1 true <nil>
	// false
}

// Another program has overwritten a key of the window with a list.
func ExampleDeduplicator_Audit() {
	redis, stop := redisForExample()
	defer stop()
	ctx := context.Background()

	d, err := dedup.New(ctx, redis, "orders", dedup.Config{Window: time.Hour})
	if err == nil {
		_, err = d.Mark(ctx, "order-1")
	}
	if err != nil {
		fmt.Println(err)
		return
	}
	redis.Do(ctx, redis.B().Del().Key("{orders}:dedup:state").Build())
	redis.Do(ctx, redis.B().Rpush().Key("{orders}:dedup:state").Element("x").Build())

	a, err := d.Audit(ctx)
	fmt.Println(len(a.Differences), errors.Is(a.Balanced(), dedup.ErrDamaged), err)
	// Output: 1 true <nil>
}

// Repair moves the key aside, and the window begins anew.
func ExampleDeduplicator_Repair() {
	redis, stop := redisForExample()
	defer stop()
	ctx := context.Background()

	d, err := dedup.New(ctx, redis, "orders", dedup.Config{Window: time.Hour})
	if err != nil {
		fmt.Println(err)
		return
	}
	redis.Do(ctx, redis.B().Rpush().Key("{orders}:dedup:state").Element("x").Build())

	r, err := d.Repair(ctx)
	fmt.Println(r.Aside, r.After.Balanced(), err)
	fresh, err := d.Mark(ctx, "order-1")
	fmt.Println(fresh, err)
	// Output:
	// [{orders}:dedup:aside:state] <nil> <nil>
	// [true] <nil>
}

// Balanced returns nil for a window that no other program has changed.
func ExampleAuditReport_Balanced() {
	redis, stop := redisForExample()
	defer stop()
	ctx := context.Background()

	d, err := dedup.New(ctx, redis, "orders", dedup.Config{Window: time.Hour})
	if err == nil {
		_, err = d.Mark(ctx, "order-1", "order-2")
	}
	if err != nil {
		fmt.Println(err)
		return
	}
	a, err := d.Audit(ctx)
	fmt.Println(a.Balanced(), a.Stats.IDs, err)
	// Output: <nil> 2 <nil>
}
