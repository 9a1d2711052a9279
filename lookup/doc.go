// Package lookup keeps reference data (zip codes, rates, products) in the memory of every process,
// one whole version at a time, so that a stage of a pipeline joins in nanoseconds instead of asking
// Redis three times a record.
//
// A [Table] is read from Postgres ([FromQuery]) or any other source ([Loader]) by [Table.Refresh],
// and written to Redis as a new version. When it is complete and reads back, one script makes it
// the current one; the old one stays for Config.Keep. Each process holds the current version as an
// immutable [Snapshot], and swaps a pointer when the signal arrives. Take the snapshot once a
// batch: the batch then uses one version throughout, and [Snapshot.Version] is its id.
//
// Guarantee: no process ever sees a half-loaded version or a mix of two. Of refreshes at once one
// does the work, and one that slept past its lock changes nothing. "Empty" and "failed" are
// different: an empty source is [ErrEmpty] unless Config.AllowEmpty is set, and a refresh that
// fails leaves the old version in place. With [Table.Run] a new version is in every process some
// milliseconds after its refresh, and within Config.MaxAge when every signal is lost.
//
// Keys of a Table, all in the slot of {name}: the string {name}:lookup:current has "layout version
// entries parts milliseconds"; the hashes {name}:lookup:v:<version>:<part>, with part from 0, hold
// up to Config.Chunk entries each, by default as text and JSON, so that other programs can read
// them too; {name}:lookup:lock is held during a refresh; the signal goes to the channel
// {name}:lookup:changed; {name}:lookup:never never exists. A version that was never finished
// expires after two minutes, the current one never.
//
// Cost: [Snapshot.Get] is one map access, without lock or allocation; [Table.Snapshot] is an atomic
// load. A process that learns of a new version reads it whole, and holds two versions meanwhile. A
// refresh writes and reads each entry once. No command takes longer than one part does: an old
// version expires part by part.
//
// Failure modes. Redis away: the snapshot stays and serves, or [ErrStale] after MaxAge with
// StaleFail. Source away, a NULL or duplicate key, a value that does not encode or decode: the
// error names the table ([ErrNullKey], [ErrDuplicateKey], [EntryError]), and the old version stays.
// A process without a snapshot returns [ErrNotLoaded], never that keys are missing. A part that was
// deleted by hand: [ErrIncomplete] where a process has to read the version; the next refresh mends
// it, and Run does not wait for it to be due. A slot of a cluster that moves: refreshes wait, and
// change nothing by halves. A user without Pub/Sub rights: new versions arrive within MaxAge. Reads
// go to the primary, also where the client reads from replicas.
//
// A [Remote] is for tables that are too large for every process. A look-up is a batched read of
// Redis with the client's cache in front. A key that Redis lacks is read from the source, by one
// caller however many need it, and remembered as missing for a while. It has the same GetMany. Its
// entries are one key each, <name>:lookup:<key>, not fields of a hash: servers track whole keys,
// and a hash that is written now and then would leave every process' cache each time. The keys have
// no hash tag, so a cluster spreads them.
package lookup
