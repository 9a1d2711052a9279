// Package window counts and collects events by the time at which they happened, in sorted sets: windows that slide, to ask what
// happened in the last five minutes, and windows that tumble, one after the other, each of which is closed once and handed to one closer.
//
// # Guarantee
//
// An event that [Store.Add] took in is in the window of its time once, however often it is added while the window is there. A tumbling
// window is closed when the key's watermark (its newest event minus Config.Lateness) has passed its end, or when nothing came for the
// key for Config.Idle by the server's clock. From that moment its events never change, so every closer that is given it sees the same. One
// closer has it at a time, under a lease that only the holder of the current attempt can end; if he dies the window is
// redelivered. So a result is delivered at least once, and exactly once if the sink ignores a second result for the same name, key and start.
// Events that come for a closed window are put aside with their reason and not dropped, as are those far ahead of the clock,
// one of which would close everything before it.
//
// # Keys
//
// All in one slot, by the hash tag {name}. A window is called "<start ms> <size ms> <key>".
//
//	{name}:s:<key>     sorted set: the key's events of the last Config.Keep, by time
//	{name}:w:<window>  sorted set: the events of a tumbling window
//	{name}:m:<key>     hash: newest (event) and floor (what being idle has closed up to)
//	{name}:o:<key>     sorted set: the key's open windows, by their end
//	{name}:idle        sorted set: the keys with open windows, by when they last had an event
//	{name}:due         sorted set: closed windows that wait for a closer
//	{name}:closed      hash: closed windows that are not done, with attempt and reason
//	{name}:leases      sorted set: the windows that are with a closer, by the end of the lease
//	{name}:late        sorted set: late events, by when they came
//
// # Cost
//
// Add takes one round trip for 1,000 events or 100 windows, and each event one ZADD, two if windows both slide and tumble.
// Closing moves no event, whatever the window's size: it takes its name from one set to another. A closer reads the events in
// pages of 1,000 and holds one window in memory at a time for each that it leased. No script handles more than a thousand of anything.
//
// # Failure modes
//
// Everything expires: a tumbling window for which no closer comes within Config.Retention of its last event is lost (the next closer
// reports its name to Config.OnError), and a key that rested for longer has forgotten its watermark, so that an event from before
// opens its window again. A retry of an Add after its windows were closed and done puts its events aside as late. At maxmemory Add fails,
// while closing and Done go on. A Redis failover may lose the last events that were added, or deliver a window again.
package window
