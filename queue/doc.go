// Package queue is a reliable batched queue on Redis lists.
//
// A consumer of a plain list pops records one by one, and loses what it holds when it dies. Here it
// leases a sealed batch: up to N of the oldest records, bounded by count and bytes, moved in one
// script into a list of their own, under a lease by the server's clock. From then on the batch
// never changes, so everything downstream can be idempotent by its id, a UUIDv7 that the client
// makes for this one lease. The batch ends by Ack. Until then it is delivered again, whole and
// before fresh records, whenever its lease expires. The attempt number of each lease is the fencing
// token: it keeps a worker that was suspended from extending, releasing or handing off a batch that
// another worker holds by now.
//
// The guarantee is at least once, and the books show it:
// Taken = Acked + InFlight + Dead + Discarded + Lost, changed in the same scripts as the records.
// With a durable ledger (package staging) it becomes exactly once.
//
// # Failures
//
// Two counters tell a batch that workers fail on (Release with a Failure) from one whose workers
// disappear (an expired lease). Waiting for promotion, Reconcile and a Release without a Failure
// count as nothing. At a limit the batch is split √n ways, until the bad record is alone and goes
// to the dead-letter list with its reason. Nothing ever trims that list. Before each split or
// burial the callback Settle makes the batch void in the ledger, so that a late copy of it is
// dropped.
//
// # Keys
//
// All keys have the hash tag {name}, so they are in one slot:
//
//	{name}:ready           list  records; LPUSH here from any language
//	{name}:queue:b:<id>    list  a sealed batch, the oldest record at its right end
//	{name}:queue:m:<id>    hash  its meta data; it lives exactly as long as the batch (Batch.Guard)
//	{name}:queue:leases    zset  leased batches by deadline
//	{name}:queue:redo      zset  batches to be delivered again, by the earliest time
//	{name}:queue:handed    zset  batches handed off, by when; they have no deadline
//	{name}:queue:broken    zset  batches set aside because their keys do not fit together
//	{name}:queue:open      zset  all of these, by when they came into flight
//	{name}:queue:delayed   zset  pushes for later by time, their records in {name}:queue:l:<id>
//	{name}:queue:dead      zset  dead letters by time, each in a hash {name}:queue:d:<id>
//	{name}:queue:pushing   zset  reservations of bounded pushes under way, by when they end
//	{name}:queue:stat      hash  the books, and the version of this layout
//	{name}:queue:never           never exists; see "Cluster" below
//
// A program of another layout gets a [LayoutError] that names both versions.
//
// # Cost
//
// A Push, a Lease of a fresh batch and an Ack are one round trip each; a redelivered batch is one
// more, and so is a bounded Push of more than 64 records. Depth costs nothing: a lease of n records
// is O(n), Stats and the Ack of a batch are O(1). Single commands move the records (SORT BY nosort
// … STORE, LTRIM), because records that pass through Lua cost several times as much. No script
// holds the server for more than some milliseconds, at any size that the API accepts, except for
// single records of many megabytes. A waiting consumer blocks in a BLMOVE that leaves the record
// where it is, one consumer of a process at a time, and wakes about a millisecond after a push. The
// consumers of a [Queue] ask for at most eight batches of 500 records or more at a time: more of
// them under way make both sides wait for each other.
//
// # Failure modes
//
// A lost reply costs a redelivery after the lease, and counts as a crash, because the two look the
// same. A Redis at maxmemory refuses producers (ErrMemory) and lets consumers drain it; a waiting
// consumer polls then. A Redis that evicts may lose everything: New warns or refuses. A Redis that
// crashes forgets what it had not synced: PushConfig.Durable waits for the disk. Writes that a
// failover loses after they were acknowledged are lost. While a server loads, fails over or refuses
// writes (LOADING, READONLY, MISCONF, NOREPLICAS), calls retry for some seconds, and later calls
// recover without a restart. When the server's clock is set back, leases and delays keep their
// length; delayed pushes are due by the clock as it is.
//
// A batch of which keys were deleted or overwritten is set aside. Audit names it, and it is never
// delivered in part.
//
// # Access rights
//
// A user needs no channel, and no more commands than its role. The lines below are for a queue
// named orders, on Redis 7 and later; a queue with PushConfig.Durable needs +waitaof +exists
// besides.
//
//	ACL SETUSER producer on >secret ~{orders}:* +@connection -@dangerous
//	  +eval +evalsha +time +type +hget +hmget +hset +hlen +hincrby +llen +lpush +lpushx +pexpire
//	  +persist +zadd +zcard +zrem +zrangebyscore +info +unlink
//	ACL SETUSER worker on >secret ~{orders}:* +@connection -@dangerous
//	  +eval +evalsha +time +type +exists +hget +hmget +hgetall +hset +hdel +hlen +hincrby +llen +lpush
//	  +lindex +lrange +ltrim +lmove +blmove +rpop +rename +sort +unlink +memory|usage +getrange
//	  +setrange +zadd +zcard +zcount +zrange +zrangebyscore +zrem +zscore +zunionstore +info
//	  +config|get
//	ACL SETUSER promoter on >secret ~{orders}:* +@connection -@dangerous
//	  +eval +evalsha +time +type +exists +hget +hmget +hgetall +hset +hlen +hincrby +llen +lindex
//	  +lrange +lmove +sort +unlink +memory|usage +getrange +setrange +zadd +zcard +zrem +zscan
//	  +zscore +zunionstore +info +config|get
//	ACL SETUSER reader on >secret ~{orders}:* +@connection -@dangerous
//	  +eval +evalsha +time +type +hexists +hget +hmget +hgetall +llen +lrange +pttl +scan +zcard
//	  +zrange +zrangebyscore +zscan +zscore +info
//
// Without INFO and CONFIG GET, New cannot see whether the server evicts keys. Without SORT or
// MEMORY USAGE, records are moved one by one, which is several times slower.
//
// # Cluster
//
// A queue lives on one node; [Shards] spreads one over several. While its slot moves, every script
// is refused and tried again, for up to half a minute, because each names a key that never exists:
// a script that ran with half of its keys gone would end in its middle, or take batches for
// acknowledged.
package queue
