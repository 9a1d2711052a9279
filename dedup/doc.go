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
// millisecond of the server's clock (in windows over 4.6 hours to a 16-millionth of the window): a claim counts while it
// is younger than Window. Duplicates do not prolong it. The window must exceed the age of what may be in flight.
//
// Keys, all in the slot of {name}: the string {name}:dedup lists the generations, at most one window long each. The
// claims of a generation are in hashes {name}:d:<start>:<bits>, id → 8-byte digest of the place and 3-byte time. Layout
// [Compact] has many small ones, which servers keep as listpacks; how many is fixed when the generation begins, from
// what the last one counted. Everything expires two windows after its generation began, so memory comes back when the
// stream stops. In a stream that goes on, ids stay for one to two windows.
//
// Cost: one round trip a call. An id of 16 characters takes 37 to 40 bytes (Compact) or 60 to 95 (Fast), depending on
// the server. The server is busy for 6 to 12 µs an id (Compact) or 2 to 4 (Fast); nothing else runs
// meanwhile, so split calls of more than some 10,000 ids. Ids of over 64 bytes leave the compact form: see
// [Config.Digest].
//
// Rejected records: [Window.Undo] says which fields the script that acknowledges or buries a batch has to delete, so
// that a corrected record may come again. Only after the commit, and in one step with the acknowledgement.
//
// Failure modes. Redis away: an error; nothing passes and nothing is dropped. A lost reply: the outcome is unknown, and
// claiming again is safe. Redis crashes with appendfsync everysec: it forgets its last second, and a forgotten claim
// on which another batch's verdict rested can double or lose a record. [Config.Strict] (Redis 7.2 or later with
// appendonly yes) follows each claim with WAITAOF on its connection, which costs up to a second a batch; have several
// in flight. A failover or a restored snapshot forgets what it lost: keep a unique key as the second line. A
// server that evicts keys is refused. In a cluster one window is one slot, and while
// that moves to another node every call is refused with the server's TRYAGAIN, before it has changed anything. To spread a window, give each [Shard] of the ids
// a queue and a window of its own.
package dedup
