// Package lookup keeps reference data (zip codes, rates, products) in every process' memory, one whole version at a
// time, so that a stage of a pipeline joins in nanoseconds instead of asking Redis three times a record.
//
// A [Table] is read from Postgres ([FromQuery]) or anything else ([Loader]) by [Table.Refresh] and written to Redis as
// a new version. When it is complete and reads back, one script makes it the current one; the old one stays for
// Config.Keep. Each process holds the current version as an immutable [Snapshot] and swaps a pointer when the signal
// comes. Take the snapshot once a batch: then the batch sees one version throughout, and [Snapshot.Version] names it.
//
// Guarantee: nobody ever sees a half-loaded version or a mix of two. Of refreshes at once one does the work, and
// one that slept past its lock changes nothing. "Empty" and "failed" are different: an empty source is [ErrEmpty] unless
// Config.AllowEmpty is set, and whatever fails leaves the old version in place. With [Table.Run] a new version is in
// every process some milliseconds after its refresh, and within Config.MaxAge when every signal is lost.
//
// Keys, in the slot of {name}: the string {name}:lookup says "version entries milliseconds"; the hash
// {name}:lookup:v:<version> has the entries, by default as text and JSON, so that other programs can read them too;
// {name}:lookup:lock is held during a refresh; the signal goes to the channel {name}:lookup:changed. A version that
// was never finished expires after two minutes, the current one never.
//
// Cost: [Snapshot.Get] is one map access, without lock or allocation; [Table.Snapshot] an atomic load. A process that
// is told of a new version reads it whole, by HSCAN, and holds two versions meanwhile. A refresh writes and reads
// each entry once.
//
// Failure modes. Redis away: the snapshot stays and serves, or [ErrStale] after MaxAge where Config.Stale is Fail. Source
// away, a NULL or duplicate key, a value that does not encode or decode: a named error ([ErrNullKey], [ErrDuplicateKey],
// [EntryError]) and the old version. A process without a snapshot says [ErrNotLoaded], never that keys are missing.
//
// A [Remote] is for tables too large for every process: look-ups are batched reads of Redis with the client's cache
// in front, misses are read through from the source, once however many ask, and remembered as missing for a while.
// It has the same GetMany. Its entries are one key each, not fields of a hash: servers track whole keys, and a hash
// that is written now and then would be dropped from every process' cache each time.
package lookup
