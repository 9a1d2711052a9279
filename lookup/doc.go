// Package lookup keeps reference data (zip codes, rates, products) in the memory of every process,
// one complete version at a time. A pipeline stage then joins in nanoseconds instead of querying
// Redis three times per record.
//
// [Table.Refresh] reads a [Table] from Postgres ([FromQuery]) or any other source ([Loader]), and
// writes it to Redis as a new version. When the version is complete and has been read back, one
// script makes it the current one. The old version stays for Config.Keep. Each process holds the
// current version as an immutable [Snapshot], and swaps a pointer when the signal arrives. Take the
// snapshot once per batch: then the batch uses one version throughout, and [Snapshot.Version]
// identifies it.
//
// # Guarantee
//
// No process ever sees a half-loaded version or a mix of two. If several processes refresh at the
// same time, one does the work. A refresher that slept past its lock changes nothing. "Empty" and
// "failed" are different: an empty source is [ErrEmpty] unless Config.AllowEmpty is set, and a
// refresh that fails leaves the old version in place. With [Table.Run] a new version reaches every
// process within milliseconds of its refresh, and within Config.MaxAge if every signal is lost.
//
// # Keys
//
// All keys of a Table are in the slot of {name}:
//
//	{name}:lookup:current             string   "layout version entries parts milliseconds"
//	{name}:lookup:v:<version>:<part>  hash     up to Config.Chunk entries; parts count from 0
//	{name}:lookup:lock                string   held during a refresh
//	{name}:lookup:changed             channel  the signal of a new version
//	{name}:lookup:never                        never exists: while a slot of a cluster moves, it
//	                                           makes a node reject a script as a whole
//
// By default keys are stored as text and values as JSON, so that other programs can read them too.
// An unfinished version expires after two minutes, the current one never.
//
// # Cost
//
// [Snapshot.Get] is one map access: it takes no lock and does not allocate. [Table.Snapshot] is an
// atomic load. A process that learns of a new version reads all of it, and holds two versions in
// the meantime. A refresh writes and reads each entry once. No command handles the entries of more
// than one part, and an old version expires part by part.
//
// # Failure modes
//
//   - Redis is unavailable: the process goes on serving its snapshot. With StaleFail it returns
//     [ErrStale] after MaxAge.
//   - Redis is full: refreshes fail and the version stays. A program that starts works with it if
//     it calls [Table.Ensure] instead of [Table.Refresh].
//   - The source fails, has a NULL or duplicate key, or an entry cannot be encoded or decoded: the
//     error names the table ([ErrNullKey], [ErrDuplicateKey], [EntryError]), and the old version
//     stays.
//   - A process has no snapshot: it returns [ErrNotLoaded], and never reports keys as missing.
//   - A part was deleted by hand: a process that has to read the version returns [ErrIncomplete].
//     The next refresh repairs it. If RefreshInterval is set, Run refreshes at once.
//   - A slot of a cluster moves: refreshes wait, and never make half a change.
//   - The user has no Pub/Sub rights: new versions arrive within MaxAge.
//   - The server's clock is set back: a Table refreshes as before. The server keeps entries of a
//     Remote for longer by as much. Forget those that may have changed.
//
// Reads go to the primary, even if the client reads from replicas.
//
// # Remote tables
//
// A [Remote] is for tables that are too large for every process. A look-up is a batched read of
// Redis behind the client's cache. If Redis lacks a key, one caller reads it from the source,
// however many callers need it. A key that the source lacks is remembered as missing for
// RemoteConfig.NegativeTTL. [Remote.GetMany] is called like [Table.GetMany].
//
// Each entry is a key of its own, <name>:lookup:<key>, and not a field of a hash. Servers track
// whole keys, so each write to a hash would invalidate all of it in every process's cache. The keys
// have no hash tag, so a cluster spreads them.
//
// # Access rights
//
// A reader of a Table needs the keys ~{name}:lookup:* and the commands +eval +evalsha +get +time
// +hgetall. A process that refreshes also needs +set +del +hset +hlen +pttl +pexpire +persist
// +unlink, and +scan to find what is left of a version whose description was damaged or deleted; a
// refresh that finds no current version looks through the keys of the server once. The signal needs
// +subscribe or +publish, with &{name}:lookup:changed. A Remote needs the keys ~<name>:lookup and
// ~<name>:lookup:*, and +eval +evalsha +get +mget +set +unlink. Its entries are in the client's
// cache only with +client|caching +multi +exec +pttl as well; without them each look-up asks Redis.
// In a pattern, put a backslash before each *, ?, [, ] and backslash of the name.
package lookup
