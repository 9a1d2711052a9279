// Package window groups events by the time at which they happened. A sliding window answers what
// happened in the last five minutes. Tumbling windows follow one another; each is closed once and
// handed to one closer.
//
// # Guarantee
//
// An event that [Store.Add] accepted is in the window of its time once, however often it is added.
// A repeated Add counts it as repeated, also after the window was closed, for Config.Remember after
// [Store.Done].
//
// A tumbling window closes when the watermark of its key passes its end. The watermark is the
// newest event of the key minus Config.Lateness. It also closes when its key got no event for
// Config.Idle and its end has passed by the server's clock. From then on its events never change,
// so every closer reads the same. One closer has a window at a time, under a lease that only the
// holder of the current attempt can end. If the closer dies, the window is due again. So a result
// is delivered at least once, and exactly once if the sink ignores a second result for the same
// name, key, start and end.
//
// A window at which closers fail waits longer each time, and moves to the dead-letter list after
// Config.MaxFailures. It holds back no other window. Late events, and events too far ahead of the
// clock, are put aside with their reason and the window that they missed.
//
// # Keys
//
// All are in one slot, by the hash tag {name}. No other package uses the prefix {name}:window:. A
// window is called "<start ms> <size ms> <key>".
//
//	{name}:window:meta             hash: layout version, window size, seed, clock, and the books
//	{name}:window:marks:<key>      hash: newest event, up to where idle closed, former sizes
//	{name}:window:open:<key>       sorted set: open windows of the key, by their end
//	{name}:window:info:<window>    hash: state, number of events, attempt, failures, reason
//	{name}:window:events:<window>  sorted set: the events, by time
//	{name}:window:slide:<key>      sorted set: the key's events of the last Config.Keep, by time
//	{name}:window:idle             sorted set: keys with open windows, by their last event
//	{name}:window:due              sorted set: closed windows that wait for a closer, by when they
//	                               are due
//	{name}:window:leases           sorted set: windows that a closer has, by the end of the lease
//	{name}:window:dead             sorted set: windows that failed too often
//	{name}:window:expiry           sorted set: all windows, by when they expire
//	{name}:window:late:            sorted set: late events, by when they came
//	{name}:window:never            never exists: while a slot of a cluster moves, it makes a node
//	                               refuse a script as a whole
//
// A set of more than 2,048 events continues in 64 more keys, "events.17:<window>", chosen by a
// keyed hash of the data. So no key is large, and Redis frees each in a few milliseconds when it
// expires.
//
// # Cost
//
// Add takes one round trip for 500 events, 1 MiB or 100 windows. Its script adds the events of a
// window with one ZADD. Closing moves no event: it takes the window's name from one set to another.
// A closer reads the events in pages of 1,000 or 1 MiB, and keeps the windows that it leased in
// memory. A window that is done keeps its memory for Config.Remember. No script handles more than
// 1,000 events or 200 windows.
//
// # Access rights
//
// A user needs only the keys of the name, and no channel:
//
//	ACL SETUSER events on >… ~{name}:window:*
//	    +eval +evalsha +time +hmget +hget +hset +hdel +hincrby +zadd +zcard +zcount +zrange
//	    +zrangebyscore +zrank +zscore +zmscore +zrem +zremrangebyrank +pexpire +pttl +exists +unlink
//
// A producer needs all of these, because Add closes windows too. A reader of
// [Store.Stats] needs +eval +evalsha +time +hmget +zcard. [Store.Audit] and [Store.Repair] also
// need +scan +zscan +type. Without +info and +config|get New cannot check the eviction policy, and
// does not.
//
// # Failure modes
//
// Everything expires. A tumbling window that no closer takes within Config.Retention of its last
// event is lost; the next closer logs it as an error, and [Stats] counts its events as expired. So
// is a dead window after Config.Retention. A key that rested for longer than twice Config.Retention
// has forgotten its watermark, so an event from before opens its window again.
//
// At maxmemory Add fails, while closing and Done go on. While a slot of a cluster moves, calls
// wait. A Redis failover may lose the last events that were added, or deliver a window again. When
// the server's clock is set back, leases, delays and retentions go on as if it had not been
// ([Stats] has by how much); set forward, they end early. Config.MaxAhead, Config.Keep and the end
// of an idle key's window follow the server's clock as it is.
//
// [Store.Audit] finds keys that someone deleted or changed, and [Store.Repair] mends what it can.
package window
