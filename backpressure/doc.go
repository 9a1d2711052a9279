// Package backpressure holds producers back while too much is waiting, so that a slow or absent consumer costs the
// producers their speed and not the server its memory.
//
// # Guarantee
//
// The depth never exceeds [Config].High, however many producers there are, if each of them pushes what it was allowed, and before
// its [Reservation].Deadline. Every permission is a reservation on the server that counts like records that are there already, and it
// is given in one script with the look at the depth; the push then raises the depth before [Reservation.Release] takes the reservation away,
// so a record is counted twice for a moment, and never zero times. A producer that dies leaves a reservation that expires; it holds
// the room until then. What can exceed the bound: a producer that does not ask, and one that is frozen between its permission and
// its push for longer than Config.ReservationTTL, by what it was allowed; [ErrExpired] tells it.
//
// The gate closes when a request does not fit below High, and opens when depth and reservations are down at Low. Between the two it
// stays what it was, so producers are not woken for every single record that leaves. Whenever it opens there is room for any request,
// as none may be larger than High - Low. Who comes first is not promised.
//
// The depth is true: lists are measured, and hash fields are those that the owner of the data moves in the same script as the data.
// The gate keeps no counter, so nothing drifts when a program dies. Depth can be records, bytes, or both. A gate can also
// close on lag, the age of the oldest record that waits, from a sorted set or from any function. Lag is a brake and
// not a bound: records age by themselves.
//
// # Keys
//
// All in one slot, by the hash tag {name}; the sources must wear it too.
//
//	{name}:gate        string: exists while the gate is closed, and says on what; expires a day after the last producer asked
//	{name}:gate:held   sorted set: a reservation each, "id records bytes" by the server's time of its expiry
//	{name}:gate:open   channel: "open" is published when the gate opens
//
// # Cost
//
// One round trip to ask and one to be done, so ask for a batch of records and not for each. A script reads every open
// reservation: a microsecond each. A waiting process holds one connection, for the channel, and looks every Config.PollInterval. Consumers pay one
// round trip a [Gate.Notify]: call it after the ack of a batch.
//
// # Failure modes
//
// A lost message costs at most Config.PollInterval. When Redis is away, Wait and Try return its error: nothing is let through unseen. When
// Redis is at its maxmemory the gate is closed ("memory"), and Notify cannot tell of its opening: waiting producers find it at their next look. When
// Config.Lag fails, so do Wait, Try and Notify.
package backpressure
