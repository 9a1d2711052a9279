// Package dedup drops duplicates by id, exactly, within a sliding window of time.
package dedup
