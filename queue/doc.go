// Package queue is a reliable batched queue on Redis lists.
//
// A consumer of a plain list pops records one by one, and loses the records it holds when it dies.
// Here it leases a sealed batch instead. One script moves up to N of the oldest records, bounded by
// count and bytes, into a list of their own, under a lease that the server's clock times. From then
// on the batch never changes, so everything downstream can be idempotent by its id, a UUIDv7 that
// the client generates for this one lease. Ack ends the batch. Until then it is redelivered whole,
// ahead of fresh records, whenever its lease expires. The attempt number of each lease is the
// fencing token: a suspended worker cannot extend, release or hand off a batch that another worker
// now holds.
//
// The guarantee is at-least-once delivery. The books prove it: Taken = Acked + InFlight + Dead +
// Discarded + Lost, and the scripts that move the records update these counters. A durable ledger
// (package staging) makes it exactly once.
//
// # Failures
//
// Two counters distinguish a batch that workers fail on (Release with a Failure) from one whose
// workers disappear (an expired lease). Waiting for promotion, Reconcile and a Release without a
// Failure do not count. When a counter reaches its limit, the batch is split √n ways, again and
// again, until the bad record is alone. That record goes to the dead-letter list with its reason.
// Nothing ever trims that list. Before each split or burial, [LeaseOptions].Settle makes the batch
// void in the ledger, so that a late copy of it is dropped.
//
// # Keys
//
// All keys have the hash tag {name}, so they share one slot:
//
//	{name}:ready           list  records; LPUSH here from any language
//	{name}:queue:b:<id>    list  a sealed batch, the oldest record at its right end
//	{name}:queue:m:<id>    hash  its metadata; lives exactly as long as the batch (Batch.Guard)
//	{name}:queue:leases    zset  leased batches by deadline
//	{name}:queue:redo      zset  batches to redeliver, by due time
//	{name}:queue:handed    zset  handed-off batches, by hand-off time; they have no deadline
//	{name}:queue:broken    zset  batches set aside because their keys are inconsistent
//	{name}:queue:open      zset  all of these batches, by the time of their seal or requeue
//	{name}:queue:delayed   zset  delayed pushes by due time; their records are in {name}:queue:l:<id>
//	{name}:queue:dead      zset  dead letters by time, each in a hash {name}:queue:d:<id>
//	{name}:queue:pushing   zset  reservations of bounded pushes in progress, by expiry
//	{name}:queue:stat      hash  the books, and the layout version
//	{name}:queue:shards    string  the number of shards, then " keyed" if a key places the records
//	{name}:queue:positions hash  sources of PushFrom, by name
//	{name}:queue:never           never exists; see "Cluster" below
//	{name}:queue:aside:…         keys that Repair has set aside
//
// A program with another layout version gets a [LayoutError] that names both versions: from [New],
// from [Queue.Stats], and from every call that changes anything but the ready list.
//
// # Cost
//
// A Push, a Lease of a fresh batch and an Ack take one round trip each. A redelivered batch takes
// one more, and so does a bounded Push of more than 64 records or 32 kB. A Push of more than a
// megabyte takes several until the speed of the network is known, and on a slow one always. Depth
// does not matter: a lease of n records is O(n); Stats and the Ack of a batch are O(1). Native
// commands move the records (SORT BY nosort … STORE, LTRIM), because records that pass through Lua
// cost several times as much. No script blocks the server for more than a few milliseconds, at any
// size that the API accepts, except for single records of many megabytes. A waiting consumer blocks
// in a BLMOVE that leaves the record where it is, and wakes about a millisecond after a push. Only
// one consumer of a [Queue] blocks at a time. The consumers of a [Queue] request at most eight
// batches of 500 records or more at a time: with more in progress, client and server wait for each
// other.
//
// # Failure modes
//
// If the reply to a lease is lost, the next Lease of the same [Queue] gives the batch back, and no
// crash is counted. If that process has died too, the batch is redelivered after the lease expires.
// That counts as a crash, because the queue cannot tell the two apart. A Redis at maxmemory rejects
// producers (ErrMemory). Consumers drain it, operators can pause, requeue, discard and repair, and
// programs can start; a waiting consumer polls in the meantime. A Redis that evicts keys may lose
// everything: New warns about it or returns an error. A Redis that crashes forgets what it had not
// synced: PushConfig.Durable waits for the disk. Acknowledged writes that a failover loses are
// lost. While a server loads or fails over (LOADING, READONLY), calls retry for up to 30 seconds.
// While it rejects writes (MISCONF, NOREPLICAS), they retry for up to 5 seconds. Later calls
// recover without a restart. When the server's clock is set back, leases and delays keep their
// length; delayed pushes follow the new clock. When it is set forward, leases and delays end early;
// an expired lease counts as a crash.
//
// A batch whose keys were deleted or overwritten is set aside. Audit names it. It is never
// delivered in part. A counter that holds no number stops nothing but bounded pushes (ErrCounter):
// Stats and Audit name it, and Repair recounts it. A record over the server's proto-max-bulk-len or
// client-query-buffer-limit is ErrTooLarge. Where large replies are lost, leases return smaller
// batches: with a client-output-buffer-limit for normal clients below the size of a batch, with a
// small maxmemory-clients, over a slow network. A record whose reply is always lost is
// ErrReplyLimit, and becomes a dead letter when its batch has failed too often.
//
// SWAPDB exchanges the data of two databases under all of its clients. The queue cannot detect it:
// the batches of a worker are then missing, as if another process had acknowledged them, and their
// copy in the other database is delivered again when it comes back. Stop all consumers before a
// SWAPDB.
//
// # Access rights
//
// A user needs no channels, and only the commands of its role. The lines below are for a queue
// named orders, on Redis 7 and later. PushConfig.Durable also needs +waitaof and +exists.
// [NewShards] also needs +get, +set to record the number of shards, and the pattern ~{orders.*}:*
// for the keys of the shards: ~{orders}:* matches none of them. In a cluster, each user also needs
// +cluster|slots and +cluster|shards: the client finds the nodes with them, and without them New
// fails with the MOVED error of a node.
//
//	ACL SETUSER producer on >secret ~{orders}:* +@connection -@dangerous
//	  +eval +evalsha +time +type +hget +hmget +hset +hlen +hincrby +llen +lpush +lpushx +pexpire
//	  +persist +sort +zadd +zcard +zrem +zrangebyscore +info +unlink +memory|usage
//	ACL SETUSER worker on >secret ~{orders}:* +@connection -@dangerous
//	  +eval +evalsha +time +type +exists +hget +hmget +hgetall +hset +hdel +hlen +hincrby +llen
//	  +lpush +lindex +lrange +ltrim +lmove +blmove +rpop +rename +sort +unlink +memory|usage
//	  +getrange +setrange +zadd +zcard +zcount +zrange +zrangebyscore +zrem +zscore +zunionstore
//	  +info +config|get
//	ACL SETUSER promoter on >secret ~{orders}:* +@connection -@dangerous
//	  +eval +evalsha +time +type +exists +hget +hmget +hgetall +hset +hlen +hincrby +llen +lindex
//	  +lrange +lmove +sort +unlink +memory|usage +getrange +setrange +zadd +zcard +zrem +zscan
//	  +zscore +zunionstore +info +config|get
//	ACL SETUSER reader on >secret ~{orders}:* +@connection -@dangerous
//	  +eval +evalsha +time +type +hexists +hget +hmget +hgetall +llen +lrange +pttl +scan +zcard
//	  +zrange +zrangebyscore +zscan +zscore +info
//
// A script checks the rights that it needs before it writes, so a missing one is an error that
// names it and changes nothing. Without EVALSHA, scripts are sent as text.
//
// Without INFO and CONFIG GET, New cannot check whether the server evicts keys. Without SORT or
// MEMORY USAGE, records move one by one, which is several times slower.
//
// # Cluster
//
// A queue lives on one node; [Shards] spreads one over several nodes. The last 14 bits of a batch
// id are the slot of its queue, so each call about a batch goes to the shard that has it. While a
// slot moves, the server rejects every script, and the call retries for up to half a minute. This
// works because every script names a key that never exists. A script that ran with half of its keys
// gone would fail halfway, or mistake missing batches for acknowledged ones.
package queue
