// Package backpressure holds producers back while too much is waiting, so that a slow or absent
// consumer costs the producers their speed and not the server its memory.
//
// # Guarantee
//
// The depth never exceeds [Config].High, however many producers there are, if each pushes what it
// was granted, and before its [Reservation].Deadline. Every grant is a reservation on the server.
// It counts like records that are there already, and it is made in the script that reads the depth.
// The push raises the depth before [Reservation.Release] ends the reservation, so a record counts
// twice for a moment, and never zero times. The reservation of a producer that died expires; until
// then it holds its room. The bound can be exceeded by a producer that does not ask, and by one
// that is frozen between its grant and its push for longer than Config.ReservationTTL, by what it
// was granted. [ErrExpired] reports the latter.
//
// The gate closes when a request does not fit below High. It opens when depth and reservations are
// down at Low. Between the two it stays as it was, so producers are not woken for every single
// record that leaves. Whenever it opens there is room for any request, because none may be larger
// than High - Low.
//
// Producers that wait are served in the order in which they asked. The server keeps the queue and
// makes the grant in their name, so a producer behind a slow network gets its turn like any other.
// A waiting producer that died loses its place; if it was granted room before, that room is free
// again after Config.ReservationTTL or two Config.PollInterval, the shorter of them. When a
// reservation expires, the next producer is let through within 50 ms.
//
// The depth is true: lists are measured, and hash fields are those that the owner of the data
// changes in the same script as the data. The sums of the reservations are kept in the script that
// changes them, and [Gate.Audit] recounts them. Depth can be records, bytes, or both. A gate can
// also close on lag, the age of the oldest record that waits, and on the memory of the server.
// These are brakes and not bounds: records age without any push, and others use the memory too.
//
// # Keys
//
// All are in one slot, by the hash tag {name}, and so must the sources be. No other package uses
// the prefix {name}:gate:.
//
//	{name}:gate:state    hash: layout version, why the gate is closed, sums of the reservations,
//	                     clock, last ticket
//	{name}:gate:held     sorted set: a reservation each, by its expiry
//	{name}:gate:queue    sorted set: producers that wait, by their ticket
//	{name}:gate:waiters  sorted set: the same, by when they lose their place unless they poll
//	{name}:gate:never    never exists: while a slot of a cluster moves, it makes a node refuse a
//	                     script as a whole
//	{name}:gate:granted  channel: the ids of waiting producers that were let through
//
// The keys expire a day after the last call.
//
// # Cost
//
// One round trip to ask and one to release, so ask for a batch of records and not for each. The
// scripts read each source once, and their cost does not grow with the number of reservations or
// waiters. One call expires or grants at most 1,000 of them. While producers of a process wait, the
// process holds one more connection for the channel. Consumers pay one round trip for a
// [Gate.Notify]: call it after the ack of a batch. HighMemory costs an INFO for each call.
//
// # Access rights
//
// A user needs the keys of the gate and its sources, and read access to the sources is enough:
//
//	ACL SETUSER producer on >… ~{name}:gate:* %R~{name}:* &{name}:gate:granted
//	    +eval +evalsha +time +hmget +hset +hget +hincrby +llen +exists +zadd +zcard +zrange
//	    +zrangebyscore +zrem +zscore +pexpire +unlink +publish +subscribe +unsubscribe
//
// Consumers that call Notify need the same without +subscribe. Without rights to the channel
// everything works: waiting producers poll four times a second. HighMemory needs +info. A reader of
// [Gate.Stats] needs +eval +evalsha +time +hmget +hget +llen +exists +zcard +zrange +zrangebyscore.
//
// # Failure modes
//
// A lost message costs at most Config.PollInterval. When Redis is away, Acquire and TryAcquire
// return its error: nothing is let through unseen. So it is when a source is invalid ([ErrSource])
// and when Config.Lag fails; Release works even then. When Redis is at maxmemory nothing is granted
// ("memory"), and the gate stays as it was. While a slot of a cluster moves, and for half a minute
// of a failover, calls wait.
//
// When the server's clock is set back, reservations go on as if it had not been ([Stats] has by how
// much). When it is set forward they expire early.
package backpressure
