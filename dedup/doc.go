// Package dedup drops duplicates by id, exactly, within a sliding window of time.
//
// The usual way, SET NX for each record, marks an id as seen before its record is stored. A
// program that dies in between has lost the record: the copy that is delivered again counts as a
// duplicate. Here a record claims its id by its place, the root batch and the position in it. An
// id is fresh if no place in the window holds it or this very place does. So a batch that is
// delivered again, whole or split, meets its own claims as fresh, and two copies in one batch are
// told apart. Nothing is probabilistic: a false positive would be a lost record.
//
// Guarantee: of all records with one id that are claimed within Config.Window, exactly one place
// gets [VerdictFresh]. With [Batch.Guard] a verdict is final: it is stored beside the batch, one
// byte a record, and returned whenever the batch or its children ask again, and a batch that no
// longer exists claims nothing ([ErrGone]). The edge of the window is exact to the millisecond of
// the server's clock: a claim counts while it is younger than Window. Duplicates do not prolong
// it. The window must exceed the age of anything that may be in flight.
//
// Keys, all in the slot of {name}: the string {name}:dedup:state describes the tables, mostly one,
// and begins with the layout. A table has an index, the strings {name}:dedup:t:<id>:i<k> of up to
// 12 MB with four bytes for each slot, and a log, the strings {name}:dedup:t:<id>:<k> of up to 1
// MB. Each claim appends the id, its place and the time to the log. A slot holds the position in
// the log of the newest id that hashes to it, and each entry the position of the next older one.
// Ids are compared byte by byte. Entries older than the window are skipped. The log expires piece
// by piece, an eighth of a window after its last use, so all of it expires when the stream stops.
// {name}:dedup:never never exists.
//
// Cost: one round trip for each 1,000 ids of a call, as fast as pipelined HSETNX of the same ids.
// The server is busy for 1.3 to 2 µs for each new id, 3 to 5 µs for a known one (a duplicate, or a
// batch that comes again without a guard), and 50 µs a command, so no command takes longer than
// some 7 ms. An id of 16 characters takes 36 to 40 bytes when the window has as many ids as
// Config.ExpectedIDs or as the last window had. Any other id takes 20 to 30 bytes more than its
// length. Each command, and each 8 kB of it, adds 18 bytes. A stream that goes on keeps an eighth
// of a window and up to 1 MB more. The index is made before the first claim, 12 MB a command: for
// 10 million ids 120 MB. When a table is too small, another one takes the claims, and for one
// window both are searched. Ids are spread by SipHash with a secret seed for each table, so a
// sender who chooses ids cannot make them share a slot; a table with a slot of more than 32 ids is
// replaced by one with another seed.
//
// Rejected records: [Deduplicator.Undo] returns which bytes the script that acknowledges or buries
// a batch must overwrite, so that a corrected record may come again. Do that only after the
// commit, and in one step with the acknowledgement.
//
// Changes of the configuration: a longer Window takes effect at once, a shorter one after a
// quarter of the old one, ExpectedIDs with the next table. Another Digest is refused ([ErrConfig])
// as long as the window has ids.
//
// Failure modes. Redis away: an error; nothing passes and nothing is dropped. A lost reply: the
// outcome is unknown, and it is safe to claim again. Redis crashes with appendfsync everysec: it
// forgets its last second, and a forgotten claim on which another batch's verdict rested can
// double or lose a record. [Config.Durable] (Redis 7.2 or later with appendonly yes) follows the
// claims of a call with WAITAOF on their connection, which costs up to a second a batch; keep
// several in flight. A failover or a restored snapshot forgets what it lost: keep a unique key as
// the second line. A server that evicts keys may forget claims; see [Config.Eviction]. A table
// whose index was deleted or evicted is replaced, and [Stats] counts it. A clock that is set back
// makes no id leave the window early; claims age on from where they were, and Stats reports the
// difference. A clock that jumps ahead by more than the window empties it. In a cluster one window
// is one slot. While that slot moves to another node, the server refuses every call before it
// changes anything, and the call waits up to half a minute. To spread a window, and to hold more
// than 100 million ids, give each [Shard] of the ids a queue and a window of its own.
//
// Access rights: the keys ~{name}:dedup:* and those of the guards, and the commands +eval +evalsha
// +get +set +del +time +exists +hget +hset +getrange +setrange +bitfield +bitfield_ro +pexpire
// +unlink; +waitaof for Durable; +info or +config|get to find out that the server evicts keys;
// +quit to leave a connection to a replica after a failover.
package dedup
