// Package redisx holds what the Redis packages of headrace do the same way: running scripts,
// retrying what the server refused, waiting for the append-only file, reading from the primary, and
// probing a server at start.
//
// # Scripts
//
// A [Script] runs by EVALSHA and falls back to EVAL when the server does not know it. With
// Call.AllowOOM it carries the header that lets it write while Redis is at maxmemory, if the server
// takes headers (miniredis does not).
//
// # Retries
//
// [Refused] recognizes the errors of a command that the server refused before it began. Only such a
// command is sent again; a lost reply is never retried here, because its outcome is unknown. A
// moving slot, a loading server or a failover is waited for up to half a minute, a refusal that an
// operator must end (MISCONF, NOREPLICAS) for 5 seconds.
//
// This rests on one rule for scripts: each names among its KEYS a key that never exists (the guard
// key). While a slot of a cluster moves, a node runs a script whose named keys are all there, and
// fails at the first other key that has moved away. One named key that is missing makes the node
// refuse the whole script with TRYAGAIN.
//
// # Rights
//
// A script that lacks the right to one of its commands would end in its middle. Scripts that write
// call needs (rights.lua) before their first write. It takes some tenths of a microsecond for each
// command. Where the error of a script does not name the command that is missing, another script
// finds it (lacking.lua).
//
// # READONLY
//
// After a failover that keeps the address, the old primary is a replica. It keeps its connections
// and answers READONLY on them forever. The package closes those connections (QUIT, which needs no
// permission), so that the client dials the address again. Commands of other goroutines that are on
// such a connection in that moment may end in a connection error.
//
// # Reads
//
// A client may send its read-only commands to replicas. [Server.Read] and [Server.ReadAll] send a
// read as a command that the client does not take for one, so it goes to the primary.
package redisx
