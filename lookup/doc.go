// Package lookup keeps reference data in every process' memory, one whole version at a time.
package lookup
