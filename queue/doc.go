// Package queue is a reliable batched queue on Redis lists.
//
// A consumer of a plain list pops records one by one, and what it holds when it dies is lost. Here it leases a sealed batch: up to N
// of the oldest records, by count and bytes, moved in one script into a list of their own, under a lease by the server's
// clock. The batch never changes from then on, so whatever comes after can be idempotent by its id, a UUIDv7 that the client makes for
// this one lease. It ends by Ack. Until then it is delivered again, whole and before fresh records, whenever its lease
// runs out; the attempt of each lease is the fencing token that keeps a worker that was asleep from extending, releasing or
// handing off what is another's by now.
//
// The guarantee is at least once, and the books say so: Taken = Acked + InFlight + Dead + Discarded, moved in the same scripts as the
// records. With a durable ledger (package staging) it becomes exactly once.
//
// # Failures
//
// Two counters tell a batch that workers refuse (Release with a Failure) from one whose worker is gone (an expired lease). Waiting for
// promotion, Reconcile and a Release without a Failure count as nothing. At a limit the batch is split √n ways, until what is
// wrong with it stands alone and goes to the dead list, with its reason; nothing ever trims that list. Before each split or burial the callback
// Settle makes the batch void in the ledger, so that a late copy of it is dropped.
//
// # Keys
//
// All in one slot, by the hash tag {name}:
//
//	{name}:ready     list    records; LPUSH here from any language
//	{name}:b:<id>    list    a sealed batch, the oldest record at its right end
//	{name}:m:<id>    hash    what is known of it; it lives exactly as long as the batch (Batch.Guard)
//	{name}:leases    zset    leased batches by deadline
//	{name}:redo      zset    batches to be delivered again, by the earliest time
//	{name}:handed    zset    batches handed off, by when; they have no deadline
//	{name}:open      zset    all of these, by when they came into flight
//	{name}:delayed   zset    pushes for later by time, their records in the lists {name}:l:<id>
//	{name}:dead      zset    dead records by time, each in a hash {name}:d:<id>
//	{name}:stat      hash    the books
//	{name}:never             never exists; see "Cluster" below
//
// # Cost
//
// A Push, a Lease of a fresh batch and an Ack are one round trip each; a redelivered batch is one more. Depth costs nothing: a lease of n records is
// O(n), Stats and the Ack of a batch are O(1). The move is done by single commands (SORT BY nosort … STORE, LTRIM), because
// records that pass through Lua cost several times as much. A waiting consumer blocks in a BLMOVE that leaves the record
// where it is, one consumer of a process at a time, and wakes about a millisecond after a push. Of the consumers of a [Queue] eight
// at a time ask for batches of 500 records or more: more of them under way make both sides wait for each other.
//
// # What fails how
//
// A lost reply costs a redelivery after the lease, and counts as a crash: nobody can tell the two apart. A Redis at maxmemory refuses producers (ErrMemory), and lets consumers
// drain it; one that waits looks by a timer then. A Redis that evicts may lose everything: New warns or refuses. A Redis that crashes forgets what it had not
// synced: PushConfig.Durable waits for the disk. Writes that a failover loses after acknowledging them are lost; nothing here can help.
//
// # Cluster
//
// A queue lives on one node; Shards spreads one over several. While its slot moves, every script is refused and tried again (up to
// half a minute), because each names a key that never exists: a script that ran with half of its keys gone would end in
// its middle, or take batches for acknowledged.
package queue
