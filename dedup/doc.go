// Package dedup drops duplicates by id, exactly, within a sliding window of time.
//
// The usual way, SET NX for each record, marks an id as seen before its record is stored. If the
// program dies in between, the record is lost: its redelivered copy counts as a duplicate. Here a
// record claims its id by its place, which is the root batch and the position in it. An id is fresh
// if no place in the window holds it, or if this very place does. So a batch that is redelivered,
// whole or split, finds its own claims fresh, and two copies in one batch are told apart. Nothing
// is probabilistic: a false positive would be a lost record.
//
// # Guarantee
//
// Of all records with one id that are claimed within Config.Window, exactly one place gets
// [VerdictFresh]. With [Batch.Guard] a verdict is final: it is stored with the batch, one byte
// per record, and returned whenever the batch or its children ask again. A batch that no longer
// exists claims nothing ([ErrGone]).
//
// The edge of the window is exact to the millisecond of the server's clock: a claim counts while it
// is younger than Window. Duplicates do not extend it. The window must exceed the age of anything
// that may be in flight.
//
// # Keys
//
// All keys are in the slot of {name}:
//
//	{name}:dedup:state        string  layout version, clock, description of the tables
//	{name}:dedup:t:<id>:i<k>  string  index of a table, up to 12 MB each, four bytes per slot
//	{name}:dedup:t:<id>:<k>   string  log of a table, up to 1 MB each
//	{name}:dedup:never                never exists; see "Failure modes"
//	{name}:dedup:aside:…              keys that Repair has set aside
//
// Verdicts are in the field "r:dedup" of the key [Batch.Guard], which belongs to the queue.
//
// A window usually has one table. Each claim appends the id, its place and the time to the table's
// log. A slot of the index holds the position of the newest log entry whose id hashes to it, and
// each entry holds the position of the next older one. Ids are compared byte by byte. Entries older
// than the window are skipped. Each piece of the log expires an eighth of a window after its last
// claim has left the window, so all of it expires when the stream stops.
//
// # Cost
//
// A call takes one round trip for every 1,000 ids. On Redis 8 it has 0.8 to 0.9 of the rate of
// pipelined HSETNX of the same ids, on Redis 7.0 about 0.7, and with 100 ids in a call 0.64. The
// server is busy for 1 to 2 µs for each new id of 16 characters, 2 to 5 µs for a known one (a
// duplicate, or a batch that is redelivered without a guard), and 50 µs for each command. Ids of a
// kilobyte take four times as much. So a command takes a few milliseconds, and 12 at most.
//
// An id of 16 characters takes 36 to 40 bytes, if the window has as many ids as Config.ExpectedIDs
// or as the previous window had. An id of another length takes 20 to 30 bytes more than its length.
// Each command, and each 8 kB of it, adds 18 bytes. A steady stream keeps an eighth of a window and
// up to 1 MB more. The index is allocated before the first claim, in commands of up to 12 MB: 120
// MB for 10 million ids. When a table becomes too small, a new one takes the claims, and both are
// searched for one window.
//
// SipHash with a secret seed per table spreads the ids, so a sender who chooses ids cannot make
// them share a slot. A table with more than 32 ids in one slot is replaced by one with a new seed.
//
// # Rejected records
//
// [Deduplicator.Undo] returns which bytes the script that acknowledges or buries a batch must
// overwrite, so that a corrected record is accepted. Apply them only after the commit, and in
// one step with the acknowledgement.
//
// # Changes of the configuration
//
// A longer Window takes effect at once, a shorter one after a quarter of the old one, and
// ExpectedIDs with the next table. A change of Digest is rejected ([ErrConfig]) while the window
// has ids.
//
// # Failure modes
//
//   - Redis is unavailable: calls return an error. Nothing passes and nothing is dropped.
//   - A reply is lost: the outcome is unknown, and it is safe to claim again.
//   - Redis crashes with appendfsync everysec: it forgets its last second. If a verdict of another
//     batch depended on a forgotten claim, a record may be duplicated or lost. [Config.Durable]
//     (Redis 7.2 or later with appendonly yes) follows the claims of a call with WAITAOF on the
//     same connection. That takes up to a second per batch; keep several in flight.
//   - A failover or a restored snapshot loses claims: keep a unique key as the second line of
//     defence.
//   - A server that evicts keys may forget claims; see [Config.Eviction].
//   - The index of a table was deleted or evicted: the table is replaced, and [Stats] counts it.
//   - The server's clock is set back: no id leaves the window early. Claims go on aging from where
//     they were, and Stats reports the difference.
//   - The clock jumps ahead by more than the window: the window is empty.
//
// In a cluster one window is one slot. While that slot moves to another node, the server rejects
// every call before it changes anything, because each script names a key that never exists. The
// call retries for up to half a minute. To spread a window, or to hold more than 100 million ids,
// give each [Shard] of the ids a queue and a window of its own.
//
// # Repair
//
// [Deduplicator.Audit] names keys that were deleted, overwritten or kept from expiring by hand.
// [Deduplicator.Repair] mends them or abandons their claims, and every later claim is correct.
//
// # Access rights
//
// A user needs the keys ~{name}:dedup:* and those of the guards, and the commands +eval +evalsha
// +get +set +del +time +exists +hget +hset +getrange +setrange +bitfield +bitfield_ro +pexpire
// +unlink. Audit also needs +scan +type +pttl +strlen, and Repair also +rename. Durable also
// needs +waitaof. New needs +info or +config|get to check whether the server
// evicts keys. After a failover, +quit closes a connection that leads to a replica.
package dedup
