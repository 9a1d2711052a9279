// Package window groups events by the time at which they happened. A sliding window returns the
// events of the last five minutes, for example. Tumbling windows follow one another; each is closed
// once and handed to one closer.
//
// # Guarantee
//
// An event that [Store.Add] accepted is in the window of its time exactly once, however often it is
// added. A repeated Add counts it as repeated, even after the window was closed, until
// Config.Remember after [Store.Done].
//
// A tumbling window closes when the watermark of its key passes its end. The watermark is the
// newest event of the key minus Config.Lateness. It also closes when its key has received no event
// for Config.Idle and its end has passed by the server's clock. From then on its events never
// change, so every closer reads the same ones. One closer at a time holds a window, under a lease
// that only the holder of the current attempt can end. If the closer dies, the window becomes due
// again. So a result is delivered at least once, and exactly once if the sink ignores a second
// result for the same name, key, start and end.
//
// A window that closers fail on waits longer each time, and moves to the dead-letter list after
// Config.MaxFailures. It does not delay other windows. Late events, and events too far ahead of the
// clock, are set aside, with the reason and the window that they missed.
//
// # Keys
//
// All keys have the hash tag {name}, so they share one slot. No other package uses the prefix
// {name}:window:. A <window> below is "<start ms> <size ms> <key>".
//
//	{name}:window:meta             hash: layout version, sizes, seed, clock, and the books
//	{name}:window:marks:<key>      hash: newest event, watermark, end of Idle, former sizes
//	{name}:window:open:<key>       sorted set: open windows of the key, by their end
//	{name}:window:info:<window>    hash: state, number of events, attempt, failures, reason
//	{name}:window:events:<window>  sorted set: the events, by time
//	{name}:window:slide:<key>      sorted set: the key's events of the last Config.Keep, by time
//	{name}:window:idle             sorted set: keys with open windows, by their last event
//	{name}:window:due              sorted set: closed windows that wait for a closer, by due time
//	{name}:window:leases           sorted set: windows that a closer holds, by the end of the lease
//	{name}:window:dead             sorted set: windows that failed too often
//	{name}:window:expiry           sorted set: all windows, by expiry
//	{name}:window:late:            sorted set: late events, by arrival
//	{name}:window:never            never exists: while a slot of a cluster moves, it makes a node
//	                               refuse a script as a whole
//
// A set of more than 2,048 events continues in 64 more keys, "events.17:<window>", chosen by a
// keyed hash of the data. A set of more than 16,384 windows or keys does the same: "due.17",
// "open.17:<key>". So no key is large, and Redis frees each one in a few milliseconds when it
// expires.
//
// # Cost
//
// Add takes one round trip for every 500 events, 1 MiB or 100 windows. Its script adds the events
// of a window with one ZADD. Closing moves no events: it moves the window's name from one set to
// another. A closer reads the events in pages of 1,000 events or 1 MiB, and keeps its leased
// windows in memory. A window that is done keeps its memory in Redis for Config.Remember. No script
// handles more than 1,000 events or 200 windows.
//
// # Access rights
//
// A user needs only the keys of the name, and no channels:
//
//	ACL SETUSER events on >… ~{name}:window:*
//	    +eval +evalsha +time +hmget +hget +hset +hdel +hincrby +zadd +zcard +zcount +zrange
//	    +zrangebyscore +zrank +zscore +zmscore +zrem +zremrangebyrank +pexpire +pttl +unlink
//
// A producer needs all of these, because Add closes windows too. A [Reader] needs only
//
//	+eval +evalsha +time +hmget +hget +zcard +zcount +zrange +zrank +zscore
//
// [Store.Audit] and [Store.Repair] also need +scan +zscan +type +pttl. Without +info and
// +config|get, New skips the check of the eviction policy.
//
// # Failure modes
//
// Everything expires. A tumbling window that no closer takes within Config.Retention of its last
// event is lost; the next closer logs it as an error, and [Stats] counts its events as expired. The
// same happens to a dead window after Config.Retention. The watermark of a key expires after it has
// been idle for twice Config.Retention; after that, an older event opens its window again.
//
// The sets that all windows share expire when no program has used the name for twice
// Config.Retention: those of a million abandoned windows key by key, within 40 s.
//
// At maxmemory Add fails, while closing and Done continue. While a slot of a cluster moves, calls
// wait. A failover of Redis may lose the events added last, or deliver a window again. When the
// server's clock is set back, leases, delays and retentions keep their length ([Stats] reports the
// difference). When it is set forward, they end early. Config.MaxAhead, Config.Keep and the end of
// an idle key's window follow the server's clock.
//
// [Store.Audit] finds keys that were deleted or changed by hand, and [Store.Repair] mends what it
// can.
package window
