// Package dedup drops duplicates by id, exactly, within a sliding window of time.
//
// The usual way, SET NX per record, marks an id as seen before its record is stored: whoever dies in between has lost
// it, for the copy that comes again is taken for a duplicate. Here a record claims its id by its place, the root batch
// and the position in it. An id is fresh if nobody in the window holds it or this very place does, so a batch that is
// delivered again, whole or split, meets its own claims as fresh, and two copies in one batch are told apart.
// Nothing is probabilistic: a false positive would be a lost record.
//
// Guarantee: of all records with one id that are claimed within Config.Window, exactly one place is told [Fresh]. With
// [Batch.Guard] the verdict is given once: it is kept beside the batch, one byte a record, and handed back whenever the
// batch or its children ask again, and a batch that is gone claims nothing ([ErrGone]). The edge is exact to the
// millisecond of the server's clock: a claim counts while it is younger than Window. Duplicates do not prolong it. The
// window must exceed the age of what may be in flight.
//
// Keys, all in the slot of {name}: the string {name}:dedup lists the tables, mostly one. A table is an index, the string
// {name}:d:<id>:i with a number of four bytes in each slot, and a log, the strings {name}:d:<id>:<k> of up to 1 MB, to
// which each claim adds the id, its place and the time. A slot says where in the log the newest id is that hashes to it, and
// each entry says where the next older one is; ids are compared byte by byte. What is
// older than the window is skipped. The log expires piece by piece, an eighth of a window after it was needed last, so all of it does when
// the stream stops.
//
// Cost: one round trip a call, as fast as pipelined HSETNX of the same ids. The server is busy for 1.3 to 2 µs for each new id, 3 to 7 µs
// for one that is known (a duplicate, or a batch that comes again without a guard), and 50 µs a call; nothing else runs meanwhile. An id of
// 16 characters takes 36 to 40 bytes when the window has as many ids as Config.ExpectedIDs says or as the last one had, any other 20 to 30 bytes
// more than its length; each call, and each 8 kB of it, adds 18 bytes. In a
// stream that goes on, an eighth of a window and up to 1 MB more is kept. The index is made at once: for 10 million ids 120 MB,
// which takes the server some 50 ms. When a table is too small, another one takes the claims, and for one window both are asked. Ids are spread by a public
// hash: who may choose them can make many fall into one slot, where each costs the server what all before it do.
//
// Rejected records: [Deduplicator.Undo] says which bytes the script that acknowledges or buries a batch has to overwrite,
// so that a corrected record may come again. Only after the commit, and in one step with the acknowledgement.
//
// Failure modes. Redis away: an error; nothing passes and nothing is dropped. A lost reply: the outcome is unknown, and
// claiming again is safe. Redis crashes with appendfsync everysec: it forgets its last second, and a forgotten claim
// on which another batch's verdict rested can double or lose a record. [Config.Durable] (Redis 7.2 or later with
// appendonly yes) follows each claim with WAITAOF on its connection, which costs up to a second a batch; have several
// in flight. A failover or a restored snapshot forgets what it lost: keep a unique key as the second line. A
// server that evicts keys is refused. A clock that was ahead and is set back makes ids stay duplicates until it is there again, or until [Deduplicator.Clear]. In a cluster one window is one slot, and while
// that moves to another node every call is refused with the server's TRYAGAIN, before it has changed anything. To spread a window, and to hold
// more than 100 million ids, give each [Shard] of the ids a queue and a window of its own.
package dedup
