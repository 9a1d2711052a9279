// Package backpressure holds producers back while too many records are waiting. A slow or absent
// consumer then slows the producers down, and does not fill the server's memory.
//
// # Guarantee
//
// The depth never exceeds [Config].High, however many producers there are, if each pushes what it
// was granted, and before its [Reservation].Deadline. Every grant is a reservation on the server.
// It counts like records that are there already, and it is made in the script that reads the depth.
// The push raises the depth before [Reservation.Release] ends the reservation, so a record counts
// twice for a moment, and never zero times. The reservation of a dead producer holds its room until
// it expires. Two kinds of producer can exceed the bound: one that does not ask, and one that is
// frozen between its grant and its push for longer than Config.ReservationTTL. The latter exceeds
// it by its grant at most, and [ErrExpired] reports it.
//
// The gate closes when a request does not fit below High. It opens when depth and reservations have
// fallen to Low. Between the two it stays as it is, so producers do not wake for every single
// record that leaves. Whenever it opens there is room for any request, because no request may be
// larger than High - Low.
//
// Waiting producers are served in the order in which they asked. The server keeps the queue and
// makes the grant on their behalf, so a producer behind a slow network gets its turn like any
// other. A waiting producer that dies loses its place. If it had already been granted room, that
// room is free again after Config.ReservationTTL or twice Config.PollInterval, whichever is
// shorter. When a reservation expires, the next producer is admitted within 50 ms.
//
// The depth is measured and cannot drift. It is the sum of lengths of lists and of hash fields that
// the owner of the data changes in the same script as the data. The script that changes the
// reservations also updates their sums, and [Gate.Audit] recounts them. Depth can be records,
// bytes, or both. A gate can also close on lag, the age of the oldest waiting record, and on the
// memory of the server. These two are brakes and not bounds: records age without any push, and
// others use the memory too.
//
// # Keys
//
// All keys have the hash tag {name}, so they share one slot. The keys of the sources need the same
// tag. No other package uses the prefix {name}:gate:.
//
//	{name}:gate:state    hash: layout version, why the gate is closed, sums of the reservations,
//	                     clock, last ticket
//	{name}:gate:held     sorted set: reservations, by expiry
//	{name}:gate:queue    sorted set: waiting producers, by ticket
//	{name}:gate:waiters  sorted set: the same, by the time at which they lose their place unless
//	                     they poll
//	{name}:gate:never    never exists: while a slot of a cluster moves, it makes a node refuse a
//	                     script as a whole
//	{name}:gate:granted  channel: the ids of waiting producers that were admitted
//
// The keys expire a day after the last call.
//
// # Cost
//
// An Acquire and a Release take one round trip each, so acquire room for a batch and not for each
// record. The scripts read each source once, and their cost does not grow with the number of
// reservations or waiters. One call expires or grants at most 1,000 of them. While producers of a
// process wait, the process holds one more connection for the channel. Consumers pay one round trip
// for a [Gate.Notify]: call it once after the ack of a batch. HighMemory costs an INFO for each
// call.
//
// # Access rights
//
// A user needs the keys of the gate, and read access to its sources:
//
//	ACL SETUSER producer on >… ~{name}:gate:* %R~{name}:* &{name}:gate:granted
//	    +eval +evalsha +time +hmget +hset +hget +llen +exists +zadd +zcard +zrange
//	    +zrangebyscore +zrem +zscore +pexpire +unlink +publish +subscribe +unsubscribe
//
// Consumers that call Notify need the same without +subscribe. Everything works without rights to
// the channel: waiting producers then poll four times a second. HighMemory needs +info. A reader of
// [Gate.Stats] needs +eval +evalsha +time +hmget +hget +llen +exists +zcard +zrange +zrangebyscore,
// and one of [Gate.Audit] also +zscore +type. [Gate.Repair] needs +type and all rights of a
// producer.
//
// # Failure modes
//
// A lost message costs at most Config.PollInterval. When Redis is unavailable, Acquire and
// TryAcquire return its error, and no producer is admitted. The same holds when a source is invalid
// ([ErrSource]) or Config.Lag fails; Release still works in those two cases, and waits a second for
// Config.Lag. When Redis is at maxmemory nothing is granted ("memory"), and the gate stays as it
// is. While a slot of a cluster moves or a server fails over, calls retry for up to half a minute.
//
// When the server's clock is set back, reservations keep their length ([Stats] reports the
// difference). When it is set forward, they expire early.
package backpressure
