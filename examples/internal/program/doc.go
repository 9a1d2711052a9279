// Package program holds what the example programs share: signals and exit codes, flags, and
// connections to the two stores.
//
// A program's main is one line:
//
//	func main() { program.Main("producer", run) }
//
// [Main] ends the context of run when the program receives a signal to stop, when its terminal
// closes, or when the reader of its output goes away, so that run can finish its work and clean up.
// [Flags] names the nearest flag for an unknown one and the range for a bad value. [Program.Redis]
// and [Program.Postgres] wait for a server that is starting up and explain every other failure in
// one line.
package program
